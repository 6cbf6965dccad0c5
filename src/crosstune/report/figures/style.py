"""Colours, shapes, axes and legends that all figures share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import altair as alt

from crosstune.analysis.answer_language import SOURCE
from crosstune.analysis.groups import Grouping, family_order, group_of
from crosstune.report.sections import IN_ENGLISH, Section
from crosstune.report.text import group_name, language_name, visible

Width = int | Literal["container"]
C = TypeVar("C", alt.Chart, alt.LayerChart)

# After Okabe and Ito, whose colours colour-blind readers tell apart. Each has a contrast of 4.5:1 or more
# with white; the page puts the second of each pair in its place on dark ground.
ON_DARK = {
    "#0072b2": "#56b4e9",
    "#a35d00": "#e69f00",
    "#007a5a": "#2fbf95",
    "#ad4682": "#df8fbb",
    "#4a5fc1": "#9aa9f5",
    "#c04a00": "#ff8a4c",
    "#6a6f76": "#9aa5b1",
    "#7a6b00": "#c4b32e",
}
PALETTE = list(ON_DARK)

SHAPES = [
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
]

DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2]]
ACCENT, SECOND, WORSE, MUTED = PALETTE[0], PALETTE[1], PALETTE[5], PALETTE[6]
FIT = alt.AutoSizeParams(type="fit-x", contains="padding")
_CUT = "␟"


def vegalite_version() -> str | None:
    """The version that Altair writes for; None where vl-convert does not have it, and takes its newest."""
    import vl_convert

    wanted = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return wanted if wanted in vl_convert.get_vegalite_versions() else None


def language_keys(codes: Sequence[str]) -> dict[str, str]:
    """Code to a row key that carries what both axes show: name, and the family where one starts."""
    keys, last = {}, None
    for place, code in enumerate(family_order(codes)):
        family = group_of(code, "family")
        name, mark = visible(language_name(code), 40), visible(family, 40) if family != last else ""
        keys[code] = _CUT.join((visible(code), str(place), name, mark))
        last = family
    return keys


def language_facts(code: str) -> dict[str, str]:
    """A language's name, and the family and script by which a reader may pick it."""
    groups: dict[str, Grouping] = {"family": "family", "script": "script"}
    facts = {name: visible(group_name(by, group_of(code, by)), 40) for name, by in groups.items()}
    return {"name": language_name(code), **facts}


def method_axis(methods: Sequence[str]) -> alt.X:
    """Columns, one a method, named above."""
    axis = alt.Axis(orient="top", labelAngle=-35, labelLimit=230, domain=False, ticks=False)
    return alt.X("method:N", sort=methods, title=None, axis=axis)


def language_axis(order: Sequence[str]) -> alt.Y:
    """Rows as `language_keys`, named at the left."""
    axis = alt.Axis(labelExpr=f"split(datum.value, '{_CUT}')[2]", domain=False, ticks=False, labelLimit=130)
    return alt.Y("language:N", sort=order, title=None, axis=axis)


def family_axis(order: Sequence[str]) -> alt.Chart:
    """A line above each family's first row, with the family's name at the right; rows as `language_keys`."""
    starts = [{"language": key} for key in order if key.split(_CUT)[3]]
    names = f"split(datum.value, '{_CUT}')[3]"
    axis = alt.Axis(orient="right", labelExpr=names, domain=False, ticks=False, labelLimit=120)
    y = alt.Y("language:N", sort=order, title=None, bandPosition=0, axis=axis)
    lines: alt.Chart = alt.Chart(alt.InlineData(values=starts)).mark_rule(color=MUTED, strokeWidth=1)
    return lines.encode(y=y)


def method_rows(methods: Sequence[str], limit: int = 240, *, grid: bool = False) -> alt.Y:
    """Rows, one a method, in this order."""
    lines = True if grid else alt.Undefined
    axis = alt.Axis(labelLimit=limit, labelPadding=8, domain=False, ticks=False, grid=lines)
    return alt.Y("method:N", sort=methods, title=None, axis=axis)


