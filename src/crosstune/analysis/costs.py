"""What runs cost: time, tokens, memory and energy, summed by model, task and method."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from crosstune.store.record import RunRecord

_SCHEMA: dict[str, Any] = {
    "model": pl.String,
    "task": pl.String,
    "method": pl.String,
    "kind": pl.String,
    "runs": pl.Int64,
    "load_seconds": pl.Float64,
    "train_seconds": pl.Float64,
    "evaluate_seconds": pl.Float64,
    "train_tokens": pl.Int64,
    "test_tokens": pl.Int64,
    "peak_memory_bytes": pl.Int64,
    "energy_joules": pl.Float64,
    "halvings": pl.Int64,
    "resumed": pl.Int64,
}


def costs(runs: Sequence[RunRecord]) -> pl.DataFrame:
    """Sum what runs cost.

    Args:
        runs: Records of results and of the runs that searched a setting for them.

    Returns:
        One row per model, task, method and kind ("result" or "search"), in the order of the runs: runs,
        seconds of loading (each load counted once), of training and of evaluation, tokens read in training
        and in evaluation, the highest peak of memory, joules, how often a pass was halved for want of memory
        and how often a run was resumed. A sum is null where no run has the figure: a machine that
        does not tell its energy has used some all the same. Training taken over from a search counts there.
    """
    rows = [_row(run) for run in runs]
    table = pl.DataFrame(rows, schema=_SCHEMA)
    keys = ["model", "task", "method", "kind"]
    return table.group_by(keys, maintain_order=True).agg(_totals()).select(list(_SCHEMA))


def total(table: pl.DataFrame) -> dict[str, Any]:
    """The last row of a table of `costs`: everything together."""
    row = table.select(_totals()).row(0, named=True)
    return {"model": "", "task": "", "method": "all", "kind": "", **row}


def _totals() -> list[pl.Expr]:
    summed = pl.col([name for name in _SCHEMA if name.endswith(("_seconds", "_tokens", "_joules"))])
    return [
        pl.col("runs", "halvings", "resumed").sum(),
        pl.when(summed.is_not_null().any()).then(summed.sum()),
        pl.col("peak_memory_bytes").max(),
    ]


def _row(run: RunRecord) -> dict[str, Any]:
    row = {"model": run.model, "task": run.task.name, "method": run.label, "kind": run.kind, "runs": 1}
    row |= {name: getattr(run.cost, name) for name in _SCHEMA if name not in row}
    if run.cost.train_from is not None:
        row |= {"train_seconds": None, "train_tokens": None}
    return row
