"""Where unlabelled text comes from: UDHR, Tatoeba, a folder of files, a dataset on the hub.

A source gives, by canonical code of a language, what reads its lines.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from crosstune.config.environment import data_root
from crosstune.data.hub import fetch_files
from crosstune.data.source import FileLayout, Place, find_places
from crosstune.data.tables import BadRow, Row, Rows, read_lines, read_rows, usable
from crosstune.errors import UserError
from crosstune.files import as_text, read_bytes, user_path
from crosstune.languages.table import LANGUAGES, lookup

Lines = Callable[[], tuple[Iterable[str], dict[str, object]]]
"""Reads the lines of one language; with them what to record of where they came from."""

HUB = "hub:"
UDHR = "udhr/udhr2.zip"
MOST_UNPACKED = 2**24
"""Bytes of one declaration: the longest has 66,000."""


def tatoeba(data: str | None) -> Mapping[str, Lines]:
    """Sentences of Tatoeba's test set (Artetxe and Schwenk 2019), English from all pairs."""
    layouts = (
        FileLayout("tatoeba/tatoeba.{code}-eng.{code}", read=_plain),
        FileLayout("tatoeba/tatoeba.*-eng.eng", read=_plain),
    )
    return _local(data_root(data), layouts, "tatoeba")


def udhr(data: str | None) -> Mapping[str, Lines]:
    """The Universal Declaration of Human Rights, about 11,000 characters a language."""
    file = data_root(data) / UDHR
    raw = read_bytes(file)
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
        names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
    except zipfile.BadZipFile as error:
        raise UserError(f"{file}: no zip file ({error}); fetch it again") from None

    def read(name: str) -> tuple[Iterable[str], dict[str, object]]:
        try:
            with archive.open(name) as stream:
                content = stream.read(MOST_UNPACKED)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
            raise UserError(f"{file}: {name} cannot be unpacked ({error}); fetch it again") from None
        return as_text(content, file / name).splitlines(), {"files": [f"{UDHR}/{name}"]}

    sources: dict[str, Lines] = {}
    # "deu_1901" is a second text of its language, "lin_tones" another spelling. Greek, Haitian, Chichewa and
    # Persian have second texts alone: the first of them ("ell_monotonic") is today's spelling.
    stems = {name: PurePosixPath(name).stem for name in names}
    by_name = {name: _code(stem) for name, stem in stems.items()}
    others = {name: _code(stems[name].partition("_")[0]) for name, code in by_name.items() if code is None}
    for name, code in (*by_name.items(), *others.items()):
        if code is not None:
            sources.setdefault(code, partial(read, name))
    return sources


def folder(path: Path, files: str | None, column: str) -> Mapping[str, Lines]:
    """A user's own files, one or several a language."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder; text: takes udhr, tatoeba, a folder or hub:<owner>/<name>")
    patterns = (files,) if files else ("{code}.txt", "{code}/*.txt", "{code}.jsonl", "{code}.parquet")
    read = partial(_rows, column=column)
    layouts = [FileLayout(pattern, (column,), read=read) for pattern in patterns]
    return _local(path, layouts, ", ".join(patterns))


def hub(repo: str, files: str, column: str, revision: str) -> Mapping[str, Lines]:
    """A dataset on the hub; whether it has a language is known when its files are fetched."""

    def read(code: str) -> tuple[Iterable[str], dict[str, object]]:
        language = LANGUAGES[code]
        names = {"code": code, "iso639_3": language.iso639_3, "flores": language.flores}
        pattern = files
        for name, value in names.items():
            pattern = pattern.replace(f"{{{name}}}", value)
        got = fetch_files(repo, pattern, revision)
        rows = (row for path in got.paths for row in read_rows(path, (column,)))
        facts: dict[str, object] = {
            "repo": got.repo,
            "commit": got.commit,
            "files": [path.name for path in got.paths],
        }
        return _texts(rows, column), facts

    return {code: partial(read, code) for code in LANGUAGES}


def _local(root: Path, layouts: Iterable[FileLayout], wanted: str) -> Mapping[str, Lines]:
    places = find_places(root, list(layouts), "en")
    if not places:
        raise UserError(f"{root}: no unlabelled text in it; looked for {wanted}")

    def read(place: Place) -> tuple[Iterable[str], dict[str, object]]:
        names = [path.relative_to(root).as_posix() for path in place.paths]
        column = (*place.layout.columns, "text")[0]
        return _texts(place.rows(), column), {"files": names}

    return {code: partial(read, place) for code, place in places.items()}


def _texts(rows: Rows, column: str) -> Iterator[str]:
    for row in usable(rows):
        if isinstance(value := row.fields.get(column), str):
            yield from value.splitlines()
        else:
            raise row.error(f"{column} is no text")


def _rows(path: Path, column: str) -> Rows:
    return _plain(path) if path.suffix == ".txt" else read_rows(path, (column,))


def _plain(path: Path) -> Rows:
    """Lines of a file without columns, as rows of one."""
    for number, line in enumerate(read_lines(path), start=1):
        yield line if isinstance(line, BadRow) else Row(path, number, {"text": line})


def _code(name: str) -> str | None:
    language = lookup("twi" if name == "aka_asante" else name)
    return None if language is None else language.code


def source_of(
    source: str, data: str | None, files: str | None, column: str, revision: str
) -> Mapping[str, Lines]:
    """What reads each language of a source, as `TextOptions` names it.

    Raises:
        UserError: There is no such source, or nothing in it.
    """
    if source in ("udhr", "tatoeba"):
        return (udhr if source == "udhr" else tatoeba)(data)
    if source.startswith(HUB):
        if not files:
            raise UserError(f'text: {source} needs files:, such as "20231101.{{code}}/*.parquet"')
        return hub(source.removeprefix(HUB), files, column, revision)
    return folder(user_path(source), files, column)
