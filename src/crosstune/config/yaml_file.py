"""YAML with line numbers: plain data, and the line of every key and value.

Scalars follow YAML 1.2's core schema, not 1.1's: ``no`` is the string "no" (a language), ``1e-3`` is a
number, and dates are strings. Aliases and tags are rejected: crosstune's files need neither, and both allow a
small file to expand into a large one.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from crosstune.errors import UserError
from crosstune.files import MOST_TEXT, read_text

Path_ = Sequence[str | int]
"""Keys and indices from the top of a document to a location in it."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)")
_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_STR, _SEQ, _MAP = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
_LONGEST_NUMBER = 40
_SURROGATE = re.compile("[\ud800-\udfff]")


_OPENS = re.compile(r"\s*(?:- +)?[\w.-]+: *[{\[]")
"""A value that YAML takes for a list or a mapping."""


class Document:
    """The content of a YAML file, with the line of each part.

    Attributes:
        name: Name of the file in messages.
        text: The source text.
        data: Plain dicts, lists, strings, numbers, booleans and None.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.text = text
        try:
            node = _compose(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = 1 if mark is None else mark.line + 1
            why = " ".join(str(error.problem or error.context or error).split())
            written = text.splitlines()[line - 1 : line]
            if written and _OPENS.match(written[0]):
                why += "; a text that starts with { or [ goes into quotes"
            raise UserError(f"{name}:{line}: not valid YAML: {why}") from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise UserError(
                f"{name}:{line}: not valid YAML: character U+{ord(text[error.position]):04X} is not allowed"
            ) from error
        except RecursionError as error:
            raise UserError(f"{name}:1: not valid YAML: nested too deeply") from error
        self._node = node
        self.data = None if node is None else self._plain(node)

    def error(self, path: Path_, message: str) -> UserError:
        """A `UserError` with the file and line of a location."""
        return UserError(f"{self.name}:{self.line(path)}: {message}")

    def first_error(self, problems: Iterable[tuple[Path_, str]]) -> UserError:
        """The error for the first mistake (a location and a message) in the document."""
        path, message = min(problems, key=lambda problem: self.line(problem[0]))
        return self.error(path, message)

    def line(self, path: Path_) -> int:
        """Line, from 1, of the deepest part of ``path`` that is in the document."""
        node, line = self._node, 1
        for step in path:
            entry: tuple[yaml.Node, yaml.Node] | None = None
            if isinstance(node, yaml.MappingNode):
                entry = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                entry = node.value[step], node.value[step]
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        return int(line)

    def _plain(self, node: yaml.Node) -> Any:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode) and node.tag == _STR:
            # A quoted or block scalar is always a string.
            return _scalar(node.value) if node.style is None else node.value
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            return [self._plain(item) for item in node.value]
        if not isinstance(node, yaml.MappingNode) or node.tag != _MAP:
            raise UserError(f"{self.name}:{line}: tags ({node.tag}) are not used here; write the plain value")
        content: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            at = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                raise UserError(f"{self.name}:{at}: a key must be a plain word")
            if key.value in content:
                first = lines[key.value]
                raise UserError(f'{self.name}:{at}: key "{key.value}" again; first on line {first}')
            content[key.value], lines[key.value] = self._plain(value), at
        return content


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UserError: Not readable, too large, not UTF-8, not YAML, a key twice, an alias or a tag (line named).
    """
    return Document(read_text(path, MOST_TEXT), str(path))


def parse_value(text: str) -> Any:
    """A value from the command line, parsed as in a study file: ``10``, ``kv``, ``[0, 1]``."""
    return Document(text, "value").data


def dump(data: Any) -> str:
    """YAML that `Document` parses to the same data."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes every string: YAML versions differ in what counts as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values out in full."""
        return True


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar(_STR, text, style='"'))


class _Loader(yaml.SafeLoader):
    """Composes nodes only; plain scalars stay strings and are converted by `_scalar`."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's interface

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Reject ``*alias``, and unpaired surrogates, which cannot be encoded."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        why = None
        if isinstance(event, yaml.AliasEvent):
            why = f"aliases (*{event.anchor}) are not used here; write the value out"
        elif isinstance(event, yaml.ScalarEvent) and (half := _SURROGATE.search(event.value)):
            why = f"\\u{ord(half[0]):04x} is half a character; write the character itself"
        if why is not None:
            raise yaml.composer.ComposerError(None, None, why, event.start_mark)
        return super().compose_node(parent, index)


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return node


def _scalar(text: str) -> Any:
    """A plain scalar by the core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _LONGEST_NUMBER:
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
    return text
