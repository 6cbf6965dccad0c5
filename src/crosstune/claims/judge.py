"""Verdicts on claims: supported, contradicted, or not enough data. The rules are in `docs/claims.md`.

A claim is split into cells: one for each model, task and method it names, and within these one for each group
it names. Each cell tests the difference between two methods against the claim's threshold, or two for
equivalence (two-sided, so that a cell can hold, fail, or stay open), with Holm correction over the cells. The
quantifier (every, most, some) combines them into one verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from crosstune.analysis.predictions import Predictions
from crosstune.analysis.statistics.multiplicity import holm
from crosstune.analysis.transfer import language_scores
from crosstune.claims.cell import Cell, counted, needed
from crosstune.claims.cells import cells_of
from crosstune.claims.choose_runs import NoRunsError, same_model
from crosstune.claims.evidence import Evidence
from crosstune.claims.file import Claim, PlacedClaim
from crosstune.claims.stated import as_stated
from crosstune.store.frozen import Frozen
from crosstune.store.record import RunRecord

Ruling = Literal["supported", "contradicted", "not enough data", "literature"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim."""

    claim: str  # text of the claim
    source: str  # where it was made
    place: str  # its file and line ("paper.yaml:12")
    verdict: Ruling  # "supported", "contradicted", "not enough data"; "literature" where no result can decide
    reason: str  # in one sentence
    threshold: float  # the difference must be above it, in [-1, 1]
    metric: str  # what the difference is of (`Claim.measured`)
    # Two-sided p value of the verdict, corrected over the claim's cells; None for not enough data.
    p: float | None
    # Of the cells that make the verdict the extreme one: of "every" the lowest difference, of "some" the
    # highest, of "most" the middle one. It has no difference where there are no runs.
    cell: Cell
    cells: tuple[Cell, ...]  # all of them
    runs: tuple[str, ...]  # ids of all compared runs
    # ``p`` after Holm correction over all claims with data that are judged together.
    p_together: float | None = None
    frozen: str = ""  # when the claim was fixed, and whether before its runs; "" if it was not


def judge(
    claims: Sequence[PlacedClaim],
    runs: Sequence[RunRecord],
    predictions: pl.DataFrame | Predictions,
    scores: pl.DataFrame | None = None,
    frozen: Sequence[Frozen] = (),
) -> list[Verdict]:
    """Judge claims by results.

    Args:
        claims: From `crosstune.claims.file.read_claims`.
        runs: Records of finished runs.
        predictions: Of these, one row an example; `Predictions` of a store are read when a claim needs them.
        scores: Their `crosstune.analysis.transfer.language_scores`, where they are at hand.
        frozen: Files of claims that were fixed before results.

    Returns:
        One verdict a claim, in the claims' order.

    Raises:
        UserError: As `crosstune.analysis.transfer.language_scores`.
    """
    evidence = Evidence(runs, predictions, language_scores(runs, predictions) if scores is None else scores)
    verdicts = [
        _verdict(placed, evidence) if placed.claim.compares else _stated(placed, runs) for placed in claims
    ]
    tested = [verdict for verdict in verdicts if verdict.cell.difference is not None]
    adjusted = dict(zip(map(id, tested), holm([verdict.p or 1.0 for verdict in tested]), strict=True))
    return [
        replace(
            verdict,
            p_together=None if verdict.p is None else adjusted[id(verdict)],
            frozen=_frozen(placed, verdict, frozen),
        )
        for placed, verdict in zip(claims, verdicts, strict=True)
    ]


def about(claims: Sequence[PlacedClaim], runs: Sequence[RunRecord]) -> list[PlacedClaim]:
    """The claims on results that name no model, and all that name a model that some run uses."""
    models = {run.model for run in runs}
    return [
        entry
        for entry in claims
        if (entry.claim.model is None and entry.claim.compares)
        or any(same_model(wanted, model) for wanted in entry.claim.model or () for model in models)
    ]


