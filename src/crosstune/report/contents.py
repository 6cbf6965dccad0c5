"""The charts of a section, by their place in the page."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from crosstune.analysis.answer_language import SOURCE
from crosstune.analysis.curves import MODEL_SIZE, curve, swept
from crosstune.report.comparison import references
from crosstune.report.figures import differences as difference_charts
from crosstune.report.figures import rates
from crosstune.report.figures import scores as charts
from crosstune.report.figures.curves import panels
from crosstune.report.page.embed import embedded_json
from crosstune.report.sections import Section
from crosstune.report.text import GROUPINGS, visible
from crosstune.store.record import RunRecord

MANY_METHODS = 8
"""From here on dots of one line can no longer be told apart, and cells take their place."""

Drawn = dict[str, list[dict[str, Any]]]


def figures(section: Section) -> Drawn:
    """Charts by place, each with its spec, caption and least readable width in pixels."""
    grid = 210 + 32 * len(section.methods)
    wide = 210 + 44 * len(section.methods)
    source, names = section.source, references(section)
    drawn: Drawn = {
        "gap": [],
        "forest": [],
        "languages": [],
        "curves": [],
        "groups": [],
        "wrong": [],
        "training": [],
    }
    drawn["gap"].append(
        _figure(charts.gap_chart(section), f"{source} and the mean of targets, by method", 300)
    )
    if len(section.methods) > 1 and names:
        text = "Difference from the reference, with 95% interval; in grey what could not have been seen"
        drawn["forest"].append(_figure(difference_charts.forest(section), text, 300))
    drawn["languages"].append(_figure(charts.heatmap(section), "Score by language and method", grid))
    if len(section.methods) > 1 and names:
        text = f"Difference from {names[0]} by language; * where a test shows it (5%, Holm over languages)"
        drawn["languages"].append(_figure(difference_charts.by_language(section, names[0]), text, wide))
    if section.table["targets"][0]:
        drawn["groups"] = _groups(section, grid)
    if section.table["targets"][0]:
        drawn["curves"] = curve_figures(section.runs, section.scores)
    if section.has_in_english:
        text = "Share of answers that are right, but written in English"
        drawn["wrong"].append(_figure(charts.in_english(section), text, grid, table=True))
    if section.has_answer_language and section.table["targets"][0]:
        text = "Language of the answers, of those whose language could be told"
        drawn["wrong"].insert(0, _figure(rates.answer_languages(section), text, 300, table=True))
        for by in ("family", "script"):
            text = f"Share of answers in {source} instead, by {by} (in brackets: how many target languages)"
            drawn["wrong"].append(_figure(rates.group_grid(section, by, SOURCE), text, grid, table=True))
        text = f"Share of answers in {source} instead of the prompt's language"
        drawn["wrong"].append(_figure(charts.in_source(section), text, grid, table=True))
    loss = charts.loss_curves(section)
    if loss is not None:
        drawn["training"].append(_figure(loss, "Training loss, one line a run", 300))
    return drawn


def curve_figures(runs: Sequence[RunRecord], scores: pl.DataFrame) -> list[dict[str, Any]]:
    """Curves of every setting that some runs differ in while their others stay the same."""
    found = []
    for setting in swept(runs, scores):
        if setting == MODEL_SIZE:
            continue
        for text, chart in panels(curve(runs, scores, setting), setting.replace("_", " ")):
            found.append(_figure(chart, text, 320, table=True))
    return found


def model_figures(runs: Sequence[RunRecord], scores: pl.DataFrame) -> list[dict[str, Any]]:
    """Curves through models of different sizes, a task each."""
    if MODEL_SIZE not in swept(runs, scores):
        return []
    table = curve(runs, scores, MODEL_SIZE)
    found = []
    for (task,), part in table.group_by(["task"], maintain_order=True):
        if part["value"].drop_nulls().n_unique() > 1:
            for text, chart in panels(part, "model parameters"):
                found.append(_figure(chart, f"{visible(task, 60)}: {text}", 320, table=True))
    return found


def _groups(section: Section, grid: int) -> list[dict[str, Any]]:
    found = []
    many = len(section.methods) > MANY_METHODS
    for by, name in GROUPINGS.items():
        text = f"Mean by {name.lower()} (in brackets: how many target languages)"
        chart = rates.group_grid(section, by) if many else charts.group_chart(section, by)
        found.append(_figure(chart, text, grid if many else 300))
    return found


def _figure(
    chart: alt.Chart | alt.LayerChart, caption: str, least: int, table: bool = False
) -> dict[str, Any]:
    """What the page needs of a chart; with ``table`` its numbers too, where no other table has them."""
    spec = chart.to_dict()
    numbers = table_of(spec) if table else None
    return {"spec": embedded_json(spec), "caption": caption, "least": least, "table": numbers}


def table_of(spec: dict[str, Any]) -> dict[str, Any]:
    """The values of a chart's layers as a table, with the columns that its tooltips name.

    A layer without tooltips (a line across the chart) has the first layer's columns, empty where it has none.
    """
    layers = [spec | layer for layer in spec.get("layer", [spec])]  # what layers share stands above them
    told: list[dict[str, str]]
    told = next(each["encoding"]["tooltip"] for each in layers if "tooltip" in each.get("encoding", {}))
    columns = [(tip["field"], tip.get("title", tip["field"])) for tip in told]
    numbers = {tip["field"] for tip in told if tip["type"] == "quantitative"}
    values = [value for layer in layers for value in spec["datasets"][layer["data"]["name"]]]
    rows = [tuple(_written(value.get(name)) for name, _ in columns) for value in values]
    return {
        "columns": [(title, name in numbers) for name, title in columns],
        "rows": list(dict.fromkeys(rows)),
    }


def _written(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
