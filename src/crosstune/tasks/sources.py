"""Published benchmark files on this machine: where they lie, and how a damaged one is reported."""

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crosstune.errors import UserError, did_you_mean

DATA_VARIABLE = "CROSSTUNE_DATA"
DEFAULT_DATA = "../shared/data"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        path: The file.
        line: Its line in the file, from 1.
        fields: Text by column name, as published.
    """

    path: Path
    line: int
    fields: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.fields[column]

    def error(self, message: str) -> UserError:
        """A `UserError` that names this row's file and line."""
        return UserError(f"{self.path}:{self.line}: {message}")


def data_root(option: str | None) -> Path:
    """The folder that holds the benchmarks: the task's ``data`` option, else $CROSSTUNE_DATA, else a default.

    Raises:
        UserError: No such folder.
    """
    root = Path(option or os.environ.get(DATA_VARIABLE) or DEFAULT_DATA).expanduser()
    if not root.is_dir():
        raise UserError(
            f"no data folder {root}: set {DATA_VARIABLE}, or the task's option data, to the folder of the "
            "benchmark files"
        )
    return root


def read_lines(path: Path) -> list[str]:
    r"""Lines of a UTF-8 file, split at "\n" only (a text may hold other Unicode line breaks).

    Raises:
        UserError: No such file, or a line is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    lines = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            lines.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line)") from error
    if lines[-1] == "":
        lines.pop()
    return lines


def read_tsv(path: Path, columns: Sequence[str], *, header: bool = True) -> list[Row]:
    """Rows of a tab-separated file, quoted as CSV is or not quoted at all, as each line was published.

    Args:
        path: The file.
        columns: With a header, the columns that must be there (others are allowed and kept); without one,
            the names of all columns in order.
        header: Whether the first line names the columns.

    Raises:
        UserError: Unreadable or empty file, missing column, a line with too few or too many fields.
    """
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path} is empty: expected a table with the columns {', '.join(columns)}")
    names = _split(lines[0]) if header else list(columns)
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(f"{path}:1: no column {', '.join(missing)}; the first line is {lines[0][:120]!r}")
    rows = []
    for number, line in enumerate(lines[1:] if header else lines, start=2 if header else 1):
        fields = _split(line)
        if len(fields) != len(names):
            raise UserError(f"{path}:{number}: {len(fields)} fields where {len(names)} were expected")
        rows.append(Row(path, number, dict(zip(names, fields, strict=True))))
    return rows


def _split(line: str) -> list[str]:
    """Fields of one line.

    A stray quote in an unquoted file must not swallow the lines after it, so each line is read alone, and
    one that is not well-formed CSV is taken as it stands.
    """
    if '"' not in line:
        return line.split("\t")
    try:
        fields: list[str] = next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error:
        return line.split("\t")
    return fields


def missing_language(task: str, language: str, offered: Sequence[str]) -> UserError:
    """The error for a language a task's source lacks: how many it has, and the nearest."""
    return UserError(
        f'task {task} has no "{language}" among its {len(offered)} languages{did_you_mean(language, offered)}'
    )


def fair_order(key: str) -> bytes:
    """Sort key that shuffles by content: the same in every language, process and machine.

    Files are often sorted by label; in this order the first n examples of a split are a fair sample of it.
    """
    return hashlib.sha256(key.encode()).digest()
