"""Learning rates chosen on source-language development data: what is searched, and what the search says.

A search trains a method once for each rate, with the first of the study's seeds, and scores it on
source-language development data. No target language and no test split takes part.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from crosstune.errors import UserError

if TYPE_CHECKING:
    from crosstune.study.grid import Run

LAST_STEP = 1_000_000_000
"""``evaluate_every`` of a search run that sets none: the loop always scores after its last step."""


class SearchSettings(BaseModel):
    """What a study file says of a search.

    Attributes:
        learning_rates: To choose from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rates: tuple[Annotated[float, Field(gt=0)], ...]

    @field_validator("learning_rates")
    @classmethod
    def _several(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        if len(given) < 2:
            raise ValueError("should be two rates or more; for one, give train: {learning_rate: ...}")
        for i, rate in enumerate(given):
            if rate in given[:i]:
                raise ValueError(f"should be rates that differ: {rate:g} is listed twice")
        return given


@dataclass(frozen=True)
class Search:
    """The runs that a result run waits for.

    Attributes:
        runs: Ids of the search runs.
        rates: Their learning rates, in the same order.
    """

    runs: tuple[str, ...]
    rates: tuple[float, ...]


def dev_score(record: Mapping[str, Any]) -> float:
    """The development score of the weights that a finished search run kept.

    Args:
        record: Its run.json.

    Raises:
        UserError: It was never scored.
    """
    scores = [float(each["score"]) for each in record["dev"]]
    if not scores:
        raise UserError(
            f"search run {record['id']} has no development score; delete it and run the study again"
        )
    return max(scores)


def resolve(run: "Run", finished: Mapping[str, Mapping[str, Any]]) -> "Run":
    """A run with its learning rate filled in: the best on development data, the smaller one on ties.

    The run keeps its id. A run without a search is given back as it is.

    Args:
        run: A result run.
        finished: run.json of finished runs by id. Search runs that are not among them are left out of the
            choice: they failed.

    Raises:
        UserError: None of its search runs is finished (the first is named).
    """
    if run.search is None or run.chosen is not None:
        return run
    assert run.train is not None
    scores = {
        rate: dev_score(finished[run_id])
        for run_id, rate in zip(run.search.runs, run.search.rates, strict=True)
        if run_id in finished
    }
    if not scores:
        raise UserError(
            f"no learning rate can be chosen for {run.label}: none of its {len(run.search.runs)} search runs "
            f"is finished, {run.search.runs[0]} (rate {run.search.rates[0]:g}) the first of them"
        )
    best = min(scores, key=lambda rate: (-scores[rate], rate))
    train = run.train.model_copy(update={"learning_rate": best})
    return replace(run, train=train, chosen=scores, known_as=run.id)
