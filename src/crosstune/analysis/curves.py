"""How scores and answer languages move with a setting that was swept, such as the learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from crosstune.analysis.transfer import comparable
from crosstune.errors import UserError


def curve(runs: Sequence[Mapping[str, Any]], scores: pl.DataFrame, setting: str) -> pl.DataFrame:
    """Means over target languages by the value of a training setting.

    Only languages that every run of a comparison was scored on are averaged, each with the same weight; seeds
    are averaged after that. Methods that are not trained have one row, with ``value`` null.

    Args:
        runs: Finished runs, as their ``run.json`` holds them.
        scores: Of these, from `crosstune.analysis.transfer.language_scores`.
        setting: Key of the training settings, such as "learning_rate".

    Returns:
        One row per model, task, protocol, method_name and value: seeds, targets (languages), n (examples),
        measure, score, and the mean of every ``metric.<name>`` over the languages that have it. Scores are in
        [0, 1].

    Raises:
        UserError: No run has a number for the setting.
    """
    values = {run["id"]: None if run["train"] is None else run["train"].get(setting) for run in runs}
    if not any(isinstance(value, int | float) for value in values.values()):
        raise UserError(f"no run has a number for train.{setting}: there is no curve to draw")
    metrics = [name for name in scores.columns if name.startswith("metric.")]
    keys = ["model", "task", "protocol", "method_name", "value"]
    targets = comparable(scores).filter(~pl.col("is_source"))
    with_value = targets.with_columns(
        value=pl.col("run").replace_strict(values, default=None, return_dtype=pl.Float64)
    )
    per_run = with_value.group_by([*keys, "run"]).agg(
        pl.col("measure").first(),
        pl.col("n").sum(),
        pl.col("language").n_unique().alias("targets"),
        pl.col("score").mean(),
        *[pl.col(name).mean() for name in metrics],
    )
    return (
        per_run.group_by(keys)
        .agg(
            pl.len().alias("seeds"),
            pl.col("measure").first(),
            pl.col("targets").first(),
            pl.col("n").sum(),
            pl.col("score").mean(),
            *[pl.col(name).mean() for name in metrics],
        )
        .sort(keys, nulls_last=False)
    )
