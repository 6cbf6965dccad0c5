"""Reads published data files row by row: tab-separated, CSV, JSON, JSON lines, parquet, Arrow.

An unreadable row is returned as a `BadRow` in its place, so that a caller can stop at it, or count and skip
it. A fault of the file itself is a `UserError` at once.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import polars as pl

from crosstune.errors import UserError, first_line
from crosstune.files import open_file, read_bytes, read_text

LARGEST_ROW = 1_000_000
"""Bytes. No benchmark has a row near it; a file that lost its line breaks does."""


class BadRow(UserError):  # noqa: N818 - it is a row as much as an error
    """One row that cannot be used: a task stops at it, or counts and skips it (``on_bad_rows``)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    path: Path  # the file
    line: int  # its line in the file, from 1 (of a parquet file, the row)
    fields: dict[str, Any]  # by column name, as published: texts, or in JSON and parquet whatever is there

    def __getitem__(self, column: str) -> Any:
        return self.fields[column]

    def text(self, column: str) -> str:
        """A column's text without surrounding white space.

        Raises:
            BadRow: It is missing, no text, or empty.
        """
        value = self.fields.get(column)
        if not isinstance(value, str):
            what = "missing" if value is None else f"{_shown(value)} where a text was expected"
            raise self.error(f"{column} is {what}")
        if not value.strip():
            raise self.error(f"empty {column}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"{column} holds half a character (U+{ord(value[error.start]):04X})") from None
        return value.strip()

    def with_fields(self, **values: Any) -> "Row":
        """The same row with other values in some columns."""
        return Row(self.path, self.line, self.fields | values)

    def error(self, message: str) -> BadRow:
        """The error that names this row's file and line."""
        return BadRow(f"{self.path}:{self.line}: {message}")


Rows = Iterable[Row | BadRow]


def usable(rows: Rows) -> Iterator[Row]:
    """The same rows; the first that cannot be read is raised as the `BadRow` that it is."""
    for row in rows:
        if isinstance(row, BadRow):
            raise row
        yield row


def changed(rows: Rows, change: Callable[[Row], Row]) -> Iterator[Row | BadRow]:
    """The same rows, with ``change`` applied to those that can be read."""
    return (change(row) if isinstance(row, Row) else row for row in rows)


def read_rows(path: Path, columns: Sequence[str], *, header: bool = True) -> list[Row | BadRow]:
    """Rows of a table, by the end of its name: .tsv or .txt (tabs), .csv, .jsonl, .json, .parquet, .arrow.

    ``columns`` must be there (others are kept); in a file without a ``header`` they are all columns, in
    order. In JSON, parquet and Arrow a column may be inside another (`nested`).

    Raises:
        UserError: The file cannot be read, is empty, lacks a column, or its format is not known.
    """
    readers: dict[str, Callable[[], list[Row | BadRow]]] = {
        ".tsv": lambda: _table(path, columns, header, _tabs),
        ".txt": lambda: _table(path, columns, header, _tabs),
        ".csv": lambda: _table(path, columns, header, _commas),
        ".jsonl": lambda: _json_lines(path, columns),
        ".json": lambda: _json_list(path, columns),
        ".parquet": lambda: _frame(path, columns, pl.read_parquet),
        ".arrow": lambda: _frame(path, columns, _read_arrow),
    }
    if path.suffix not in readers:
        raise UserError(f"{path}: unknown kind of file; tables end in {', '.join(readers)}")
    return readers[path.suffix]()


def read_quoted(path: Path, columns: Sequence[str]) -> list[Row | BadRow]:
    """Rows of a tab-separated table whose quoted fields may hold line breaks; otherwise as `read_rows`."""
    return _table(path, columns, True, partial(_commas, delimiter="\t"))


def nested(fields: Mapping[str, Any], column: str) -> Any:
    """The value of a column such as ``answers.text``: inside a mapping, or of each mapping in a list.

    A whole number picks an entry of a list (``options.0``). None where there is no such column.
    """
    if column in fields:
        return fields[column]
    value: Any = fields
    for step in column.split("."):
        if isinstance(value, list) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else None
        elif isinstance(value, list):
            value = [item.get(step) if isinstance(item, Mapping) else None for item in value]
        else:
            value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _with_nested(path: Path, number: int, fields: dict[str, Any], columns: Sequence[str]) -> Row | BadRow:
    """A row with the columns inside others beside these, under their whole names."""
    inner = {column: nested(fields, column) for column in columns if column not in fields and "." in column}
    missing = [column for column in columns if column not in fields and inner.get(column) is None]
    if missing:
        names = ", ".join(list(fields)[:12])[:120] or "none"
        return BadRow(f"{path}:{number}: no column {', '.join(missing)}; it has {names}")
    return Row(path, number, fields | inner)


def read_json(path: Path) -> Any:
    """A whole JSON document.

    Raises:
        UserError: It cannot be read or is not JSON; the line is named.
    """
    # No line can be left out; it may be one long line.
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not a data file: JSON nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error


def read_lines(path: Path) -> list[str | BadRow]:
    r"""Lines of a UTF-8 file, split at "\n" only (a text may hold other Unicode line breaks).

    Raises:
        UserError: No such file, or it cannot be read.
    """
    split = read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = [_decoded(path, number, line) for number, line in enumerate(split, start=1)]
    if lines[-1] == "":
        lines.pop()
    return lines


def _decoded(path: Path, number: int, line: bytes) -> str | BadRow:
    if len(line) > LARGEST_ROW:
        return BadRow(f"{path}:{number}: a line of {len(line):,} bytes; the most is {LARGEST_ROW:,}")
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        return BadRow(f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line)")


# Fields of each line, with its number.
_Splitter = Callable[[Path, list[tuple[int, str]]], Iterator[tuple[int, list[str] | BadRow]]]


def _table(path: Path, columns: Sequence[str], header: bool, split: _Splitter) -> list[Row | BadRow]:
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path} is empty: expected a table with the columns {', '.join(columns)}")
    names = list(columns)
    start = 0
    if header:
        first = lines[0]
        if isinstance(first, BadRow):
            raise UserError(str(first))
        ((_, fields),) = split(path, [(1, first)])
        names = fields if isinstance(fields, list) else first.split("\t")
        if again := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{path}:1: the column {again[0]!r} is there twice; give each its own name")
        _require(path, columns, names, f"the first line is {first[:120]!r}")
        start = 1
    rows: list[Row | BadRow] = [BadRow(str(line)) for line in lines[start:] if isinstance(line, BadRow)]
    whole = [(n, line) for n, line in enumerate(lines[start:], start + 1) if not isinstance(line, BadRow)]
    for number, fields in split(path, whole):
        if isinstance(fields, BadRow):
            rows.append(fields)
        elif len(fields) != len(names):
            rows.append(BadRow(f"{path}:{number}: {len(fields)} fields where {len(names)} were expected"))
        else:
            rows.append(Row(path, number, dict(zip(names, fields, strict=True))))
    return rows


