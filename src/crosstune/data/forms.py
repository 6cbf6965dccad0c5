"""The forms an answer can take, as whoever reads results needs to know them: no model is involved here.

A task names its form in `Task.kind`, and run.json records it under the same key. How a model is trained on a
form and how its answers are computed is `crosstune.outputs`, which has one class for each entry of `FORMS`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from crosstune.errors import UserError, did_you_mean
from crosstune.metrics.corpus import CORPUS, SUM, corpus_statistic
from crosstune.metrics.statistic import MEAN, Statistic

Kind = str
"""Name of a form, a key of `FORMS`."""

COLUMNS: Mapping[str, Any] = {
    "language": pl.String,
    "example": pl.String,
    "prompt_hash": pl.String,
    "prompt": pl.String,
    "prediction": pl.String,
    "gold": pl.String,
    "score": pl.Float64,
}
"""Columns of every table of predictions, one row an example; ``score`` is the example's main metric,
``prompt`` as much of the prompt as was asked to be kept."""


@dataclass(frozen=True)
class AnswerForm:
    """One form of answer."""

    name: str  # as tasks and run.json give it
    columns: Mapping[str, Any]  # that its predictions have besides `COLUMNS`, with their types
    has_choices: bool = False  # whether an answer is one of its example's `Example.choices`
    tags: bool = False  # whether it is one of them for each word; a text too long is split between words
    searched: bool = False  # whether it is texts that are found by vectors; nothing need be trained for it
    losses: tuple[str, ...] = ("answer",)  # values of ``train.loss`` it can be trained with
    statistic: Statistic = MEAN  # what the score of many predictions is

    def schema(self, metrics: Iterable[str] = (), sums: int = 0) -> dict[str, Any]:
        """All columns of a table of predictions, in order.

        Those of the metrics are ``metric.<name>``; those that a corpus metric sums are ``sum.<i>``.
        """
        numbers = [*(f"metric.{name}" for name in metrics), *(f"{SUM}{i}" for i in range(sums))]
        return {**COLUMNS, **self.columns, **dict.fromkeys(numbers, pl.Float64)}


FORMS: dict[Kind, AnswerForm] = {
    "choice": AnswerForm(
        "choice", {"choice_logprobs": pl.List(pl.Float64)}, True, losses=("answer", "choices")
    ),
    "generation": AnswerForm("generation", {"answer_language": pl.String}),
    "spans": AnswerForm("spans", {"answer_language": pl.String}),
    "tags": AnswerForm("tags", {}, tags=True, losses=("answer", "choices")),
    "retrieval": AnswerForm(
        "retrieval", {"cosine": pl.Float64}, searched=True, losses=("answer", "symmetric")
    ),
}
"""``choice``: log-probabilities of given choices are compared. ``generation``: greedy decoding. ``spans``:
what an encoder makes of ``generation`` where answers are parts of a context, by a head. ``tags``: a head
tells one of the choices for each word, parted by spaces. ``retrieval``: the nearest texts by states."""

CUSTOM: tuple[Kind, ...] = ("choice", "generation", "tags", "retrieval")
"""Those that tasks of a user's own can have."""

UNLABELLED = AnswerForm("text", {})
"""Text that is trained on and asks nothing."""


def form_of(kind: Kind) -> AnswerForm:
    """The form of that name; a `UserError` for an unknown one, as in a record of a later version."""
    if kind == UNLABELLED.name:
        return UNLABELLED
    if kind not in FORMS:
        raise UserError(f'unknown form of answer "{kind}"{did_you_mean(kind, FORMS)}')
    return FORMS[kind]


def statistic_of(kind: Kind, metric: str, sums: int) -> Statistic:
    """The statistic of predictions: the form's, or for ``sums`` > 0 columns ``sum.<i>`` the corpus metric's.

    Raises:
        UserError: There is no such form or corpus metric, as in a record of a later version.
    """
    if not sums:
        return form_of(kind).statistic
    if metric not in CORPUS:
        raise UserError(f'unknown corpus metric "{metric}"{did_you_mean(metric, CORPUS)}')
    return corpus_statistic(metric, sums)


def scores_by_language(predictions: pl.DataFrame, statistic: Statistic) -> dict[str, float]:
    """Scores of one run's predictions, in [0, 1], in the order of the languages' codes."""
    parts = predictions.sort("language").partition_by("language", as_dict=True, maintain_order=True)
    return {str(language): statistic.of(part) for (language,), part in parts.items()}
