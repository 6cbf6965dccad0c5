"""Tatoeba: which English sentence is the translation? Retrieval by a model's own states, trained or not.

Artetxe and Schwenk 2019 (arXiv 1812.10464), as XTREME has it: up to 1,000 pairs a language, accuracy of the
nearest neighbour by cosine. With method ``none`` the states are the model's own; a method that is trained
learns to find the sentences that answer SQuAD's questions (the training data of `lareqa`). XTREME-R takes the
states of a model tuned on SQuAD.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from crosstune.data.example import Example, Split
from crosstune.data.source import FileLayout
from crosstune.data.tables import BadRow, Row, read_lines
from crosstune.errors import UserError
from crosstune.tasks.benchmarks.lareqa import Lareqa, LareqaOptions
from crosstune.tasks.published import PublishedOptions, PublishedTask


def _pairs(english: Path) -> Iterator[Row | BadRow]:
    """Lines of an English file and of the one beside it whose name ends in the language."""
    language = english.name.removeprefix("tatoeba.").partition("-")[0]
    other = english.with_suffix(f".{language}")
    sides = read_lines(english), read_lines(other)
    if len(sides[0]) != len(sides[1]):
        raise UserError(f"{other}: {len(sides[1])} lines, and {english.name} has {len(sides[0])}")
    for line, pair in enumerate(zip(*sides, strict=True), 1):
        bad = next((side for side in pair if isinstance(side, BadRow)), None)
        yield bad or Row(english, line, {"english": pair[0], "sentence": pair[1], "id": str(line)})


class TatoebaOptions(PublishedOptions):
    """Settings of Tatoeba.

    Attributes:
        prefix: Stands in front of every sentence, such as "query: " for models of the E5 family.
        layer: The states behind this layer, from 1 at the bottom; None for the last, behind the final norm.
        direction: For which side's sentences the other's are searched.
    """

    prefix: str = ""
    layer: int | None = Field(default=None, ge=1)
    direction: Literal["to-english", "from-english"] = "to-english"


class Tatoeba(PublishedTask):
    """Sentences and their English translations. Fewer examples (``limit``) are fewer to choose from."""

    name = "tatoeba"
    version = 1
    kind = "retrieval"
    metrics = ("accuracy",)
    summary = "the English translation of a sentence, by nearest states (Tatoeba)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "SQuAD train, questions and sentences",
        "dev": "articles held out of train",
        "test": "test",
    }
    prompts = ""
    Options = TatoebaOptions
    options: TatoebaOptions
    layouts: Mapping[Split, tuple[FileLayout, ...]] = {
        "test": (FileLayout("tatoeba/tatoeba.{code}-eng.eng", read=_pairs),)
    }

    def examples(self, split: Split, language: str) -> list[Example]:
        """Pairs of sentences; of training questions and what answers them."""
        if split == "test":
            return super().examples(split, language)
        o = self.options
        options = LareqaOptions(
            source=o.source, data=o.data, question_prefix=o.prefix, text_prefix=o.prefix, train_set="squad"
        )
        lareqa = Lareqa(options)
        examples = lareqa.examples(split, language)
        self.sources += [source for source in lareqa.sources if source not in self.sources]
        if split == "dev":  # a text that answers several questions would be the right one of a single one
            examples = list({example.answers[0]: example for example in reversed(examples)}.values())[::-1]
        return examples

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The question and the text that answers it."""
        sides = [f"{self.options.prefix}{row.text(side)}" for side in ("sentence", "english")]
        question, text = sides if self.options.direction == "to-english" else sides[::-1]
        return Example(row["id"], language, question, (text,))
