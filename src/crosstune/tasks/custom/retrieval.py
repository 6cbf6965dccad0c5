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
        """With the columns of the same row in the source language's file, where files are parallel.

        Without ids rows are the same by their lines: then each file must have the lines of the other.
        """
        rows = super().rows(split, language)
        if not self.definition.parallel:
            yield from rows
            return
        left = dict(self._sources)
        for row in rows:
            if isinstance(row, BadRow):
                yield row
                continue
            try:
                key = self.name_of(row, split, language)
            except BadRow as bad:
                yield bad
                continue
            if (other := self._sources.get(key)) is None:
                yield self._alone(row, key, self.source_language)
                continue
            left.pop(key, None)
            yield row.with_fields(**{f"{SOURCE}{name}": x for name, x in other.fields.items()})
        if self.definition.id is None:
            yield from (self._alone(row, key, language) for key, row in left.items())

    def _alone(self, row: Row, key: str, language: str) -> BadRow:
        if self.definition.id:
            return row.error(f"no {self.definition.id} {key[:60]!r} in the file in {language}")
        return row.error(f"no such line in the file in {language}; lines are translations of each other")

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The question, and the texts that answer it; the first is learned."""
        template, answer = self.wording(language)["prompt"], self.definition.answer
        frame = PLACEHOLDER.search(answer)
        answers = (filled(answer, row).strip(),) if frame else texts_of(row, answer)
        columns = dict.fromkeys(PLACEHOLDER.findall(f"{template} {answer}"))
        return Example(
            self.name_of(row, split, language),
            language,
            filled(template, row).strip(),
            answers,
            fields=tuple((column, filled(f"{{{column}}}", row)) for column in columns),
            cluster=self.cluster_of(row),
        )

    def searches(self, examples: Sequence[Example]) -> list[Search]:
        """Each text of a language once; what is found is called by its own text, which `score` looks for."""
        by_language: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            by_language.setdefault(example.language, []).append(i)
        searches = []
        for language, numbers in by_language.items():
            texts = dict.fromkeys(text for i in numbers for text in examples[i].answers)
            questions = [Candidate(examples[i].id, language, examples[i].prompt) for i in numbers]
            searches.append(Search(numbers, questions, [Candidate(text, language, text) for text in texts]))
        return searches

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Whether a text that answers the question was found."""
        return {"accuracy": float(answer in example.answers)}

    @cached_property
    def _sources(self) -> Mapping[str, Row]:
        split, language = self.options.evaluate_on, self.source_language
        sources: dict[str, Row] = {}
        for row in super().rows(split, language):
            if isinstance(row, BadRow):
                continue
            key = self.name_of(row, split, language)
            if key in sources:
                raise row.error(f"{self.definition.id} {key[:60]!r} again, first on line {sources[key].line}")
            sources[key] = row
        return sources
