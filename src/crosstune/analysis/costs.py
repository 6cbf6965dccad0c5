"""What runs cost: time, tokens, memory and energy, summed by model, task and method."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from crosstune.store.record import RunRecord

_KEYS = ("model", "task", "method", "kind")
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(_KEYS, pl.String),
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
    """Sum what results, and the runs that searched a setting for them, cost.

    Returns:
        One row per model, task, method and kind ("result" or "search"), in the order of the runs: runs,
        seconds of loading (each load counted once), of training and of evaluation, tokens read in training
        and in evaluation, the highest peak of memory, joules, how often a pass was halved for want of memory
        and how often a run was resumed. A sum is null where no run has the figure: a machine that
        does not tell its energy has used some all the same. Training taken over from a search counts there.
    """
    rows = []
    for run in runs:
        row = {"model": run.model, "task": run.task.name, "method": run.label, "kind": run.kind, "runs": 1}
        row |= {name: getattr(run.cost, name) for name in _SCHEMA if name not in row}
        taken_over = run.cost.train_from is not None
        rows.append(row | ({"train_seconds": None, "train_tokens": None} if taken_over else {}))
    table = pl.DataFrame(rows, schema=_SCHEMA)
    return table.group_by(_KEYS, maintain_order=True).agg(_totals()).select(list(_SCHEMA))


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
