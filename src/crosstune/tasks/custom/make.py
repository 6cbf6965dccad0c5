"""The class of the task that a YAML file defines."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, get_args

from crosstune.config.yaml_file import Document
from crosstune.data.example import Split
from crosstune.data.forms import form_of
from crosstune.data.source import FileLayout
from crosstune.data.tables import BadRow, Row, read_lines, read_rows
from crosstune.data.tagged import read_conll, read_conllu
from crosstune.errors import UserError
from crosstune.languages.table import find
from crosstune.tasks.custom.definition import LINE, Definition, read_definition
from crosstune.tasks.custom.retrieval import DefinedRetrieval
from crosstune.tasks.custom.tags import DefinedTags
from crosstune.tasks.custom.task import DefinedTask

_BASES: dict[str, type[DefinedTask]] = {"tags": DefinedTags, "retrieval": DefinedRetrieval}
"""By kind; others have no class of their own."""


def make_class(text: str, path: Path) -> type[DefinedTask]:
    """The task that a YAML file's text describes; its path serves messages, and the data lie beside it.

    Raises:
        UserError: One line, ``<file>:<line>: <what is wrong>``, for the first mistake.
    """
    definition = read_definition(Document(text, str(path)))
    base = _BASES.get(definition.kind, DefinedTask)
    more = ("accuracy",) if form_of(definition.kind).has_choices else ()
    metrics_ = tuple(dict.fromkeys((definition.scored_by, *more)))
    layouts_ = {split: _layouts(definition, split) for split in get_args(Split)}

    class Options(base.Options):  # type: ignore[name-defined,misc]
        """With the definition's own default."""

        on_bad_rows: Literal["error", "skip"] = definition.on_bad_rows

    class Defined(base):  # type: ignore[valid-type,misc]
        """The task as all others are: a class with its facts."""

        name = definition.name
        version = definition.version
        kind = definition.kind
        metrics = metrics_
        summary = f"from {path.name}"
        source_language = definition.source_language
        max_answer_tokens = definition.max_answer_tokens
        stop = definition.stop
        has_training = definition.train is not None
        tags = definition.choices if definition.kind == "tags" else ()
        layouts = layouts_
        split_names: ClassVar[dict[Split, str]] = {
            split: forms[0].files for split, forms in layouts_.items() if forms
        }

    Defined.Options, Defined.definition, Defined.folder = Options, definition, path.parent
    return Defined


def _layouts(definition: Definition, split: Split) -> tuple[FileLayout, ...]:
    """Where the files of a split are."""
    files = getattr(definition, split)
    if files is None:
        return ()
    if definition.lines:
        return (FileLayout(files, read=_lines),)
    if definition.kind == "tags" and definition.words is None:
        whole = files.endswith(".conllu")
        read_words = read_conllu if whole else partial(read_conll, tags=definition.choices)
        return (FileLayout(files, read=read_words),)
    if definition.language is None or "{code}" in files:
        return (FileLayout(files, definition.columns),)
    read = partial(_of_many_languages, definition)
    return (FileLayout(files, column=definition.language, read=read),)


def _of_many_languages(definition: Definition, path: Path) -> Iterator[Row | BadRow]:
    """Rows of a file with a column of languages, each called by its canonical code."""
    column = definition.language or ""
    for row in read_rows(path, (*definition.columns, column)):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            yield Row(row.path, row.line, row.fields | {column: find(row.text(column)).code})
        except BadRow as bad:
            yield bad
        except UserError as error:
            yield row.error(f"{column}: {error}")


def _lines(path: Path) -> Iterator[Row | BadRow]:
    """Rows of a file with a text a line."""
    for number, text in enumerate(read_lines(path), 1):
        yield text if isinstance(text, BadRow) else Row(path, number, {LINE: text})
