"""Curves of a swept setting as Altair charts: what it does to scores, and to the language of answers."""

from typing import Literal

import altair as alt
import polars as pl

from crosstune.analysis.answer_language import CORRECT, SOURCE, UNDECIDED
from crosstune.report.figures.style import FIT, MUTED, PALETTE, SHAPES, title_text
from crosstune.report.text import visible

PANELS = {
    "score": "score",
    CORRECT: "in the right language",
    SOURCE: "in the source language",
    UNDECIDED: "language not identified",
}


def curves(table: pl.DataFrame, setting: str, width: int = 190, height: int = 150) -> alt.VConcatChart:
    """One row a task, one panel for the score and for each rate of answer languages.

    Lines are methods, with their other settings where these differ, over the setting (on a logarithmic
    axis where it spreads far); the dashed line is the model without tuning.
    Everything is a mean over target languages, times 100.

    Args:
        table: From `crosstune.analysis.curves.curve`.
        setting: Name of the axis.
        width: Of a panel, in pixels.
        height: Of a panel, in pixels.
    """
    table, setting = _shown(table), title_text(setting)
    methods = table.filter(pl.col("value").is_not_null())["line"].unique().sort().to_list()
    points = table["value"].drop_nulls().unique().sort().to_list()
    legend = alt.Legend(title="method")
    rows = []
    for (task,), part in table.group_by(["task"], maintain_order=True):
        panels = [
            _panel(part, name, methods, points, setting, legend, titled=True).properties(
                width=width, height=height
            )
            for name in _present(part)
        ]
        title = alt.TitleParams(visible(str(task)), anchor="start", fontSize=14)
        rows.append(alt.hconcat(*panels, title=title))
    chart: alt.VConcatChart = alt.vconcat(*rows).configure_view(strokeOpacity=0)
    return chart


def panels(table: pl.DataFrame, setting: str, height: int = 200) -> list[tuple[str, alt.LayerChart]]:
    """The same panels one by one, each as wide as its place in a page, with what it shows in words."""
    table, setting = _shown(table), title_text(setting)
    lines = table.filter(pl.col("value").is_not_null())["line"].unique().sort().to_list()
    points = table["value"].drop_nulls().unique().sort().to_list()
    charts = []
    for name in _present(table):
        legend = alt.Legend(orient="bottom", columns=2, labelLimit=200, title=None)
        chart = _panel(table, name, lines, points, setting, legend, titled=False)
        chart = chart.properties(width="container", height=height, autosize=FIT)
        what = "Mean score over targets" if name == "score" else f"Share of answers {PANELS[name]}"
        if name in (CORRECT, SOURCE):
            what += " (of those identified)"
        if name == UNDECIDED:
            what = "Share of answers whose language was not identified"
        charts.append((f"{what}, by {setting}", chart))
    return charts


def _shown(table: pl.DataFrame) -> pl.DataFrame:
    """The table with its lines' names as they are shown."""
    names = pl.col("line").map_elements(lambda name: visible(name, 100), return_dtype=pl.String)
    return table.with_columns(line=names)


def _present(table: pl.DataFrame) -> list[str]:
    return [name for name in PANELS if name in table.columns and table[name].null_count() < table.height]


def _panel(
    part: pl.DataFrame,
    column: str,
    methods: list[str],
    points: list[float],
    setting: str,
    legend: alt.Legend,
    *,
    titled: bool,
) -> alt.LayerChart:
    values = [
        {
            "method": row["line"],
            "value": row["value"],
            "percent": round(100 * row[column], 3),
            "examples": row["n"],
        }
        for row in part.rows(named=True)
        if row[column] is not None
    ]
    swept = alt.InlineData(values=[point for point in values if point["value"] is not None])
    still = alt.InlineData(values=[point for point in values if point["value"] is None])
    name = PANELS[column]
    if column == "score":
        name = title_text(str(part["measure"][0]).replace("_", " "))
    y = alt.Y("percent:Q", title=None, scale=alt.Scale(domain=[0, 100]) if column != "score" else alt.Scale())
    lines = (
        alt.Chart(swept, title=alt.TitleParams(name if titled else "", fontWeight="normal"))
        .mark_line(point=alt.OverlayMarkDef(size=50))
        .encode(
            x=alt.X(
                "value:Q",
                title=setting,
                scale=alt.Scale(type=_scale(points), domain=[points[0], points[-1]], nice=False, padding=8),
                axis=alt.Axis(values=points, format=_format(points), labelFontSize=9, gridOpacity=0.5),
            ),
            y=y,
            color=alt.Color(
                "method:N", sort=methods, scale=alt.Scale(domain=methods, range=PALETTE), legend=legend
            ),
            shape=alt.Shape(
                "method:N", sort=methods, scale=alt.Scale(domain=methods, range=SHAPES), legend=legend
            ),
            tooltip=[
                alt.Tooltip("method:N", title="Method"),
                alt.Tooltip("value:Q", title=setting),
                alt.Tooltip("percent:Q", title=name),
                alt.Tooltip("examples:Q", title="Examples"),
            ],
        )
    )
    layers = [lines]
    if still.values:
        layers.append(alt.Chart(still).mark_rule(strokeDash=[5, 4], color=MUTED).encode(y=y))
    return alt.LayerChart(layer=layers)


def _scale(points: list[float]) -> Literal["log", "linear"]:
    """Logarithmic where values spread over more than a few times the least."""
    return "log" if points[0] > 0 and points[-1] >= 4 * points[0] else "linear"


def _format(points: list[float]) -> str:
    """Rates read best as 3e-4, lengths and counts as 10."""
    return ".0e" if points[0] < 0.01 else "~g"
