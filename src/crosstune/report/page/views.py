"""What the page's template shows of a section: its tables, as text, and its charts, as embedded JSON."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from crosstune.analysis.predictions import Predictions
from crosstune.report.comparison import references
from crosstune.report.contents import Item, contents
from crosstune.report.findings import finding
from crosstune.report.page.embed import embedded_json
from crosstune.report.page.samples import samples
from crosstune.report.sections import Section
from crosstune.report.tables.tables import Table, differences_from


@dataclass(frozen=True)
class Figure:
    """A chart in the page.

    Attributes:
        id: Of its `Item`.
        caption: In words.
        spec: Its Vega-Lite specification, as embedded JSON.
        least: Narrowest readable width, in pixels.
        columns: Title of each column of the chart's numbers and whether it holds numbers; empty where
            another table has them.
        rows: The numbers as text.
    """

    id: str
    caption: str
    spec: Markup
    least: int
    columns: list[tuple[str, bool]]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class SectionView:
    """A section as the template shows it.

    Attributes:
        id: Of its HTML element.
        section: What it shows.
        finding: In words.
        figures: By the place they stand in.
        tables: By id, but for differences.
        groups: Ids of the tables of groups of languages.
        differences: Of every method from each of a few references.
        samples: Predictions of every method side by side.
    """

    id: str
    section: Section
    finding: str
    figures: dict[str, list[Figure]]
    tables: dict[str, Table]
    groups: list[str]
    differences: list[Table]
    samples: dict[str, Any]


def view(number: int, section: Section, predictions: Predictions, samples_bytes: int) -> SectionView:
    """A section, with predictions of at most about ``samples_bytes`` bytes."""
    items = contents(section)
    figures: dict[str, list[Figure]] = {}
    for item in items:
        figures.setdefault(item.place, []).extend(drawn(item))
    # The page has differences from each of a few references, not of all pairs.
    tables = {item.id: item.table() for item in items if item.table is not None and item.id != "differences"}
    groups = [item.id for item in items if item.place == "groups"]
    names = references(section) if len(section.methods) > 1 else []
    differences = [differences_from(section, name) for name in names]
    sides = samples(section, predictions, samples_bytes)
    return SectionView(f"s{number}", section, finding(section), figures, tables, groups, differences, sides)


def drawn(item: Item) -> list[Figure]:
    """The charts of an item as the page embeds them: one, or a panel each."""
    if item.chart is None:
        return []
    charts = [(item.title, item.chart("container"))] if item.panels is None else item.panels()
    return [_figure(item, title, chart.to_dict()) for title, chart in charts]


def _figure(item: Item, title: str, spec: dict[str, Any]) -> Figure:
    columns, rows = _numbers(spec) if item.numbers else ([], [])
    return Figure(item.id, title, embedded_json(spec), item.least, columns, rows)


def _numbers(spec: dict[str, Any]) -> tuple[list[tuple[str, bool]], list[tuple[str, ...]]]:
    """The values of a chart's layers, in the columns that its tooltips name.

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
