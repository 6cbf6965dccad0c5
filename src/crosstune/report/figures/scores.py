"""Charts as Altair objects: to embed in the report, save as a figure, or change in a notebook.

Data reaches a chart only as inline values, and names only as values of fixed columns, so nothing in a
dataset or a study file is ever read as part of a chart's specification.
"""

import math
from typing import Any

import altair as alt
import polars as pl

from crosstune.claims.cell import counted
from crosstune.report.figures import style
from crosstune.report.figures.style import ACCENT, MUTED, Width
from crosstune.report.sections import Section
from crosstune.report.text import visible

CURVE_POINTS = 200
ALL_CURVE_POINTS = 6_000


def heatmap(section: Section, column: str = "score", width: Width = "container") -> alt.LayerChart:
    """Language by method, languages of a family together, the family named at the right.

    Args:
        section: What to draw.
        column: ``score``, or a ``metric.<name>`` of the section's scores; drawn times 100.
        width: Pixels, or "container" to fill the page's element.
    """
    means = section.languages.filter(pl.col(column).is_not_null())
    keys = style.language_keys(means["language"].unique().to_list())
    values = [
        {
            "language": keys[row["language"]],
            **style.language_facts(row["language"]),
            "method": visible(row["method"], 60),
            "value": round(100 * row[column], 3),
            "n": row["n"],
            "seeds": row["seeds"],
        }
        for row in means.rows(named=True)
    ]
    title, order = style.measure_title(section, column), list(keys.values())
    heading = style.axis_title(section, column)
    scale = style.cell_scale(column, [value["value"] for value in values])
    y = style.language_axis(order)
    shown = {"name:N": "Language", "method:N": "Method", "value:Q": (title, ".2f"), "n:Q": "Examples"}
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=style.method_axis([visible(name, 60) for name in section.methods]),
        y=y,
        tooltip=style.tooltip({**shown, "seeds:Q": "Seeds"}),
    )
    colours, numbers = style.cells(base, heading, scale, alt.Text("value:Q", format=".1f"))
    return style.by_family([colours, numbers.encode(y=y.axis(None))], order, width)


def gap_chart(section: Section, width: Width = "container") -> alt.LayerChart:
    """Source score and mean over targets of each method, joined by the gap between them.

    Thin bars are 95% intervals of the mean over exactly these languages; the dashed line is chance.
    """
    source, targets = section.source, f"mean of {counted(section.table['targets'][0], 'target')}"
    spans, points = [], []
    for row in section.table.rows(named=True):
        method = visible(row["method"], 60)
        if row["target_mean"] is not None and row["source"] is not None:
            spans.append({"method": method, "low": 100 * row["target_mean"], "high": 100 * row["source"]})
        between = section.intervals.get(row["method"])
        for kind, mean, interval in ((source, row["source"], None), (targets, row["target_mean"], between)):
            if mean is not None:
                low, high = interval or (mean, mean)
                ends = {"from": round(100 * low, 3), "to": round(100 * high, 3)}
                points.append({"method": method, "kind": kind, "value": round(100 * mean, 3), **ends})
    order = [visible(name, 60) for name in section.methods]
    y = style.method_rows(order, 150)
    scale, title = alt.Scale(zero=False, nice=False, padding=10), style.axis_title(section, "score")
    colours, shapes = {source: MUTED, targets: ACCENT}, {source: "square", targets: "circle"}
    colour = alt.Color("kind:N", title=None, scale=style.mapped(colours), legend=alt.Legend(orient="top"))
    lines: alt.Chart = (
        alt.Chart(alt.InlineData(values=spans))
        .mark_rule(color=MUTED, strokeWidth=6, opacity=0.25)
        .encode(y=y, x=alt.X("low:Q", scale=scale, title=title, axis=alt.Axis(tickCount=8)), x2="high:Q")
    )
    base = alt.Chart(alt.InlineData(values=points)).encode(y=y, color=colour)
    spread = base.mark_rule(strokeWidth=2).encode(x=alt.X("from:Q", scale=scale, title=title), x2="to:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=alt.X("value:Q", scale=scale, title=title),
        shape=alt.Shape("kind:N", title=None, scale=style.mapped(shapes)),
        tooltip=style.tooltip({"method:N": "Method", "kind:N": "Of", "value:Q": (" ".join(title), ".2f")}),
    )
    layers = [lines, spread, dots]
    if section.levels.chance is not None:
        chance = [{"kind": "chance", "value": round(100 * section.levels.chance, 3)}]
        rule = alt.Chart(alt.InlineData(values=chance)).mark_rule(color=MUTED, strokeDash=[4, 3])
        layers.insert(0, rule.encode(x=alt.X("value:Q", scale=scale, title=title)))
    return style.sized(alt.LayerChart(layer=layers), width, 26 * len(order))


def loss_curves(section: Section, width: Width = "container") -> alt.Chart:
    """Training loss by step, one line a run."""
    labels = dict(section.scores.select("run", "method").unique().iter_rows())
    most = max(20, min(CURVE_POINTS, ALL_CURVE_POINTS // len(section.runs)))
    values: list[dict[str, Any]] = []
    for run in section.runs:
        method, stride = visible(labels[run.id], 60), max(1, math.ceil(len(run.curve) / most))
        values += [
            {"run": run.id, "method": method, "seed": run.seed, "step": point["step"], "loss": round(loss, 5)}
            for point in run.curve[::stride]
            if (loss := point.get("loss")) is not None and math.isfinite(loss)
        ]
    colour, _, dash = style.method_scales(section, {value["method"] for value in values})
    shown = {"method:N": "Method", "seed:N": "Seed", "step:Q": "Step", "loss:Q": ("Loss", ".4f")}
    lines: alt.Chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(strokeWidth=1.5, opacity=0.85)
        .encode(
            x=alt.X("step:Q", title="Step"),
            y=alt.Y("loss:Q", title="Training loss", scale=alt.Scale(zero=False)),
            detail="run:N",
            color=alt.Color("method:N", title=None, scale=colour, legend=style.legend_below()),
            strokeDash=alt.StrokeDash("method:N", title=None, scale=dash, legend=style.legend_below()),
            tooltip=style.tooltip(shown),
        )
    )
    return style.sized(lines, width, 220)


def expected_validation(section: Section, width: Width = "container") -> alt.Chart:
    """Development score to expect of the best of n settings tried, one line a method."""
    values = [
        {
            "method": visible(row["method"], 60),
            "tried": row["tried"],
            "value": round(100 * row["expected"], 3),
        }
        for row in section.expected_validation.rows(named=True)
    ]
    shown = {"method:N": "Method", "tried:Q": "Rates tried", "value:Q": ("Expected score", ".2f")}
    most = max(value["tried"] for value in values)
    lines: alt.Chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(point=True)
        .encode(
            x=alt.X("tried:Q", title="Learning rates tried", axis=alt.Axis(values=list(range(1, most + 1)))),
            y=alt.Y("value:Q", title="Expected development score, out of 100", scale=alt.Scale(zero=False)),
            color=alt.Color("method:N", title=None, legend=style.legend_below()),
            tooltip=style.tooltip(shown),
        )
    )
    return style.sized(lines, width, 200)
