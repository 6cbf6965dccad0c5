"""Verdicts on claims: supported, contradicted, or not enough data. The rules are in `docs/claims.md`.

A claim is split into cells: one for each model, task and method it names, and within these one for each group
it names. Each cell tests the difference between two methods against the claim's threshold (two-sided, so that
a cell can hold, fail, or stay open), with Holm correction over the cells. The quantifier (every, most, some)
combines them into one verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from crosstune.analysis.predictions import Predictions
from crosstune.analysis.transfer import language_scores
from crosstune.claims.cells import Cell, Evidence, cells_of, counted
from crosstune.claims.choose_runs import same_model
from crosstune.claims.file import Claim, PlacedClaim
from crosstune.store.record import RunRecord

Ruling = Literal["supported", "contradicted", "not enough data"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        claim: Text of the claim.
        source: Where it was made.
        place: Its file and line ("paper.yaml:12").
        verdict: "supported", "contradicted" or "not enough data".
        reason: In one sentence.
        threshold: The difference must be above it, in [-1, 1].
        metric: The compared metric.
        cell: The cell that decides: of "every" the lowest difference, of "some" the highest, of "most" the
            middle one. It has no difference where there are no runs.
        cells: All of them.
        runs: Ids of all compared runs.
    """

    claim: str
    source: str
    place: str
    verdict: Ruling
    reason: str
    threshold: float
    metric: str
    cell: Cell
    cells: tuple[Cell, ...]
    runs: tuple[str, ...]


def judge(
    claims: Sequence[PlacedClaim],
    runs: Sequence[RunRecord],
    predictions: pl.DataFrame | Predictions,
    scores: pl.DataFrame | None = None,
) -> list[Verdict]:
    """Judge claims by results.

    Args:
        claims: From `crosstune.claims.file.read_claims`.
        runs: Records of finished runs.
        predictions: Of these, one row an example; `Predictions` of a store are read when a claim needs them.
        scores: Their `crosstune.analysis.transfer.language_scores`, where they are at hand.

    Returns:
        One verdict a claim, in the claims' order.

    Raises:
        UserError: As `crosstune.analysis.transfer.language_scores`.
    """
    evidence = Evidence(runs, predictions, language_scores(runs, predictions) if scores is None else scores)
    return [_verdict(placed, evidence) for placed in claims]


def about(claims: Sequence[PlacedClaim], runs: Sequence[RunRecord]) -> list[PlacedClaim]:
    """The claims that name no model, or a model that some run uses."""
    models = {run.model for run in runs}
    return [
        entry
        for entry in claims
        if entry.claim.model is None
        or any(same_model(wanted, model) for wanted in entry.claim.model for model in models)
    ]


def verdict_table(verdicts: Sequence[Verdict]) -> pl.DataFrame:
    """Verdicts as a table, one row a claim.

    Columns: verdict, claim, source, place, reason, metric, threshold, cells (how many), and of the deciding
    cell where, a, b, difference, low, high, p, p_holm, detectable, languages, examples, seeds_a and seeds_b;
    then runs (ids, of all cells).
    """
    rows = []
    for verdict in verdicts:
        row = vars(verdict.cell) | vars(verdict) | {"cells": len(verdict.cells)}
        rows.append({name: row[name] for name in _SCHEMA})
    return pl.DataFrame(rows, schema=_SCHEMA)


_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("verdict", "claim", "source", "place", "reason", "metric"), pl.String),
    "threshold": pl.Float64,
    "cells": pl.Int64,
    **dict.fromkeys(("where", "a", "b"), pl.String),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm", "detectable"), pl.Float64),
    **dict.fromkeys(("languages", "examples", "seeds_a", "seeds_b"), pl.Int64),
    "runs": pl.List(pl.String),
}


def _verdict(placed: PlacedClaim, evidence: Evidence) -> Verdict:
    claim = placed.claim
    cells = cells_of(claim, evidence)
    ruling, reason = _ruling(claim, cells)
    return Verdict(
        claim=claim.claim,
        source=claim.source,
        place=placed.place,
        verdict=ruling,
        reason=reason,
        threshold=claim.threshold,
        metric=claim.metric,
        cell=_deciding(claim, cells),
        cells=tuple(cells),
        runs=tuple(dict.fromkeys(run for cell in cells for run in cell.runs)),
    )


def _deciding(claim: Claim, cells: Sequence[Cell]) -> Cell:
    known = [cell for cell in cells if cell.difference is not None]
    if not known:
        return cells[0]
    known.sort(key=lambda cell: cell.difference or 0.0)
    return known[{"every": 0, "some": -1, "most": (len(known) - 1) // 2}[claim.quantifier]]


def _ruling(claim: Claim, cells: Sequence[Cell]) -> tuple[Ruling, str]:
    """The verdict from the cells' outcomes, with the reason."""
    yes, no = (sum(cell.outcome == which for cell in cells) for which in ("yes", "no"))
    total = len(cells)
    holds = {"every": yes == total, "some": yes > 0, "most": 2 * yes > total}[claim.quantifier]
    fails = {"every": no > 0, "some": no == total, "most": 2 * no >= total}[claim.quantifier]
    ruling: Ruling = "supported" if holds else "contradicted" if fails else "not enough data"
    return ruling, _count(claim, cells, yes, no)


def _count(claim: Claim, cells: Sequence[Cell], yes: int, no: int) -> str:
    if len(cells) == 1:
        return _one_reason(claim, cells[0])
    what = claim.per if claim.per is not None else "comparison"
    counts = f"holds in {yes} of {counted(len(cells), what)}, fails in {no}"
    if yes + no == len(cells):
        return counts
    missing = [cell for cell in cells if cell.difference is None]
    if missing:
        more = f" (and {len(missing) - 1} more without results)" if len(missing) > 1 else ""
        reason = f"{missing[0].why}{more}"
        return reason if len(missing) == len(cells) else f"{counts}; {reason}"
    short = next((cell for cell in cells if cell.outcome == "open" and cell.why), None)
    return f"{counts}; {short.why}" if short is not None else f"{counts}, open in {len(cells) - yes - no}"


def _one_reason(claim: Claim, cell: Cell) -> str:
    side = f"{100 * claim.threshold:+g} points" if claim.threshold else "0"
    if cell.why:
        return cell.why
    if cell.outcome != "open":
        return f"the interval is {'above' if cell.outcome == 'yes' else 'below'} {side}"
    assert cell.detectable is not None
    return (
        f"the interval includes {side}; minimum detectable difference from it: "
        f"{100 * cell.detectable:.1f} points (80% power)"
    )
