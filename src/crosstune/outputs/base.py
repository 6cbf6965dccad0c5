"""What a form of answer asks of a model: the rows it is trained on, and how its answers are computed.

One subclass for each entry of `crosstune.data.forms.FORMS`, which has the part that needs no model: names,
columns of predictions, and what the score of many of them is. `crosstune.outputs.registry` lists them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Unpack

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.metrics.language_id import identify
from crosstune.models.language_model import LanguageModel
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task


@dataclass(frozen=True)
class Answers:
    """Answers to some examples, in their order."""

    texts: list[str]  # what each is as text: column ``prediction``, and what `Task.score` is given
    # The form's own columns (`AnswerForm.columns`), one value an example.
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def refuse_nan(found: bool) -> None:
    """No answer is taken of states or scores in which one was found: the first of all would win."""
    if found:
        raise UserError(
            "what the model computes is no number (NaN): its training diverged, what was trained before "
            "is broken, or its dtype is too narrow; lower the learning rate, or set dtype: float32"
        )


def picked(examples: Sequence[Example], logprobs: Sequence[list[float]]) -> Answers:
    """The best choice of each example, by the log-probabilities of its choices."""
    refuse_nan(any(math.isnan(score) for scores in logprobs for score in scores))
    best = [
        example.choices[scores.index(max(scores))] for example, scores in zip(examples, logprobs, strict=True)
    ]
    return Answers(best, {"choice_logprobs": list(logprobs)})


def written(task: Task, examples: Sequence[Example], texts: list[str]) -> Answers:
    """Texts written in answer to examples, with the language that each was identified as (`identify`)."""
    languages = [
        identify(text, example.language, task.source_language)
        for example, text in zip(examples, texts, strict=True)
    ]
    return Answers(texts, {"answer_language": languages})


@dataclass(frozen=True)
class Output(ABC):
    """One form of answer, of one model."""

    lm: LanguageModel
    cuts: ClassVar[bool] = False  # whether it sees to texts that are longer than the model has positions for
    settings: EvaluateSettings  # how it is evaluated; training learns no more than what they compare

    def check(self, languages: Iterable[str]) -> None:
        """Refuse languages that cannot be answered in, before anything is trained; most models take all."""
        return None

    @abstractmethod
    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Training rows, tokenised when they are drawn: which ids are learned, and what the loss compares.

        The loss is one of the form's `AnswerForm.losses`.

        Raises:
            UserError: The examples do not suit the loss.
        """

    @abstractmethod
    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The model's answers to examples of any languages, all in one call, so that they share batches.

        Raises:
            UserError: An example cannot be answered, or is more than memory holds.
        """
