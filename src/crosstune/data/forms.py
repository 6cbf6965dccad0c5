"""The forms an answer can take, as whoever reads results needs to know them: no model is involved here.

A task names its form in `Task.kind`, and run.json records it under the same key. How a model is trained on a
form and how its answers are computed is `crosstune.outputs`, which has one class for each entry of `FORMS`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from crosstune.errors import UserError, did_you_mean
from crosstune.metrics.statistic import MEAN, Statistic

Kind = str
"""Name of a form, a key of `FORMS`."""

COLUMNS: Mapping[str, Any] = {
    "language": pl.String,
    "example": pl.String,
    "prompt_hash": pl.String,
    "prediction": pl.String,
    "gold": pl.String,
    "score": pl.Float64,
}
"""Columns of every table of predictions, one row an example; ``score`` is the example's main metric."""


@dataclass(frozen=True)
class AnswerForm:
    """One form of answer.

    Attributes:
        name: As tasks and run.json give it.
        columns: That its predictions have besides `COLUMNS`, with their types.
        has_choices: Whether an answer is one of its example's `Example.choices`.
        losses: Values of ``train.loss`` it can be trained with.
        statistic: What the score of many predictions is.
    """

    name: str
    columns: Mapping[str, Any]
    has_choices: bool = False
    losses: tuple[str, ...] = ("answer",)
    statistic: Statistic = MEAN

    def schema(self, metrics: Iterable[str] = ()) -> dict[str, Any]:
        """All columns of a table of predictions, in order; those of the metrics are ``metric.<name>``."""
        return {**COLUMNS, **self.columns, **{f"metric.{name}": pl.Float64 for name in metrics}}


FORMS: dict[Kind, AnswerForm] = {
    "choice": AnswerForm("choice", {"choice_logprobs": pl.List(pl.Float64)}, True, ("answer", "choices")),
    "generation": AnswerForm("generation", {"answer_language": pl.String}),
}
"""``choice``: log-probabilities of given choices are compared. ``generation``: greedy decoding."""


def form_of(kind: Kind) -> AnswerForm:
    """The form of that name.

    Raises:
        UserError: There is none, as in a record of a later version.
    """
    if kind not in FORMS:
        raise UserError(f'unknown form of answer "{kind}"{did_you_mean(kind, FORMS)}')
    return FORMS[kind]
