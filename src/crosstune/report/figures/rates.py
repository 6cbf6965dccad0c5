"""Charts of means by group of languages, and of the languages that answers are in."""

from typing import Any

import altair as alt
import polars as pl

from crosstune.analysis.answer_language import CORRECT, SOURCE, UNDECIDED
from crosstune.analysis.groups import Grouping, group_means, language_rates
from crosstune.report.figures import style
from crosstune.report.figures.style import ACCENT, MUTED, SECOND, Width
from crosstune.report.sections import Section
from crosstune.report.text import group_name, language_name, visible


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
    values, order, tips = _by_group(section, by, column)
    scale = style.cell_scale(column, [value["value"] for value in values])
    axis = alt.Axis(domain=False, ticks=False, labelLimit=170)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=style.method_axis([visible(name, 60) for name in section.methods]),
        y=alt.Y("group:N", sort=order, title=None, axis=axis),
        tooltip=tips,
    )
    title, text = style.axis_title(section, column), alt.Text("value:Q", format=".1f")
    layers = style.cells(base, title, scale, text)
    return style.sized(alt.LayerChart(layer=layers), width, 20 * len(order))


def group_chart(section: Section, by: Grouping, width: Width = "container") -> alt.Chart:
    """Mean score of each method in each group of target languages, as dots; arguments as `group_grid`."""
    values, order, tips = _by_group(section, by, "score")
    colour, shape, _ = style.method_scales(section, {value["method"] for value in values})
    axis, scale = (
        alt.Axis(labelLimit=170, grid=True, ticks=False),
        alt.Scale(zero=False, nice=False, padding=10),
    )
    dots: alt.Chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_point(filled=True, size=60, opacity=0.9)
        .encode(
            y=alt.Y("group:N", sort=order, title=None, axis=axis),
            # Ends where the plot does: centred under a narrow plot it would be cut at the right.
            x=alt.X(
                "value:Q",
                title=style.axis_title(section, "score"),
                scale=scale,
                axis=alt.Axis(titleAnchor="end"),
            ),
            color=alt.Color("method:N", title=None, scale=colour, legend=style.legend_below()),
            shape=alt.Shape("method:N", title=None, scale=shape),
            tooltip=tips,
        )
    )
    return style.sized(dots, width, 22 * len(order))


def _by_group(
    section: Section, by: Grouping, column: str
) -> tuple[list[dict[str, Any]], list[str], list[alt.Tooltip]]:
    """Means times 100 of each method in each group, the groups in order, and what a pointer shows."""
    means = group_means(section.scores, by) if column == "score" else language_rates(section.scores, by)
    values = [
        {
            "group": f"{visible(group_name(by, row['group']), 40)} ({row['languages']})",
            "method": visible(row["method"], 60),
            "value": round(100 * row[column], 3),
            "languages": visible(", ".join(language_name(code) for code in row["codes"]), 400),
        }
        for row in means.filter(pl.col(column).is_not_null()).rows(named=True)
    ]
    shown = {
        "group:N": "Group",
        "method:N": "Method",
        "value:Q": (style.measure_title(section, column), ".2f"),
    }
    order = list(dict.fromkeys(value["group"] for value in values))
    return values, order, style.tooltip({**shown, "languages:N": "Languages"})


def answer_languages(section: Section, width: Width = "container") -> alt.Chart:
    """Languages of each method's answers, of those identified, as means over target languages."""
    colours = {"the prompt's language": ACCENT, section.source: SECOND, "another language, or several": MUTED}
    values = []
    for row in section.table.filter(pl.col(CORRECT).is_not_null()).rows(named=True):
        right, source = row[CORRECT], row[SOURCE] or 0.0
        shares = (right, source, max(0.0, 1 - right - source))
        values += [
            {
                "method": visible(row["method"], 60),
                "kind": kind,
                "place": place,
                "value": round(100 * share, 3),
                "identified": round(100 * (1 - row[UNDECIDED]), 1),
            }
            for place, (kind, share) in enumerate(zip(colours, shares, strict=True))
        ]
    order = [visible(name, 60) for name in section.methods]
    title, scale = "% of the answers with an identified language", alt.Scale(domain=[0, 100])
    legend = alt.Legend(orient="top", labelLimit=220, columns=2)
    shown = {
        "method:N": "Method",
        "kind:N": "In",
        "value:Q": ("% of those identified", ".1f"),
        "identified:Q": ("Identified, % of all", ".1f"),
    }
    bars: alt.Chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar(height={"band": 0.7})
        .encode(
            y=style.method_rows(order),
            x=alt.X("value:Q", title=title, stack="zero", scale=scale),
            color=alt.Color("kind:N", title=None, scale=style.mapped(colours), legend=legend),
            order=alt.Order("place:Q"),
            tooltip=style.tooltip(shown),
        )
    )
    return style.sized(bars, width, 24 * len(order))
