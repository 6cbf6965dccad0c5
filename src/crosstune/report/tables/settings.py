"""The table of every setup's settings."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from crosstune.report.sections import Section
from crosstune.report.tables.tables import Column, Table
from crosstune.report.text import visible


def settings_table(parts: Sequence[Section]) -> Table:
    """The settings of every setup: runs that differ in nothing but the seed."""
    rows: list[dict[str, Any]] = []
    for part, method in [(section, method) for section in parts for method in section.methods]:
        runs = part.of(method)
        first, train = runs[0], runs[0].train or {}
        row = {
            "model": part.model,
            "revision": first.revision,
            "task": f"{part.task} v{first.task.version}",
            "method": method,
            "trained_parameters": max(run.trained_parameters or 0 for run in runs),
            "learning_rate": train.get("learning_rate"),
            "searched": first.search is not None,
            **{name: train.get(name) for name in ("steps", "batch_size", "loss")},
            "dtype": first.dtype,
            "seeds": " ".join(str(run.seed) for run in runs),
            "runs": " ".join(run.id for run in runs),
        }
        rows.append(row)
    data = pl.DataFrame(rows, infer_schema_length=None)
    numbers = ("trained_parameters", "learning_rate", "steps", "batch_size")
    columns = [
        Column(name.replace("_", " ").capitalize(), [_cell(row[name]) for row in rows], right=name in numbers)
        for name in data.columns
        if name not in ("revision", "runs")
    ]
    return Table("Settings of the runs", columns, data)


def _cell(value: Any) -> str:
    if value is None or value is False:
        return "–"
    if value is True:
        return "yes"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else visible(value, 60)