def verdict_table(verdicts: Sequence[Verdict]) -> pl.DataFrame:
    """Verdicts as a table, one row a claim.

    Columns: verdict, claim, source, place, reason, metric, threshold, cells (how many), and of the deciding
    cell where, a, b, difference, low, high, p, p_corrected, detectable, languages, examples, seeds_a,
    seeds_b, effort and note; then p_together, frozen and runs (ids, of all cells).
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
    **dict.fromkeys(("difference", "low", "high", "p", "p_corrected", "detectable"), pl.Float64),
    **dict.fromkeys(("languages", "examples", "seeds_a", "seeds_b"), pl.Int64),
    **dict.fromkeys(("effort", "note"), pl.String),
    "p_together": pl.Float64,
    "frozen": pl.String,
    "runs": pl.List(pl.String),
}


def _verdict(placed: PlacedClaim, evidence: Evidence) -> Verdict:
    claim = placed.claim
    cells = cells_of(claim, evidence)
    ruling = _ruling(claim, cells)
    return Verdict(
        claim=claim.claim,
        source=claim.source,
        place=placed.place,
        verdict=ruling,
        reason=_reason(claim, cells),
        threshold=claim.threshold,
        metric=claim.measured,
        p=_p(claim, ruling, cells),
        cell=_deciding(claim, ruling, cells),
        cells=tuple(cells),
        runs=tuple(dict.fromkeys(run for cell in cells for run in cell.runs)),
    )


def _frozen(placed: PlacedClaim, verdict: Verdict, frozen: Sequence[Frozen]) -> str:
    for entry in frozen:
        if entry.sha256 == placed.sha256:
            early = len(set(verdict.runs) & set(entry.runs))
            when = f"after {early} of its {len(verdict.runs)} runs" if early else "before its runs"
            return f"frozen on {entry.day}, {when}"
    name = placed.place.rpartition(":")[0]
    changed = [entry for entry in frozen if entry.name == name]
    return f"changed since it was frozen on {changed[-1].day}" if changed else ""


def _stated(placed: PlacedClaim, runs: Sequence[RunRecord]) -> Verdict:
    """On a claim that compares nothing: how runs are set up, or what the literature says."""
    claim = placed.claim
    ids: tuple[str, ...] = ()
    ruling: Ruling = "literature"
    reason = claim.literature or ""
    if claim.setup is not None:
        try:
            holds, reason, ids = as_stated(claim, runs)
            ruling = "supported" if holds else "contradicted"
        except NoRunsError as why:
            ruling, reason = "not enough data", str(why)
    return Verdict(
        claim.claim,
        claim.source,
        placed.place,
        ruling,
        reason,
        0.0,
        "setup",
        None,
        Cell("", runs=ids),
        (),
        ids,
    )


def _deciding(claim: Claim, ruling: Ruling, cells: Sequence[Cell]) -> Cell:
    """The extreme one among the cells that make the verdict."""
    outcome = {"supported": "yes", "contradicted": "no"}.get(ruling, "open")
    known = [cell for cell in cells if cell.difference is not None]
    known = [cell for cell in known if cell.outcome == outcome] or known
    if not known:
        return cells[0]
    # Of methods that are to be equal, the largest difference counts as the lowest.
    known.sort(key=lambda cell: -abs(cell.difference or 0.0) if claim.equals else cell.difference or 0.0)
    return known[{"every": 0, "some": -1, "most": (len(known) - 1) // 2}[claim.quantifier]]


def _ruling(claim: Claim, cells: Sequence[Cell]) -> Ruling:
    """The verdict from the cells' outcomes."""
    yes, no = needed(claim.quantifier, len(cells))
    if sum(cell.outcome == "yes" for cell in cells) >= yes:
        return "supported"
    return "contradicted" if sum(cell.outcome == "no" for cell in cells) >= no else "not enough data"


def _p(claim: Claim, ruling: Ruling, cells: Sequence[Cell]) -> float | None:
    """The largest p value among as many cells as the verdict needs; None for no verdict."""
    if ruling == "not enough data":
        return None
    outcome, place = ("yes", 0) if ruling == "supported" else ("no", 1)
    p_values = sorted(cell.p_corrected or 0.0 for cell in cells if cell.outcome == outcome)
    return p_values[needed(claim.quantifier, len(cells))[place] - 1]


def _reason(claim: Claim, cells: Sequence[Cell]) -> str:
    if len(cells) == 1:
        return _one_reason(claim, cells[0])
    yes, no = (sum(cell.outcome == which for cell in cells) for which in ("yes", "no"))
    places = len({cell.where.rpartition(", ")[0] for cell in cells})
    # Of several models, tasks or methods, a cell is more than a language.
    what = claim.per if claim.per is not None and places == 1 else "comparison"
    counts = f"holds in {yes} of {counted(len(cells), what)}, fails in {no}"
    if yes + no == len(cells):
        return counts
    missing = [cell for cell in cells if cell.difference is None]
    if missing:
        if len(missing) == len(cells):
            more = f" (and {len(missing) - 1} more without results)" if len(missing) > 1 else ""
            return f"{missing[0].why}{more}"
        judged = f"{len(cells) - len(missing)} of {len(cells)} judged"
        return f"{counts}; {judged} ({missing[0].why}{', ...' if len(missing) > 1 else ''})"
    short = next((cell for cell in cells if cell.outcome == "open" and cell.why), None)
    return f"{counts}; {short.why}" if short is not None else f"{counts}, open in {len(cells) - yes - no}"


def _one_reason(claim: Claim, cell: Cell) -> str:
    side = f"{100 * claim.threshold:+g} points" if claim.threshold else "0"
    if cell.why:
        return cell.why
    if claim.equals is not None:
        place = {"yes": "inside", "no": "outside", "open": "not wholly inside"}[cell.outcome]
        return f"the interval is {place} ±{100 * claim.threshold:g} points"
    if cell.outcome != "open":
        return f"the interval is {'above' if cell.outcome == 'yes' else 'below'} {side}"
    shown = "none" if cell.detectable is None else f"{100 * cell.detectable:.1f} points"
    return f"the interval includes {side}; minimum detectable difference from it: {shown} (80% power)"
