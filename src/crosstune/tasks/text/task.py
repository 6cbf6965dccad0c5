"""Unlabelled text as a task: nothing is asked, and every token of a text is learnt."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import ClassVar

from pydantic import Field

from crosstune.data.example import Example, Split
from crosstune.errors import UserError
from crosstune.tasks.base import Task, TaskOptions
from crosstune.tasks.text.sources import source_of


class TextOptions(TaskOptions):
    """Where unlabelled text comes from, and how it is cut.

    Attributes:
        source: "udhr", "tatoeba", a folder, or "hub:<owner>/<name>".
        files: In a folder or on the hub, with ``{code}`` for the language; on the hub ``{iso639_3}`` and
            ``{flores}`` too. In a folder by default ``{code}.txt`` and the like.
        column: Of tables (.jsonl, .parquet, .tsv, .csv).
        revision: Commit, branch or tag on the hub.
        data: Folder that UDHR and Tatoeba lie in; by default $CROSSTUNE_DATA.
        characters: Of a block, which holds whole lines; longer lines are cut, where they have spaces there.
        held_out: Leaves every so manieth block out of training; its loss is measured before and after.
    """

    newer = ("held_out",)

    source: str
    files: str | None = None
    column: str = "text"
    revision: str = "main"
    data: str | None = None
    characters: int = Field(default=500, ge=1)
    held_out: int | None = Field(default=None, ge=2)


class UnlabelledText(Task):
    """Blocks of lines of one language. A line that was there before is left out."""

    name = "text"
    version = 1
    kind = "text"
    metrics = ("loss",)
    summary = "unlabelled text, for stages that are trained on it"
    split_names: ClassVar[dict[Split, str]] = {"train": "unlabelled text"}
    Options: ClassVar[type[TaskOptions]] = TextOptions
    options: TextOptions

    @cached_property
    def _lines(self):  # type: ignore[no-untyped-def]
        o = self.options
        return source_of(o.source, o.data, o.files, o.column, o.revision)

    def languages(self) -> list[str]:
        """Those the source has, or of the hub those it may have."""
        return sorted(self._lines)

    def examples(self, split: Split, language: str) -> list[Example]:
        """The blocks of a language, in the source's order; each line is a field of its own.

        The split "dev" has those that are held out of "train".
        """
        if not self.offers(language):
            raise self.missing(language, self.languages())
        lines, facts = self._lines[language]()
        texts = list(dict.fromkeys(text for line in lines if (text := line.strip())))
        size = sum(map(len, texts))
        if not texts:
            raise UserError(f"text {self.options.source}: nothing in {language}")
        source = {"split": split, "language": language, **facts, "lines": len(texts), "characters": size}
        every = self.options.held_out
        if split == "train" and source not in self.sources:
            self.sources.append(source)
        return [
            Example(
                f"{language} {i}", language, "\n".join(block), ("",), (), tuple(("text", t) for t in block)
            )
            for i, block in enumerate(blocks(texts, self.options.characters))
            if (every is not None and i % every == every - 1) == (split == "dev")
        ]


def blocks(lines: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Lines together, up to so many characters with the line breaks between them."""
    block: list[str] = []
    size = 0
    for line in lines:
        for piece in _pieces(line, characters):
            if block and size + 1 + len(piece) > characters:
                yield block
                block, size = [], 0
            size += len(piece) + bool(block)
            block.append(piece)
    if block:
        yield block


def _pieces(line: str, characters: int) -> Iterator[str]:
    while len(line) > characters:
        cut = line.rfind(" ", 1, characters + 1)
        cut = characters if cut < 1 else cut
        yield line[:cut]
        line = line[cut:].lstrip()
    if line:
        yield line