def _tabs(path: Path, lines: list[tuple[int, str]]) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Fields of each line, quoted as CSV is or not quoted at all.

    A stray quote in an unquoted file must not swallow the lines after it, so each line is read alone, and
    one that is not well-formed CSV is taken as it stands.
    """
    for number, line in lines:
        if '"' in line:
            try:
                yield number, next(csv.reader([line], delimiter="\t", strict=True))
                continue
            except csv.Error:
                pass
        yield number, line.split("\t")


def _commas(
    path: Path, lines: list[tuple[int, str]], delimiter: str = ","
) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Fields of each record; a quoted field may hold line breaks. A record is named by its first line."""
    reader = csv.reader((f"{line}\n" for _, line in lines), delimiter=delimiter, strict=True)
    at = 0
    while at < len(lines):
        number = lines[at][0]
        try:
            fields: list[str] = next(reader)
        except csv.Error as error:
            if reader.line_num >= len(lines) and "end of data" in str(error):
                # All lines behind the quote would be lost in one row.
                raise UserError(f"{path}:{number}: a quoted field opens here and is never closed") from error
            yield number, BadRow(f"{path}:{number}: not CSV: {error}")
        else:
            yield number, fields
        at = reader.line_num


def _json_lines(path: Path, columns: Sequence[str]) -> list[Row | BadRow]:
    rows: list[Row | BadRow] = []
    for number, line in enumerate(read_lines(path), start=1):
        if isinstance(line, BadRow):
            rows.append(line)
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_no_key_twice, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            rows.append(BadRow(f"{path}:{number}: not JSON: {str(error)[:120]}"))
            continue
        if not isinstance(value, dict):
            rows.append(BadRow(f"{path}:{number}: {_shown(value)} where an object was expected"))
        else:
            rows.append(_with_nested(path, number, value, columns))
    if not rows:
        raise UserError(f"{path} is empty: expected objects with {', '.join(columns)}, one a line")
    return rows


