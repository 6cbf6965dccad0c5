"""Sentences with a tag for each word: a word and its tag a line, CoNLL's columns, or CoNLL-U."""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from crosstune.data.tables import BadRow, Row, Rows, read_lines

# XTREME's order for parts of a fused word that are equally near the root.
PARTS = (
    "VERB", "NOUN", "PROPN", "PRON", "ADJ", "NUM", "ADV", "INTJ", "AUX", "ADP", "DET", "PART", "CCONJ",
    "SCONJ", "X", "PUNCT", "SYM",
)  # fmt: skip
_GONE = re.compile(r"[\s\u200c]")
_COLUMNS = 10
_CODE = re.compile(r"[a-z]{2,}(?:-[a-z]+)*:(?=\S)")


def read_tagged(path: Path) -> Rows:
    """Sentences as ``words`` and ``tags``, blank lines between; a word without a tag is tagged O.

    Words and tags are parted by a tab or a space. Each row's ``id`` is its number in the file.
    """
    for number, line, block in _blocks(path):
        words: list[str] = []
        tags: list[str] = []
        for text in block:
            word, _, tag = text.rstrip().rpartition("\t" if "\t" in text.rstrip() else " ")
            words.append(word or tag)
            tags.append(tag.strip() if word else "O")
        yield _row(path, line, str(number), words, tags)


def read_conll(path: Path, tags: Collection[str]) -> Rows:
    """The same of any number of columns: the word is in the first, its tag, one of ``tags``, in the last.

    Lines about a document (-DOCSTART-), and those in front of a sentence that begin with # and end in no tag,
    are left out. So is the code of the language that WikiANN puts in front of every word (``de:Berlin``).
    """
    blocks = list(_blocks(path))
    code = _CODE.match(blocks[0][2][0]) if blocks else None
    if code and all(text.startswith(code.group()) for _, _, block in blocks for text in block):
        blocks = [(n, line, [text[code.end() :] for text in block]) for n, line, block in blocks]
    for number, line, block in blocks:
        rows = [text.strip().split("\t" if "\t" in text.strip() else None) for text in block]
        above = 0
        while above < len(rows) and _about(rows[above], tags):
            above += 1
        bare = next((i for i, row in enumerate(rows[above:], above) if len(row) < 2), None)
        if bare is not None:
            yield BadRow(f"{path}:{line + bare}: {rows[bare][0][:60]!r} has no tag behind it")
        elif rows := rows[above:]:
            yield _row(
                path, line + above, str(number), [row[0] for row in rows], [row[-1].strip() for row in rows]
            )


def _about(row: Sequence[str], tags: Collection[str]) -> bool:
    """Whether a line is no word of a sentence."""
    return row[0] == "-DOCSTART-" or (row[0].startswith("#") and row[-1] not in tags)


def read_conllu(path: Path) -> Rows:
    """Sentences of a treebank with their UPOS, as XTREME has them; ``id`` is sent_id, or else a number.

    A fused word (3-4) has the tag of its part that is nearest to the root. Spaces inside words are dropped.
    """
    for number, line, block in _blocks(path):
        try:
            yield _sentence(path, number, line, block)
        except BadRow as bad:
            yield bad


def _sentence(path: Path, number: int, line: int, block: Sequence[str]) -> Row:
    name, rows = str(number), []
    for text in block:
        if text.startswith("#"):
            key, _, value = text[1:].partition("=")
            name = value.strip() if key.strip() == "sent_id" else name
        else:
            rows.append(text.rstrip("\n").split("\t"))
    if any(len(row) != _COLUMNS for row in rows):
        raise BadRow(f"{path}:{line}: a line of this sentence has not {_COLUMNS} columns")
    heads = {row[0]: row[6] for row in rows if row[0].isdigit()}
    upos = {row[0]: row[3] for row in rows}

    def depth(part: str) -> int:
        steps = 0
        while part in heads and steps <= len(heads):
            part, steps = heads[part], steps + 1
        return steps

    words: list[str] = []
    tags: list[str] = []
    inside = 0  # the last part of a fused word
    for row in rows:
        first, _, last = row[0].partition("-")
        if last.isdigit() and first.isdigit():
            parts = [str(i) for i in range(int(first), int(last) + 1) if str(i) in heads]
            if not parts:
                raise BadRow(f"{path}:{line}: the parts of {row[1][:40]!r} are not there")
            nearest = min(parts, key=lambda part: (depth(part), _rank(upos[part])))
            inside, tag = int(last), upos[nearest]
        elif not first.isdigit() or int(first) <= inside:
            continue  # an empty node, or a part
        else:
            tag = row[3]
        words.append(row[1])
        tags.append(tag)
    return _row(path, line, name, words, tags)


def _rank(tag: str) -> int:
    return PARTS.index(tag) if tag in PARTS else len(PARTS)


def _row(path: Path, line: int, name: str, words: list[str], tags: list[str]) -> Row:
    words, tags = without_spaces(words, tags)
    return Row(path, line, {"id": name, "words": words, "tags": tags})


def without_spaces(words: Sequence[str], tags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words without the spaces and joiners inside them, and their tags; none that was nothing else."""
    pairs = [(_GONE.sub("", word), tag) for word, tag in zip(words, tags, strict=True)]
    return [word for word, _ in pairs if word], [tag for word, tag in pairs if word]


def _blocks(path: Path) -> Iterator[tuple[int, int, list[str]]]:
    """Number, first line and lines of each sentence."""
    number, start, block = 0, 1, []
    for i, text in enumerate([*read_lines(path), ""], 1):
        if isinstance(text, BadRow):
            raise text
        if text.strip():
            block.append(text)
            continue
        if block:
            yield number, start, block
            number += 1
        start, block = i + 1, []
