"""Where a benchmark's files lie on this machine (``local_datasets.toml``), and the shape of their rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from crosstune.data.example import Split
from crosstune.data.tables import BadRow, Row, Rows, changed, read_rows
from crosstune.errors import UserError
from crosstune.files import table_beside
from crosstune.languages.table import lookup

Reader = Callable[[Path], Rows]


@dataclass(frozen=True)
class FileLayout:
    """One published form of a split."""

    # Below the data folder, with ``{code}`` for the language and ``*`` for anything in a name. Several
    # files that match are read one after the other.
    files: str
    # That must be there, by default those renamed; all columns in a file without a header.
    columns: tuple[str, ...] = ()
    header: bool = True  # whether the first line names the columns
    rename: Mapping[str, str] = field(default_factory=dict)  # the task's own column name by the published one
    language: str | None = None  # of files without ``{code}``; the source language by default
    # That holds each row's language code, in a file of many languages; then ``language`` is unused.
    column: str | None = None
    read: Reader | None = None  # for files that are no plain table, instead of `read_rows`

    def rows(self, path: Path) -> Rows:
        """Rows of one file, under the task's column names."""
        columns = self.columns or tuple(self.rename)
        rows = self.read(path) if self.read is not None else read_rows(path, columns, header=self.header)
        return renamed(rows, self.rename) if self.rename else rows


@cache
def local_datasets() -> dict[str, Any]:
    """The parsed ``local_datasets.toml``; callers do not change it."""
    return table_beside(__file__, "local_datasets.toml")


def local_layouts(dataset: str, **readers: Reader) -> dict[Split, tuple[FileLayout, ...]]:
    """Layouts of a dataset's splits in ``local_datasets.toml``, which names its readers."""

    def layouts(entry: dict[str, Any]) -> list[FileLayout]:
        patterns = [entry["files"]] if isinstance(entry["files"], str) else entry["files"]
        more = {key: tuple(value) if key == "columns" else value for key, value in entry.items()}
        more["read"] = readers[entry["read"]] if "read" in entry else None
        return [FileLayout(**(more | {"files": pattern})) for pattern in patterns]

    splits: dict[Split, list[dict[str, Any]]] = local_datasets()[dataset]
    return {split: tuple(x for entry in some for x in layouts(entry)) for split, some in splits.items()}


@dataclass(frozen=True)
class Place:
    """Files of one split in one language."""

    layout: FileLayout  # their form
    paths: tuple[Path, ...]  # the files, read one after the other
    code: str | None = None  # what the dataset calls the language, where rows of many languages mix

    def rows(self) -> Rows:
        """Rows in the place's language, and those that cannot be read."""
        column = self.layout.column or ""
        for path in self.paths:
            for row in self.layout.rows(path):
                if self.code is None or isinstance(row, BadRow) or row.fields.get(column) == self.code:
                    yield row


def find_places(root: Path, layouts: Sequence[FileLayout], source_language: str) -> dict[str, Place]:
    """Local files of one split by language; the first layout that has a language is used.

    Files whose layout names no language are in the source language.
    """
    places: dict[str, Place] = {}
    for layout in layouts:
        by_language: dict[str, list[Path]] = {}
        shape = _path_pattern(layout.files)
        for path in _matches(root, layout.files.replace("{code}", "*")):
            match = shape.fullmatch(path.relative_to(root).as_posix())
            if match is None or (not path.is_file() and not path.suffix):
                continue
            if not path.is_file():
                raise UserError(
                    f"{path} is where {layout.files} has a file, and is none; mend it or move it away"
                )
            code = match.groupdict().get("code")
            language = layout.language or source_language if code is None else _canonical(code)
            if language is not None:
                by_language.setdefault(language, []).append(path)
        if layout.column is not None:
            paths = tuple(path for files in by_language.values() for path in files)
            rows = [row for path in paths for row in layout.rows(path)]
            unusable = [row for row in rows if isinstance(row, BadRow)]
            if unusable and len(unusable) == len(rows):
                raise unusable[0]  # else the file would count as one that is not there
            codes = dict.fromkeys(row.fields.get(layout.column) for row in rows if isinstance(row, Row))
            for code in codes:
                if isinstance(code, str) and (language := _canonical(code)) is not None:
                    places.setdefault(language, Place(layout, paths, code))
            continue
        for language, files in by_language.items():
            places.setdefault(language, Place(layout, tuple(files)))
    return places


def _matches(root: Path, pattern: str) -> list[Path]:
    """Sorted paths as `Path.glob` finds them, which passes over folders that it cannot read.

    Raises:
        UserError: Such a folder, unless its name is that of no language.
    """
    reached = [(root, True)]
    for part in PurePosixPath(pattern).parts:
        inside: list[tuple[Path, bool]] = []
        for folder, known in reached:
            try:
                if "*" in part:
                    names = [path.name for path in folder.iterdir() if fnmatchcase(path.name, part)]
                    inside += [(folder / name, known and _canonical(name) is not None) for name in names]
                else:
                    (folder / part).lstat()
                    inside.append((folder / part, known))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if known:
                    why = error.strerror or error
                    raise UserError(
                        f"{folder}: cannot be read ({why}), and {pattern} may be in it"
                    ) from error
        reached = inside
    return sorted(path for path, _ in reached)


def renamed(rows: Rows, names: Mapping[str, str]) -> Rows:
    """The same rows with columns under other names."""

    def under_names(row: Row) -> Row:
        return Row(row.path, row.line, {names.get(key, key): value for key, value in row.fields.items()})

    return changed(rows, under_names)


def labelled(rows: Rows, labels: Sequence[str]) -> Rows:
    """The same rows with numbers in a ``label`` column replaced by words; other numbers stay."""

    def in_words(row: Row) -> Row:
        number = row.fields.get("label")
        if isinstance(number, int) and 0 <= number < len(labels):
            return row.with_fields(label=labels[number])
        return row

    return changed(rows, in_words)


def _path_pattern(files: str) -> re.Pattern[str]:
    """Regular expression of a layout's paths; a code that occurs twice is the same both times."""
    first, *rest = re.escape(files).replace(r"\*", r"[^/]*").split(r"\{code\}", maxsplit=1)
    named = [r"(?P<code>[\w-]+)" + part.replace(r"\{code\}", r"(?P=code)") for part in rest]
    return re.compile(first + "".join(named))


def _canonical(code: str) -> str | None:
    language = lookup(code)
    return None if language is None else language.code
