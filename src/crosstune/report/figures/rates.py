"""Charts of cells by group and method, and of the languages that answers are in."""

from typing import Any

import altair as alt
import polars as pl

from crosstune.analysis.answer_language import CORRECT, SOURCE, UNDECIDED
from crosstune.analysis.groups import Grouping, group_means, language_rates
from crosstune.report.figures.style import (
    ACCENT,
    FIT,
    MUTED,
    Width,
    cell_scale,
    cells,
    measure_title,
    method_axis,
    method_rows,
)
from crosstune.report.sections import Section
from crosstune.report.text import group_name, language_name, visible

OTHER = "#e69f00"


def group_grid(
    section: Section, by: Grouping, column: str = "score", width: Width = "container"
) -> alt.LayerChart:
    """Mean of each method in each group of target languages, as cells; for methods too many for dots.

    Args:
        section: What to draw.
        by: What target languages are grouped by.
        column: ``score``, or one of `crosstune.analysis.groups.RATES`; drawn times 100.
        width: As `crosstune.report.figures.scores.heatmap`.
    """
    values = group_values(section, by, column)
    order = list(dict.fromkeys(value["group"] for value in values))
    methods = [visible(name, 60) for name in section.methods]
    scale, white = cell_scale(column, [value["value"] for value in values])
    title = measure_title(section, column)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=method_axis(methods),
        y=alt.Y("group:N", sort=order, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=170)),
        tooltip=[
            alt.Tooltip("group:N", title="Group"),
            alt.Tooltip("method:N", title="Method"),
            alt.Tooltip("value:Q", title=title, format=".2f"),
            alt.Tooltip("languages:N", title="Languages"),
        ],
    )
    layers = cells(base, title, scale, white, alt.Text("value:Q", format=".1f"))
    chart: alt.LayerChart = alt.LayerChart(layer=layers).properties(
        width=width, height=20 * len(order), autosize=FIT
    )
    return chart


def group_values(section: Section, by: Grouping, column: str) -> list[dict[str, Any]]:
    """Mean of each method in each group of target languages, times 100; groups with how many languages."""
    means = group_means(section.scores, by) if column == "score" else language_rates(section.scores, by)
    return [
        {
            "group": f"{visible(group_name(by, row['group']), 40)} ({row['languages']})",
            "method": visible(row["method"], 60),
            "value": round(100 * row[column], 3),
            "languages": visible(", ".join(language_name(code) for code in row["codes"]), 400),
        }
        for row in means.filter(pl.col(column).is_not_null()).rows(named=True)
    ]


def answer_languages(section: Section, width: Width = "container") -> alt.Chart:
    """Languages of each method's answers, of those identified, as means over target languages."""
    kinds = ["the prompt's language", section.source, "another language, or several"]
    values = []
    for row in section.table.filter(pl.col(CORRECT).is_not_null()).rows(named=True):
        right, source = row[CORRECT], row[SOURCE] or 0.0
        identified = round(100 * (1 - row[UNDECIDED]), 1)
        for place, (kind, share) in enumerate(
            zip(kinds, (right, source, max(0.0, 1 - right - source)), strict=True)
        ):
            values.append(
                {
                    "method": visible(row["method"], 60),
                    "kind": kind,
                    "place": place,
                    "value": round(100 * share, 3),
                    "identified": identified,
                }
            )
    order = [visible(name, 60) for name in section.methods]
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar(height={"band": 0.7})
        .encode(
            y=method_rows(order),
            x=alt.X(
                "value:Q",
                title="% of the answers with an identified language",
                stack="zero",
                scale=alt.Scale(domain=[0, 100]),
            ),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=kinds, range=[ACCENT, OTHER, MUTED]),
                legend=alt.Legend(orient="top", labelLimit=220, columns=2),
            ),
            order=alt.Order("place:Q"),
            tooltip=[
                alt.Tooltip("method:N", title="Method"),
                alt.Tooltip("kind:N", title="In"),
                alt.Tooltip("value:Q", title="% of those identified", format=".1f"),
                alt.Tooltip("identified:Q", title="Identified, % of all", format=".1f"),
            ],
        )
        .properties(width=width, height=24 * len(order), autosize=FIT)
    )
    return chart
