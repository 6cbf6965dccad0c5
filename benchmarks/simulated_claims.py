"""Claims judged end to end on simulated studies in which they are false: how often are they supported?

Each study is a table of run records and one of predictions, as a store has them; `simulated_predictions`
draws the scores. For `statistics_check.py`.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crosstune.claims.file import Claim, PlacedClaim
from crosstune.claims.judge import judge
from crosstune.store.record import RunRecord
from simulated_predictions import Drawn, Shape, frame, shift_for, simulate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from records import as_record
from simulated import make_run

CODES = ("en", "de", "nl", "es", "fi", "et", "hu", "tr", "kk", "az", "sw", "zu", "xh",
         "ta", "te", "kn", "ar", "he", "am")  # fmt: skip
"""English and six families of three languages; of all resource classes."""

STUDY = Shape(languages=len(CODES), source=True, examples=60)
EQUAL = STUDY.without("method x language")
MARGIN = 0.08
"""A difference in mean score."""


def _gain(languages: int, of: int) -> np.ndarray:
    """Logits by language: a large lead in the first targets, none in the others."""
    lead = np.zeros(of)
    lead[1 : 1 + languages] = 6.0
    return lead


TRUTHS: dict[str, tuple[Shape, Any, dict[str, dict[str, Any]]]] = {
    "no difference in any language": (
        EQUAL,
        0.0,
        {
            "better": {},
            "better in some language": {"some": "language"},
            "better in some family": {"some": "family"},
            "better in most languages": {"most": "language"},
            "better in most families": {"most": "family"},
            "better in every family": {"every": "family"},
            "better in every family, at_least 1": {"every": "family", "at_least": 1},
            "a larger lead in low-resource languages": {"more_in": {"resource": [0, 1, 2, 3]}},
        },
    ),
    "no difference on average": (
        STUDY,
        0.0,
        {
            "better": {},
            "a smaller gap": {"quantity": "gap"},
            "a larger relative transfer above chance": {"quantity": "relative", "chance": 10},
        },
    ),
    "better in half of the languages": (
        EQUAL,
        _gain(9, len(CODES)),
        {"better in most languages": {"most": "language"}, "better in most families": {"most": "family"}},
    ),
    "better in all families but one": (
        EQUAL,
        _gain(15, len(CODES)),
        {"better in every family": {"every": "family"}, "better in every language": {"every": "language"}},
    ),
    "better by 8 points": (
        STUDY,
        shift_for(STUDY, MARGIN),
        {
            "better by more than 8": {"by": 100 * MARGIN},
            "equal within 8": {"beats": None, "equals": "lora", "within": 100 * MARGIN},
            "no worse by 8 (the other method)": {
                "method": "lora",
                "beats": None,
                "matches": "prefix",
                "within": 100 * MARGIN,
            },
        },
    ),
}
"""What is true: the study, the first method's lead in logits, and claims that are then false."""


def supported(truth: str, times: int, seed: int = 0) -> dict[str, int]:
    """How often each of the claims that are false was supported in so many studies."""
    shape, shift, claims = TRUTHS[truth]
    rng = np.random.default_rng([seed, times, 6])
    placed = []
    for name, keys in claims.items():
        claim = {"claim": name, "method": "prefix", "beats": "lora"} | keys
        facts = {key: value for key, value in claim.items() if value is not None}
        placed.append(PlacedClaim(Claim.model_validate(facts), "x:1"))
    hits = dict.fromkeys(claims, 0)
    for _ in range(times):
        runs, predictions = records(simulate(shape, rng, shift), shape)
        for name, verdict in zip(claims, judge(placed, runs, predictions), strict=True):
            hits[name] += verdict.verdict == "supported"
    return hits


def records(drawn: Drawn, shape: Shape) -> tuple[list[RunRecord], pl.DataFrame]:
    """A drawn study as records and predictions, its methods "prefix" and "lora"."""
    runs, columns = _runs(shape)
    scores = [row for rows in drawn.sample.paired.scores.values() for row in rows]
    return runs, columns.with_columns(score=pl.Series(np.concatenate(scores).astype(np.float64)))


@cache
def _runs(shape: Shape) -> tuple[list[RunRecord], pl.DataFrame]:
    base = frame(shape)
    runs = [
        as_record(
            make_run(name, name, seed, CODES, task="t", model="m", written=False) | {"id": f"{name}{seed}"}
        )
        for i, name in enumerate(("prefix", "lora"))
        for seed in range(shape.seeds_of(i))
    ]
    language = pl.Series([CODES[i] for i in base.language])
    one = {"language": language, "example": pl.Series(base.example.astype(str))}
    empty = {"answer_language": pl.lit(None, pl.String)}
    tables = [pl.DataFrame(one).with_columns(run=pl.lit(run.id), **empty) for run in runs]
    return runs, pl.concat(tables)
