"""XTREME-R as one number: its ten tasks by their official metrics, and their unweighted mean.

Ruder et al. 2021 (arXiv 2104.07412). A task's score is the mean over its languages, the source language among
them where the task has it; of question answering the mean of exact match and F1. The published script's own
average cannot be made, for its list of languages of LAReQA is empty; here it is that of the paper's tables.
What results lack is said by task and language: a mean over fewer is another number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from crosstune.files import table_beside
from crosstune.languages import find

FEWEST_TASKS = 4
"""Of the suite that results of one model and method need before they are shown as such."""


@dataclass(frozen=True)
class SuiteTask:
    """One task of the suite."""

    title: str  # as the paper writes it
    name: str  # of the task here
    metrics: list[str]  # whose mean is the official score
    languages: str  # canonical codes
    examples: int | None = None  # of each language's test set, where all have as many


XTREME_R = [SuiteTask(title, **entry) for title, entry in table_beside(__file__, "xtreme_r.toml").items()]


def suite_scores(scores: pl.DataFrame) -> pl.DataFrame:
    """What each model and method scores in each task of XTREME-R.

    Args:
        scores: From `crosstune.analysis.transfer.language_scores`.

    Returns:
        One row per model, method and task, those without results among them, of models and methods with
        `FEWEST_TASKS` or more: model, method, title, task, score (in [0, 1], mean over seeds, then over the
        official languages that there are; null without any), languages and expected (how many there are, and
        should be), missing (codes, parted by spaces), examples (the fewest of a language, where its test set
        has more; null otherwise) and settings (under how many protocols or setups the task was run; of
        several, that with the most languages is taken).
    """
    rows = []
    for (model, method), part in scores.group_by("model", "method", maintain_order=True):
        results = [_task_row(task, part.filter(pl.col("task") == task.name)) for task in XTREME_R]
        if sum(row["languages"] > 0 for row in results) >= FEWEST_TASKS:
            rows += [{"model": model, "method": method, **row} for row in results]
    return pl.DataFrame(rows, schema=_SCHEMA)


_SCHEMA = {
    **dict.fromkeys(("model", "method", "title", "task"), pl.String),
    "score": pl.Float64,
    "languages": pl.Int64,
    "expected": pl.Int64,
    "missing": pl.String,
    "examples": pl.Int64,
    "settings": pl.Int64,
}


def _task_row(task: SuiteTask, part: pl.DataFrame) -> dict[str, Any]:
    codes = [find(code).code for code in task.languages.split()]
    official = _official(task.metrics, part)
    scored = part.with_columns(official=official).filter(
        pl.col("language").is_in(codes), pl.col("official").is_not_null()
    )
    groups = scored.group_by("protocol", "setup", maintain_order=True)
    tables = [table for _, table in groups]
    chosen = max(tables, key=lambda table: table["language"].n_unique(), default=scored)
    # Seeds first, so that one that was not scored in all languages gives none of them another weight.
    means = chosen.group_by("language").agg(pl.col("official").mean(), pl.col("n").min())
    few = means.filter(pl.col("n") < (task.examples or 0))
    missing = [code for code in codes if code not in set(chosen["language"])]
    return {
        "title": task.title,
        "task": task.name,
        "score": means["official"].mean(),
        "languages": len(codes) - len(missing),
        "expected": len(codes),
        "missing": " ".join(missing),
        "examples": few["n"].min(),
        "settings": len(tables),
    }


def _official(metrics: Sequence[str], scores: pl.DataFrame) -> pl.Expr:
    """The mean of the official metrics, null where one was not computed."""
    columns = [
        pl.coalesce(
            pl.when(pl.col("measure") == name).then(pl.col("score")),
            pl.col(f"metric.{name}") if f"metric.{name}" in scores.columns else pl.lit(None, pl.Float64),
        )
        for name in metrics
    ]
    return pl.sum_horizontal(columns, ignore_nulls=False) / len(columns)


def suite_averages(tasks: pl.DataFrame) -> pl.DataFrame:
    """The mean over tasks of `suite_scores`.

    Returns:
        One row per model and method: model, method, average (over the tasks that have a score), tasks (how
        many these are), complete (whether that is all ten in all languages, on whole test sets).
    """
    return tasks.group_by("model", "method", maintain_order=True).agg(
        average=pl.col("score").mean(),
        tasks=pl.col("score").count(),
        complete=(pl.col("languages") == pl.col("expected")).all()
        & pl.col("score").is_not_null().all()
        & pl.col("examples").is_null().all(),
    )
