"""A user's own task of retrieval: which text answers a question, or is a sentence's translation?"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from pydantic import Field

from crosstune.data.example import Candidate, Example, Split
from crosstune.data.tables import BadRow, Row
from crosstune.errors import UserError
from crosstune.tasks.base import Search
from crosstune.tasks.custom.definition import PLACEHOLDER, SOURCE
from crosstune.tasks.custom.task import DefinedOptions, DefinedTask, filled, texts_of


class RetrievalOptions(DefinedOptions):
    """Settings of retrieval.

    Attributes:
        layer: The states behind this layer, from 1 at the bottom; None for the last, behind the final norm.
    """

    layer: int | None = Field(default=None, ge=1)


class DefinedRetrieval(DefinedTask):
    """Questions, and texts that are searched for each: all of its language's. A text may answer several."""

    Options = RetrievalOptions
    options: RetrievalOptions

    def __init__(self, options: RetrievalOptions | None = None) -> None:
        super().__init__(options)
        self.layer = self.options.layer

    def template(self, language: str) -> str | None:
        """No frame: an answer is one of many texts."""
        return None

    def languages(self) -> list[str]:
        """Those of the files; of parallel ones without the source language, whose texts are searched."""
        offered = super().languages()
        if self.definition.parallel:
            offered = [code for code in offered if code != self.source_language]
        if not offered:
            raise UserError(f"task {self.name}: parallel needs files in the source language and another")
        return offered

    def rows(self, split: Split, language: str) -> Iterator[Row | BadRow]:
        """With the columns of the same row in the source language's file, where files are parallel."""
        rows = super().rows(split, language)
        if not self.definition.parallel:
            yield from rows
            return
        sources = self._sources
        for row in rows:
            if isinstance(row, BadRow):
                yield row
            elif (other := sources.get(self._key(row))) is not None:
                yield row.with_fields(**{f"{SOURCE}{name}": x for name, x in other.fields.items()})
            else:
                which = f"{self.definition.id} {self._key(row)[:60]!r}" if self.definition.id else "such line"
                yield row.error(f"no {which} in the file in {self.source_language}")

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The question, and the texts that answer it; the first is learned."""
        template, answer = self.wording(language)["prompt"], self.definition.answer
        frame = PLACEHOLDER.search(answer)
        answers = (filled(answer, row).strip(),) if frame else texts_of(row, answer)
        columns = dict.fromkeys(PLACEHOLDER.findall(f"{template} {answer}"))
        example = Example(
            self.name_of(row, split, language),
            language,
            filled(template, row).strip(),
            answers,
            fields=tuple((column, filled(f"{{{column}}}", row)) for column in columns),
            cluster=self.cluster_of(row),
        )
        for i, text in enumerate(answers):
            name = f"{example.id}.{i + 1}" if i else example.id
            self._names.setdefault(language, {}).setdefault(text, name)
        return example

    def searches(self, examples: Sequence[Example]) -> list[Search]:
        """Each text of a language once, called after the first example that it answers."""
        by_language: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            by_language.setdefault(example.language, []).append(i)
        searches = []
        for language, numbers in by_language.items():
            asked = [examples[i] for i in numbers]
            texts = dict.fromkeys(text for example in asked for text in example.answers)
            names = self._names[language]
            searches.append(
                Search(
                    numbers,
                    [Candidate(example.id, language, example.prompt) for example in asked],
                    [Candidate(names[text], language, text) for text in texts],
                )
            )
        return searches

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Whether a text that answers the question was found."""
        names = self._names[example.language]
        return {"accuracy": float(answer in {names[text] for text in example.answers})}

    @cached_property
    def _names(self) -> dict[str, dict[str, str]]:
        """Of each text read so far, by language: the id of the first example that it answers."""
        return {}

    @cached_property
    def _sources(self) -> Mapping[str, Row]:
        rows = super().rows(self.options.evaluate_on, self.source_language)
        return {self._key(row): row for row in rows if isinstance(row, Row)}

    def _key(self, row: Row) -> str:
        """What is the same in all languages."""
        return str(row.fields.get(self.definition.id, "") if self.definition.id else row.line).strip()