def tooltip(columns: Mapping[str, Sequence[str]]) -> list[alt.Tooltip]:
    """What a pointer shows, by field: a title, with a number's format where it has one."""
    return [
        alt.Tooltip(field, title=text)
        if isinstance(text, str)
        else alt.Tooltip(field, title=text[0], format=text[1])
        for field, text in columns.items()
    ]


def sized(chart: C, width: Width, height: float) -> C:
    """A chart of a width, axes and legends included, and a height in pixels."""
    return chart.properties(width=width, height=height, autosize=FIT)


def mapped(values: Mapping[str, Any]) -> alt.Scale:
    """Each name to its own colour or shape."""
    return alt.Scale(domain=list(values), range=list(values.values()))


def cell_scale(column: str, values: Sequence[float]) -> alt.Scale:
    """Colours of cells of a column: viridis for scores, oranges for rates."""
    return alt.Scale(scheme="viridis" if column == "score" else "oranges", domain=list(span(values)))


def cells(base: alt.Chart, title: str | list[str], scale: alt.Scale, text: alt.Text) -> list[alt.Chart]:
    """Coloured cells of ``value``, and a text on each, white or black as the cell's luminance wants it."""
    legend = alt.Legend(orient="bottom", gradientLength=160, gradientThickness=8, titleLimit=320)
    # At a luminance of 0.179 black and white have the same contrast with a colour: 4.58:1, the least.
    dark = "luminance(scale('color', datum.value)) < 0.179"
    colour = alt.condition(dark, alt.value("white"), alt.value("black"))
    return [
        base.mark_rect().encode(color=alt.Color("value:Q", title=title, scale=scale, legend=legend)),
        base.mark_text(fontSize=10).encode(text=text, color=colour),
    ]


def by_family(layers: Sequence[alt.Chart], order: Sequence[str], width: Width) -> alt.LayerChart:
    """Layers with languages as rows (`language_keys`), families named at the right."""
    # Both axes name the rows, one on each side; the scale they share keeps the rows in one order.
    both: alt.LayerChart
    both = alt.layer(*layers, family_axis(order)).resolve_scale(y="shared").resolve_axis(y="independent")
    return sized(both, width, 20 * len(order))


def measure_title(section: Section, column: str) -> str:
    """What a column measures, and in what."""
    if column == IN_ENGLISH:
        return "Right but in English, %"
    if column == SOURCE:
        return title_text(f"In {section.source} instead, %", 60)
    name = section.table["measure"][0] if column == "score" else column.removeprefix("metric.")
    guessing = f" ({section.levels})" if column == "score" and str(section.levels) else ""
    return f"{title_text(name)}, out of 100{guessing}"


def axis_title(section: Section, column: str) -> list[str]:
    """`measure_title` on two lines where it says what guessing scores: one would be cut on a phone."""
    first, bracket, levels = measure_title(section, column).partition(" (")
    return [first, f"({levels}"] if bracket else [first]


def title_text(text: str, limit: int = 40) -> str:
    """A text for a title, without backslashes: Vega-Lite puts titles into expressions."""
    return visible(text, limit).replace("\\", "⧵")


def span(values: Sequence[float]) -> tuple[float, float]:
    """Whole numbers around the values, never the same; 0 and 1 where there is none."""
    low, high = math.floor(min(values, default=0)), math.ceil(max(values, default=0))
    return (low, high) if high > low else (low, low + 1)


def legend_below() -> alt.Legend:
    """Names of methods under a chart."""
    return alt.Legend(orient="bottom", columns=2, labelLimit=260, symbolLimit=0)


def method_scales(section: Section, shown: set[str]) -> tuple[alt.Scale, alt.Scale, alt.Scale]:
    """Colour, shape and dash of the methods shown; a method looks the same in every chart of a section.

    Past eight methods colours repeat, with another shape and dash.
    """
    methods = sorted({visible(name, 60) for name in section.methods})
    places = {name: place for place, name in enumerate(methods) if name in shown}
    turn = len(PALETTE)
    return (
        mapped({name: PALETTE[i % turn] for name, i in places.items()}),
        mapped({name: SHAPES[(i + i // turn) % len(SHAPES)] for name, i in places.items()}),
        mapped({name: DASHES[i // turn % len(DASHES)] for name, i in places.items()}),
    )
