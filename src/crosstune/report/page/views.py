"""What the page's template shows of a section: its tables, as text, and its charts, as embedded JSON."""

from typing import Any

from altair.utils import schemapi

from crosstune.analysis.groups import Grouping, group_of
from crosstune.analysis.predictions import Predictions
from crosstune.report.contents import Item, contents
from crosstune.report.findings import finding
from crosstune.report.page.samples import samples
from crosstune.report.sections import Section
from crosstune.report.tables.tables import differences_from
from crosstune.report.text import embedded_json, group_name, visible

MOST_SHOWN = 12
"""Methods that are shown by language at first: with more, cells cannot be read side by side."""


def view(number: int, section: Section, predictions: Predictions, samples_bytes: int) -> dict[str, Any]:
    """A section, with predictions of at most about ``samples_bytes`` bytes.

    Returns:
        id (of its HTML element), section, families and scripts (of its languages), shown_methods (how many of
        the first are shown by language before a reader picks), finding (in words), figures (`drawn`, by the
        place they stand in), tables (by id, but for differences), groups (ids of the tables of groups of
        languages), differences (tables of every method from each of a few references) and samples
        (predictions side by side).
    """
    items = contents(section)
    figures: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        figures.setdefault(item.place, []).extend(drawn(item))
    # The page has differences from each of a few references, not of all pairs.
    shown = {item.id for item in items if item.place != "files"} - {"differences"}
    names = section.references if len(section.methods) > 1 else []
    return {
        "id": f"s{number}",
        "families": _groups(section, "family"),
        "scripts": _groups(section, "script"),
        "shown_methods": len(section.methods) if len(section.methods) <= MOST_SHOWN else MOST_SHOWN,
        "section": section,
        "finding": finding(section),
        "figures": figures,
        "tables": {item.id: item.table() for item in items if item.table and item.id in shown},
        "groups": [item.id for item in items if item.place == "groups"],
        "differences": [differences_from(section, name) for name in names],
        "samples": samples(section, predictions, samples_bytes),
    }


def _groups(section: Section, by: Grouping) -> list[str]:
    """Names of the groups of its languages, as figures and tables write them."""
    codes = section.languages["language"].unique().to_list()
    return sorted({visible(group_name(by, group_of(code, by)), 40) for code in codes})


def drawn(item: Item) -> list[dict[str, Any]]:
    """The charts of an item as the page embeds them: one, or a panel each.

    Returns:
        Of each: id (of the item), caption, spec (Vega-Lite, as embedded JSON), least (narrowest readable
        width, in pixels), columns and rows (`_numbers`; empty where another table has them).
    """
    if item.chart is None:
        return []
    with schemapi.debug_mode(False):  # else every part of every chart is held against Vega-Lite's schema
        charts = [(item.title, item.chart("container"))] if item.panels is None else item.panels()
        specs = [(title, chart.to_dict(validate=False)) for title, chart in charts]
    entries = []
    for title, spec in specs:
        columns, rows = _numbers(spec) if item.numbers else ([], [])
        entry = {"id": item.id, "caption": title, "spec": embedded_json(spec), "least": item.least}
        entries.append({**entry, "columns": columns, "rows": rows})
    return entries


def _numbers(spec: dict[str, Any]) -> tuple[list[tuple[str, bool]], list[tuple[str, ...]]]:
    """The values of a chart's layers as text, in the columns that its tooltips name: title, whether numbers.

    A layer without tooltips (a line across the chart) has the first layer's columns, empty where it has none.
    """
    layers = [spec | layer for layer in spec.get("layer", [spec])]  # what layers share stands above them
    tooltips: list[dict[str, str]]
    tooltips = next(
        layer["encoding"]["tooltip"] for layer in layers if "tooltip" in layer.get("encoding", {})
    )
    columns = [(tip.get("title", tip["field"]), tip["type"] == "quantitative") for tip in tooltips]
    values = [value for layer in layers for value in spec["datasets"][layer["data"]["name"]]]
    rows = [tuple(_written(value.get(tip["field"])) for tip in tooltips) for value in values]
    return columns, list(dict.fromkeys(rows))


def _written(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
