"""What a task is: examples with a prompt and either choices or a free answer, in many languages."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict

from crosstune.config.newer import WithNewer
from crosstune.data.example import Candidate, Example, Split, fingerprint
from crosstune.data.forms import Kind, form_of
from crosstune.errors import UserError, did_you_mean
from crosstune.metrics.corpus import CORPUS

__all__ = ["Example", "Kind", "Split", "Task", "TaskOptions", "fingerprint"]


class TaskOptions(WithNewer):
    """Settings of a task that a study file may change. Tasks extend it; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Search:
    """Texts that are searched for some questions."""

    numbers: Sequence[int]  # of the examples
    questions: Sequence[Candidate]  # one an example
    texts: Sequence[Candidate]


class Task(ABC):
    """A skill measured in many languages. A subclass is one file and one line in `crosstune.tasks.TASKS`.

    Attributes:
        name: As written in a study file.
        version: Raised whenever prompts, examples or scoring change; part of a run's id.
        kind: Name of the form of its answers: "choice" (log-probabilities of the choices are compared),
            "generation" (greedy decoding), or another of `crosstune.data.forms.FORMS`.
        metrics: Names that `score` returns; the first is the task's main one. All in [0, 1]. The first may be
            one of `crosstune.metrics.corpus.CORPUS`, whose score of many examples is no mean.
        split_names: What the source calls the splits used, e.g. {"test": "test.tsv"}; reported with results.
        max_answer_tokens: Longest written answer.
        stop: Texts that end one.
        extractive: Whether an answer is a part of the field ``context`` of its example, at `Example.span`.
        tags: Of a task that tags words, all there are.
        layer: Of a task of retrieval, behind which layer states are read, by its option; None for the last.
        depth: And how many texts are found for each question.
        sources: Where the examples read so far came from, one entry a split and language.
        skipped: One line for each row left out, where the options allow that.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    kind: ClassVar[Kind]
    metrics: ClassVar[tuple[str, ...]]
    summary: ClassVar[str]
    split_names: ClassVar[dict[Split, str]]
    has_training: ClassVar[bool] = True  # whether there is a training split; else for untuned methods alone
    source_language: ClassVar[str] = "en"
    max_answer_tokens: int = 32
    stop: tuple[str, ...] = ("\n",)
    extractive: ClassVar[bool] = False
    tags: ClassVar[tuple[str, ...]] = ()
    layer: int | None = None
    depth: ClassVar[int] = 1
    Options: ClassVar[type[TaskOptions]] = TaskOptions

    def __init__(self, options: TaskOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()
        self.sources: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self.layer = getattr(self.options, "layer", self.layer)

    @property
    def licences(self) -> Mapping[str, str]:
        """Of its data, by dataset, where they are known."""
        return {}

    @abstractmethod
    def languages(self) -> list[str]:
        """Canonical codes of the languages whose test split the source offers, source language first."""

    def offers(self, language: str) -> bool:
        """Whether a language is among `languages`; a task may know without looking at all the others."""
        return language in self.languages()

    def missing(self, language: str, offered: Sequence[str]) -> UserError:
        """The error for a language that the source lacks: how many it has, and the nearest."""
        near = did_you_mean(language, offered)
        return UserError(f'task {self.name} has no "{language}" among its {len(offered)} languages{near}')

    @abstractmethod
    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split, in a fixed order.

        Raises:
            UserError: The source lacks that language or split, or a file is damaged (file and line named).
        """

    def searches(self, examples: Sequence[Example]) -> "list[Search]":
        """Of a task of retrieval: which texts are searched for which questions.

        Here those of a language's examples among each other: an example's prompt is the question, its answer
        the text with its id.
        """
        by_language: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            by_language.setdefault(example.language, []).append(i)
        return [
            Search(
                numbers,
                [Candidate(examples[i].id, language, examples[i].prompt) for i in numbers],
                [Candidate(examples[i].id, language, examples[i].answers[0]) for i in numbers],
            )
            for language, numbers in by_language.items()
        ]

    def template(self, language: str) -> str | None:
        """The prompt with its places still open ("{text}..."), where the task has one such frame."""
        return None

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """Metrics of one answer: of a choice task the choice picked, of retrieval the ids found."""
        main = self.metrics[0]
        if form_of(self.kind).searched:
            return {main: float(answer == example.id)}
        if main in CORPUS:
            return {main: CORPUS[main].alone(answer, example.answers, example.choices)}
        return {main: float(answer in example.answers)}

    def sums(self, example: Example, answer: str) -> list[float]:
        """What one answer adds to the sums of a corpus metric; nothing for a metric that is a mean."""
        main = self.metrics[0]
        return CORPUS[main].sums(answer, example.answers, example.choices) if main in CORPUS else []
