"""The one list of figures and tables: page, export and notebook offer what stands here, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl

from crosstune.analysis.answer_language import SOURCE
from crosstune.analysis.curves import MODEL_SIZE, curve, swept
from crosstune.analysis.groups import Grouping
from crosstune.report.comparison import references
from crosstune.report.figures import differences, rates, scores
from crosstune.report.figures.curves import curves, panels
from crosstune.report.figures.style import Width
from crosstune.report.page.embed import embedded_json
from crosstune.report.sections import Section
from crosstune.report.tables import tables
from crosstune.report.tables.tables import Table
from crosstune.report.text import GROUPINGS, slug, visible
from crosstune.store.record import RunRecord

_RATES_BY: tuple[Grouping, ...] = ("family", "script")

MANY_METHODS = 8
"""From here on dots of one line can no longer be told apart, and cells take their place."""

WIDTH = 420
"""Of a figure in a file or a notebook, in pixels; one with a column for each method grows with them."""


@dataclass(frozen=True)
class Item:
    """A figure, a table, or both of the same numbers. Nothing is drawn before it is asked for.

    Attributes:
        id: Unique in a section; the end of a file's name.
        place: Where it stands in the page.
        title: In words.
        chart: Draws it at a width.
        table: Makes it, given the start of its file's name.
        panels: Of a figure that the page splits into several: title and chart of each.
        width: In a file or a notebook, in pixels.
        least: Narrowest readable width in the page, in pixels.
        numbers: No table has the chart's numbers: the page puts one below it.
    """

    id: str
    place: str
    title: str
    chart: Callable[[Width], Any] | None = None
    table: Callable[[str], Table] | None = None
    panels: Callable[[], list[tuple[str, Any]]] | None = None
    width: int = WIDTH
    least: int = 300
    numbers: bool = False

    def figures(self) -> list[dict[str, Any]]:
        """What the page needs of its charts: id, spec, caption, least width, and their numbers."""
        if self.chart is None:
            return []
        drawn = [(self.title, self.chart("container"))] if self.panels is None else self.panels()
        return [self._figure(title, chart.to_dict()) for title, chart in drawn]

    def _figure(self, title: str, spec: dict[str, Any]) -> dict[str, Any]:
        numbers = table_of(spec) if self.numbers else None
        return {
            "id": self.id,
            "spec": embedded_json(spec),
            "caption": title,
            "least": self.least,
            "table": numbers,
        }


def contents(section: Section) -> list[Item]:
    """The figures and tables of a section, in the page's order: what each needs, and what it is."""
    methods, source = len(section.methods), section.source
    first = next(iter(references(section)), None)
    compared = first is not None and methods > 1
    targets = bool(section.table["targets"][0])
    told = section.has_answer_language
    many, counted = methods > MANY_METHODS, "(in brackets: how many target languages)"
    grid: dict[str, Any] = {"width": 240 + 56 * methods, "least": 210 + 32 * methods}
    wrong: dict[str, Any] = {**grid, "numbers": True}
    found = [
        (True, Item("transfer", "transfer", "Transfer by method", table=partial(tables.transfer, section))),
        (True, Item("gap", "transfer", f"{source} and the mean of targets, by method",
                    partial(scores.gap_chart, section))),
        (compared, Item("differences", "differences",
                        "Difference from the reference, with 95% interval; in grey what could not have "
                        "been seen",
                        partial(_forest, section, first), partial(tables.differences_table, section))),
        (section.languages.height > 0, Item("heatmap", "languages", "Score by language and method",
                                            partial(_heatmap, section, "score"), **grid)),
        (compared, Item("differences-by-language", "languages",
                        f"Difference from {first} by language; * where a test shows it (5%, Holm over "
                        "languages)",
                        partial(differences.by_language, section, first or ""),
                        **grid | {"least": 210 + 44 * methods})),
        (True, Item("languages", "languages", "Every score", table=partial(tables.languages, section))),
        *[(targets, _swept(section, setting)) for setting in _settings(section)],
        *[(targets, Item(slug(by), "groups", f"Mean by {name.lower()} {counted}",
                         partial(_means_by, section, by, many),
                         partial(tables.groups, section, by), **(grid if many else {})))
          for by, name in GROUPINGS.items()],
        (told and targets, Item("answer-languages", "wrong",
                                "Language of the answers, of those whose language could be told",
                                partial(rates.answer_languages, section), numbers=True)),
        (section.has_in_english, Item("in-english", "wrong",
                                      "Share of answers that are right, but written in English",
                                      partial(scores.in_english, section), **wrong)),
        *[(told and targets, Item(f"in-source-language-by-{by}", "wrong",
                                  f"Share of answers in {source} instead, by {by} {counted}",
                                  partial(_rates_by, section, by), **wrong))
          for by in _RATES_BY],
        (told, Item("in-source-language", "wrong",
                    f"Share of answers in {source} instead of the prompt's language",
                    partial(scores.in_source, section), **wrong)),
        (scores.has_losses(section), Item("losses", "training", "Training loss, one line a run",
                                          partial(scores.loss_curves, section))),
    ]  # fmt: skip
    return [item for needed, item in found if needed]


def across_models(runs: Sequence[RunRecord], scored: pl.DataFrame) -> list[Item]:
    """Curves through models of different sizes, a task each; none where there is one size."""
    if MODEL_SIZE not in swept(runs, scored):
        return []
    table, name = curve(runs, scored, MODEL_SIZE), MODEL_SIZE.replace("_", " ")
    parts = [
        (task, part)
        for (task,), part in table.group_by(["task"], maintain_order=True)
        if part["value"].drop_nulls().n_unique() > 1
    ]
    return [
        Item(
            f"curve-{slug(MODEL_SIZE)}-{slug(task)}",
            "models",
            f"{visible(task, 60)}: curves by {name}",
            lambda width, part=part: curves(part, name),  # type: ignore[misc]
            panels=lambda task=task, part=part: [  # type: ignore[misc]
                (f"{visible(task, 60)}: {text}", chart) for text, chart in panels(part, name)
            ],
            least=320,
            numbers=True,
        )
        for task, part in parts
    ]


def _settings(section: Section) -> list[str]:
    return [name for name in swept(section.runs, section.scores) if name != MODEL_SIZE]


def _swept(section: Section, setting: str) -> Item:
    name = setting.replace("_", " ")

    def table() -> pl.DataFrame:
        return curve(section.runs, section.scores, setting)

    return Item(
        f"curve-{slug(setting)}",
        "curves",
        f"Score and language of answers by {name}",
        lambda width: curves(table(), name),
        panels=lambda: list(panels(table(), name)),
        least=320,
        numbers=True,
    )


def _forest(section: Section, first: str | None, width: Width) -> Any:
    """A file has no menu of references, so the chart says which it is."""
    chart = differences.forest(section, width)
    if width == "container":
        return chart
    return chart.properties(title=f"Difference from {visible(first, 60)}, with 95% interval")


def _heatmap(section: Section, column: str, width: Width) -> Any:
    return scores.heatmap(section, column, width)


def _means_by(section: Section, by: Grouping, many: bool, width: Width) -> Any:
    return rates.group_grid(section, by, width=width) if many else scores.group_chart(section, by, width)


def _rates_by(section: Section, by: Grouping, width: Width) -> Any:
    return rates.group_grid(section, by, SOURCE, width)


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