def _json_list(path: Path, columns: Sequence[str]) -> list[Row | BadRow]:
    """Rows of a document that is a list of objects, or has one such list under a key; numbered from 1."""
    whole = read_json(path)
    lists = [whole] if isinstance(whole, list) else []
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list)]
    if len(lists) != 1 or not lists[0]:
        raise UserError(f"{path}: a table in JSON is one list of objects; write JSON lines (.jsonl)")
    return [
        _with_nested(path, number, value, columns)
        if isinstance(value, dict)
        else BadRow(f"{path}:{number}: {_shown(value)} where an object was expected")
        for number, value in enumerate(lists[0], start=1)
    ]


def _read_arrow(stream: IO[bytes]) -> pl.DataFrame:
    """A file that ``datasets`` saved (a stream), or an Arrow file."""
    content = stream.read()
    read = pl.read_ipc if content.startswith(b"ARROW1") else pl.read_ipc_stream
    return read(content)


def _frame(
    path: Path, columns: Sequence[str], read: Callable[[IO[bytes]], pl.DataFrame]
) -> list[Row | BadRow]:
    try:
        with open_file(path) as stream:  # polars would take a path that holds "[" or "*" for a pattern
            table = read(stream)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = first_line(error)[:200]
        raise UserError(f"{path}: not a readable {path.suffix[1:]} file: {reason}") from error
    outer = [name if name in table.columns else name.partition(".")[0] for name in columns]
    _require(path, outer, table.columns, f"it has {', '.join(table.columns)}")
    if table.is_empty():
        raise UserError(f"{path} is empty: expected rows with the columns {', '.join(columns)}")
    rows: list[Row | BadRow] = []
    for number, fields in enumerate(table.iter_rows(named=True), start=1):
        size = sum(len(value) for value in fields.values() if isinstance(value, str))
        if size > LARGEST_ROW:
            rows.append(BadRow(f"{path}:{number}: a row of {size:,} letters; the most is {LARGEST_ROW:,}"))
        else:
            rows.append(_with_nested(path, number, fields, [name for name in columns if "." in name]))
    return rows


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated key: one of its values would be lost."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def _no_number(name: str) -> Any:
    """Refuse what Python reads and JSON does not have; as a text, "nan" would be an answer."""
    raise ValueError(f"{name} is no number; write null or leave the row out")


def _require(path: Path, columns: Sequence[str], found_columns: Sequence[str], hint: str) -> None:
    if missing := [column for column in columns if column not in found_columns]:
        raise UserError(f"{path}:1: no column {', '.join(missing)}; {hint}")


def _shown(value: object) -> str:
    """A value in an error message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
