"""Charts of paired differences: a forest plot over all targets, and one cell for each language and method."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from crosstune.report.figures import style
from crosstune.report.figures.style import ACCENT, MUTED, WORSE, Width
from crosstune.report.sections import ALPHA, Section, outcome
from crosstune.report.text import p_value, points, visible

OUTCOMES = {"better": ACCENT, "worse": WORSE, "not significant": MUTED}
SIGNS = {"better": "triangle-up", "worse": "triangle-down", "not significant": "circle"}


def forest(section: Section, width: Width = "container") -> alt.LayerChart:
    """Difference of every method from a reference, with its interval.

    The grey band marks differences too small to detect with 80% power. The parameter ``reference`` is an
    index into `Section.references`.
    """
    values = [
        {
            "reference": place,
            "method": visible(row["a"], 60),
            "value": round(100 * row["difference"], 3),
            "outcome": outcome(row),
            **_tested(row),
        }
        for place, reference in enumerate(section.references)
        for row in section.against(reference).rows(named=True)
    ]
    order = [visible(name, 60) for name in section.methods]
    chosen = alt.param(name="reference", value=0)
    y = style.method_rows(order, grid=True).scale(domain=order)
    base = alt.Chart(alt.InlineData(values=values)).transform_filter("datum.reference == reference")
    base = base.encode(y=y)
    scale = alt.Scale(nice=False, padding=10)
    title = "Points from the reference"
    colour = alt.Color("outcome:N", title=None, scale=style.mapped(OUTCOMES), legend=alt.Legend(orient="top"))
    band = base.mark_rule(strokeWidth=11, opacity=0.22, color=MUTED).encode(
        x=alt.X("least:Q", scale=scale, title=title, axis=alt.Axis(tickCount=10)), x2="most:Q"
    )
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(color=MUTED).encode(x="zero:Q")
    interval = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("low:Q", scale=scale, title=title), x2="high:Q", color=colour
    )
    shown = {
        "method:N": "Method",
        "value:Q": ("Difference, points", "+.2f"),
        "interval:N": "95% interval",
        "p:N": "All pairs",
        "detectable:N": "Detectable, points",
    }
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=alt.X("value:Q", scale=scale, title=title),
        color=colour,
        shape=alt.Shape("outcome:N", title=None, scale=style.mapped(SIGNS)),
        tooltip=style.tooltip(shown),
    )
    layers = alt.LayerChart(layer=[band, zero, interval, dots]).add_params(chosen)
    chart = style.sized(layers, width, 24 * len(order))
    if width == "container":
        return chart
    # A file has no menu of references, so the chart says which it is.
    return chart.properties(title=f"Difference from {visible(section.references[0], 60)}, with 95% interval")


def _tested(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a test says of a pair; the interval and band of one that is not tested have no length."""
    if row["not_enough_data"]:
        ends = dict.fromkeys(("low", "high", "least", "most"), round(100 * row["difference"], 3))
        return {**ends, "interval": "–", "detectable": "–", "p": "not enough data"}
    most = round(100 * (row["detectable"] or 1), 3)
    return {
        "low": round(100 * row["low"], 3),
        "high": round(100 * row["high"], 3),
        "least": -most,
        "most": most,
        "detectable": f"{most:.2f}",
        "p": p_value(row["p"]),
        "interval": f"{points(row['low'])} to {points(row['high'])}",
    }


def by_language(section: Section, reference: str, width: Width = "container") -> alt.LayerChart:
    """Difference of every other method from one in each target language; a star if it is significant.

    Tests are corrected (Holm) over the languages of each pair of methods.
    """
    table = section.against_by_language(reference)
    keys = style.language_keys(table["language"].unique().to_list())
    order = list(keys.values())
    values = [
        {
            "language": keys[row["language"]],
            **style.language_facts(row["language"]),
            "method": visible(row["method"], 60),
            "value": round(100 * row["difference"], 3),
            "text": points(row["difference"]) + ("*" if row["p_holm"] < ALPHA else ""),
            "interval": "–" if row["low"] is None else f"{points(row['low'])} to {points(row['high'])}",
            "p": p_value(row["p_holm"]),
            "detectable": None if row["detectable"] is None else round(100 * row["detectable"], 2),
            "n": row["n"],
        }
        for row in table.rows(named=True)
    ]
    methods = [visible(name, 60) for name in section.methods if name != reference]
    reach = max(1.0, *(abs(float(value["value"])) for value in values))
    y = style.language_axis(order)
    shown = {
        "name:N": "Language",
        "method:N": "Method",
        "value:Q": ("Difference, points", "+.2f"),
        "interval:N": "95% interval",
        "p:N": "After Holm over languages",
        "detectable:Q": "Detectable, points",
        "n:Q": "Examples",
    }
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=style.method_axis(methods), y=y, tooltip=style.tooltip(shown)
    )
    scale = alt.Scale(scheme="redblue", domain=[-reach, reach])
    colours, numbers = style.cells(base, "Points from the reference", scale, alt.Text("text:N"))
    return style.by_family([colours, numbers.encode(y=y.axis(None))], order, width)
