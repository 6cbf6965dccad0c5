"""Curves of a swept setting as Altair charts: what it does to scores, and to the language of answers."""

from typing import Literal

import altair as alt
import polars as pl

from crosstune.analysis.answer_language import CORRECT, SOURCE, UNDECIDED
from crosstune.report.figures.style import FIT, MUTED, PALETTE, SHAPES, title_text, tooltip
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
    Everything is a mean over target languages (`crosstune.analysis.curves.curve`), times 100. A panel's width
    and height are in pixels.
    """
    table, setting = _shown(table), title_text(setting)
    legend = alt.Legend(title="method")
    rows = []
    for (task,), part in table.group_by(["task"], maintain_order=True):
        shown = [
            _panel(part, name, table, setting, legend, titled=True).properties(width=width, height=height)
            for name in _present(part)
        ]
        title = alt.TitleParams(visible(str(task)), anchor="start", fontSize=14)
        rows.append(alt.hconcat(*shown, title=title))
    chart: alt.VConcatChart = alt.vconcat(*rows).configure_view(strokeOpacity=0)
    return chart


def panels(table: pl.DataFrame, setting: str, height: int = 200) -> list[tuple[str, alt.LayerChart]]:
    """The same panels one by one, each as wide as its place in a page, with what it shows in words."""
    table, setting = _shown(table), title_text(setting)
    shown = []
    for name in _present(table):
        legend = alt.Legend(orient="bottom", columns=2, labelLimit=200, title=None)
        chart = _panel(table, name, table, setting, legend, titled=False)
        what = "Mean score over targets" if name == "score" else f"Share of answers {PANELS[name]}"
        if name in (CORRECT, SOURCE):
            what += " (of those identified)"
        if name == UNDECIDED:
            what = "Share of answers whose language was not identified"
        sized = chart.properties(width="container", height=height, autosize=FIT)
        shown.append((f"{what}, by {setting}", sized))
    return shown


def _shown(table: pl.DataFrame) -> pl.DataFrame:
    """The table with its lines' names as they are shown."""
    names = pl.col("line").map_elements(lambda name: visible(name, 100), return_dtype=pl.String)
    return table.with_columns(line=names)


def _present(table: pl.DataFrame) -> list[str]:
    return [name for name in PANELS if name in table.columns and table[name].null_count() < table.height]


def _panel(
    part: pl.DataFrame, column: str, table: pl.DataFrame, setting: str, legend: alt.Legend, *, titled: bool
) -> alt.LayerChart:
    """One column of a part of a table, drawn with the colours and the axis of the whole table."""
    methods = table.filter(pl.col("value").is_not_null())["line"].unique().sort().to_list()
    points = table["value"].drop_nulls().unique().sort().to_list()
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
    swept = alt.InlineData(values=[value for value in values if value["value"] is not None])
    still = alt.InlineData(values=[value for value in values if value["value"] is None])
    name = PANELS[column]
    if column == "score":
        name = title_text(str(part["measure"][0]).replace("_", " "))
    y = alt.Y("percent:Q", title=None, scale=alt.Scale(domain=[0, 100]) if column != "score" else alt.Scale())
    # Logarithmic where values spread over more than a few times the least.
    spread: Literal["log", "linear"] = "log" if points[0] > 0 and points[-1] >= 4 * points[0] else "linear"
    scale = alt.Scale(type=spread, domain=[points[0], points[-1]], nice=False, padding=8)
    # Rates read best as 3e-4, lengths and counts as 10.
    written = ".0e" if points[0] < 0.01 else "~g"
    axis = alt.Axis(values=points, format=written, labelFontSize=9, gridOpacity=0.5)
    colours, shapes = alt.Scale(domain=methods, range=PALETTE), alt.Scale(domain=methods, range=SHAPES)
    shown = {"method:N": "Method", "value:Q": setting, "percent:Q": name, "examples:Q": "Examples"}
    lines = (
        alt.Chart(swept, title=alt.TitleParams(name if titled else "", fontWeight="normal"))
        .mark_line(point=alt.OverlayMarkDef(size=50))
        .encode(
            x=alt.X("value:Q", title=setting, scale=scale, axis=axis),
            y=y,
            color=alt.Color("method:N", sort=methods, scale=colours, legend=legend),
            shape=alt.Shape("method:N", sort=methods, scale=shapes, legend=legend),
            tooltip=tooltip(shown),
        )
    )
    layers = [lines]
    if still.values:
        layers.append(alt.Chart(still).mark_rule(strokeDash=[5, 4], color=MUTED).encode(y=y))
    return alt.LayerChart(layer=layers)
