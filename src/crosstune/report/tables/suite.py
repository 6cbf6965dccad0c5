"""The table of a suite: its tasks side by side, their mean, and what is missing from it."""

from collections.abc import Iterable, Iterator

import polars as pl

from crosstune.analysis.suite import XTREME_R, suite_averages, suite_scores
from crosstune.report.tables.tables import Column, Table
from crosstune.report.text import percent, visible

SUITE = "xtreme-r"
"""How its files are called."""


def suite_table(scores: pl.DataFrame) -> Table | None:
    """XTREME-R of all models and methods that have enough of its tasks; None where none has.

    A score over fewer languages than the suite has, and a mean over fewer tasks, says over how many.
    """
    tasks = suite_scores(scores)
    if tasks.is_empty():
        return None
    data = (
        tasks.pivot("task", index=["model", "method"], values="score")
        .join(suite_averages(tasks), on=["model", "method"])
        .sort("average", "model", "method", descending=[True, False, False])
    )
    keys = data.select("model", "method").rows()
    one_model = data["model"].n_unique() == 1
    methods = pl.DataFrame(keys, ["model", "method"], orient="row")
    columns = [
        *([] if one_model else [Column("Model", [visible(model, 40) for model, _ in keys], right=False)]),
        Column("Method", [visible(method, 60) for _, method in keys], right=False),
    ]
    for task in XTREME_R:
        rows = methods.join(
            tasks.filter(pl.col("task") == task.name), ["model", "method"], maintain_order="left"
        )
        columns += _scored(task.title, rows.select("score", "languages", "expected").iter_rows())
    means = ((row["average"], row["tasks"], len(XTREME_R)) for row in data.rows(named=True))
    columns += _scored("Mean", means)
    with_model = f" with {visible(keys[0][0], 80)}" if one_model else ""
    caption = (
        f"XTREME-R{with_model}: official metrics out of 100, means of languages (accuracy; chunk F1 of UDPOS "
        "and PAN-X; mean of exact match and F1 of question answering; MRR@20 of Mewsli-X, mAP@20 of LAReQA), "
        "and their mean"
    )
    return Table(caption, columns, data, _missing(tasks, one_model))


def _scored(title: str, rows: Iterable[tuple[float | None, int, int]]) -> Iterator[Column]:
    """Scores, with of how much each is; a terminal has room for a mark only."""
    starred, with_counts = [], []
    for score, scored, expected in rows:
        incomplete = score is not None and scored < expected
        starred.append(percent(score) + "*" * incomplete)
        with_counts.append(percent(score) + f" ({scored}/{expected})" * incomplete)
    yield Column(title, starred, media=("terminal",))
    yield Column(title, with_counts, media=("page", "file"))


def _missing(tasks: pl.DataFrame, one_model: bool) -> list[str]:
    """What the suite lacks, the same of several methods in one line."""
    lines: dict[str, list[str]] = {}
    for (model, method), part in tasks.group_by("model", "method", maintain_order=True):
        rows = part.rows(named=True)
        absent = [row["title"] for row in rows if not row["languages"]]
        lacks = [f"no {', '.join(absent)}"] if absent else []
        lacks += [
            f"{row['title']} without {row['missing']}"
            for row in rows
            if 0 < row["languages"] < row["expected"]
        ]
        lacks += [
            f"{row['title']} on {row['examples']:,} examples a language"
            for row in rows
            if row["examples"] is not None
        ]
        if several := [row["title"] for row in rows if row["settings"] > 1]:
            lacks.append(f"of several settings of {', '.join(several)} that with the most languages")
        if lacks:
            name = str(method) if one_model else f"{model}, {method}"
            lines.setdefault("; ".join(lacks), []).append(name)
    if not lines:
        return ["complete: all ten tasks in all of their languages, on their whole test sets"]
    return [
        f"* incomplete, not to be compared with published means: {lacks} ({visible(', '.join(names), 200)})"
        for lacks, names in lines.items()
    ]
