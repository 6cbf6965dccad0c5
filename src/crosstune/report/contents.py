"""The list of figures and tables that page, export, notebook and terminal show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from crosstune.analysis.answer_language import SOURCE
from crosstune.analysis.curves import MODEL_SIZE, curve, swept
from crosstune.analysis.groups import Grouping
from crosstune.report.sections import IN_ENGLISH, Section
from crosstune.report.tables import effort, paper, tables
from crosstune.report.tables.suite import SUITE, suite_table
from crosstune.report.tables.tables import Table
from crosstune.report.text import GROUPINGS, slug, visible
from crosstune.store.record import RunRecord

if TYPE_CHECKING:
    from crosstune.report.figures.style import Width

_RATES_BY: tuple[Grouping, ...] = ("family", "script")

MANY_METHODS = 8
"""With more methods than this, dots on a line cannot be distinguished, so cells are drawn instead."""

WIDTH = 420
"""Of a figure in a file or a notebook, in pixels; one with a column for each method grows with them."""


@dataclass(frozen=True)
class Item:
    """A figure, a table, or both of the same numbers. Nothing is drawn or computed before it is asked for."""

    id: str  # unique in a section; the end of a file's name
    place: str  # where it stands in the page; "files" for in none
    title: str  # in words
    chart: "Callable[[Width], Any] | None" = None  # draws it at a width
    table: Callable[[], Table] | None = None  # makes it
    # Of a figure that the page splits into several: title and chart of each.
    panels: Callable[[], list[tuple[str, Any]]] | None = None
    width: int = WIDTH  # in a file or a notebook, in pixels
    least: int = 300  # narrowest readable width in the page, in pixels
    numbers: bool = False  # no table has the chart's numbers: the page puts one below it


def _figure(name: str, *arguments: Any) -> "Callable[[Width], Any]":
    """Draws a figure by its function's name, when asked: loading the drawing library takes half a second."""

    def draw(width: "Width") -> Any:
        from crosstune.report.figures import FIGURES

        return FIGURES[name](*arguments, width)

    return draw


def contents(section: Section) -> list[Item]:
    """The figures and tables of a section, in the page's order: what each needs, and what it is."""
    methods, source = len(section.methods), section.source
    first = next(iter(section.references), None)
    compared = first is not None and methods > 1
    targets = bool(section.table["targets"][0])
    identified = section.has_answer_language
    many, counted = methods > MANY_METHODS, "(in brackets: number of target languages)"
    grid: dict[str, Any] = {"width": 240 + 56 * methods, "least": 210 + 32 * methods}
    wrong: dict[str, Any] = {**grid, "numbers": True}
    items = [
        (True, Item("transfer", "transfer", "Transfer by method", table=partial(tables.transfer, section))),
        (True, Item("gap", "transfer",
                    f"{source} and the mean of targets, with its 95% interval over exactly these languages",
                    _figure("gap", section))),
        (compared, Item("differences", "differences",
                        "Difference from the reference, with 95% interval (all pairs together); in grey "
                        "differences too small to detect with 80% power",
                        _figure("forest", section), partial(tables.all_differences, section))),
        (section.languages.height > 0, Item("heatmap", "languages", "Score by language and method",
                                            _figure("heatmap", section, "score"), **grid)),
        (compared, Item("differences-by-language", "languages",
                        f"Difference from {first} by language; * significant (5%, Holm over languages)",
                        _figure("differences-by-language", section, first),
                        **grid | {"least": 210 + 44 * methods})),
        (True, Item("languages", "languages", "All scores", table=partial(tables.languages, section))),
        (targets, Item("paper", "files", "Methods by languages, for a paper",
                       table=partial(paper.by_languages, section))),
        *[(targets, _curves(setting, partial(curve, section.runs, section.scores, setting), "curves"))
          for setting in swept(section.runs, section.scores) if setting != MODEL_SIZE],
        (not section.expected_validation.is_empty(),
         Item("expected-validation", "effort", "Expected development score of the best of n learning rates",
              _figure("expected-validation", section), partial(effort.expected_validation, section))),
        *[(targets, Item(slug(by), "groups", f"Mean by {name.lower()} {counted}",
                         _figure("group-cells", section, by, "score") if many
                         else _figure("group-dots", section, by),
                         partial(tables.groups, section, by), **(grid if many else {})))
          for by, name in GROUPINGS.items()],
        (identified and targets, Item("answer-languages", "wrong",
                                "Language of the answers, where it could be identified",
                                _figure("answer-languages", section), numbers=True)),
        (section.has_in_english, Item("in-english", "wrong",
                                      "Share of answers that are correct but in English",
                                      _figure("heatmap", section, IN_ENGLISH), **wrong)),
        *[(identified and targets, Item(f"in-source-language-by-{by}", "wrong",
                                  f"Share of answers in {source} instead, by {by} {counted}",
                                  _figure("group-cells", section, by, SOURCE), **wrong))
          for by in _RATES_BY],
        (identified, Item("in-source-language", "wrong",
                    f"Share of answers in {source} instead of the prompt's language",
                    _figure("heatmap", section, SOURCE), **wrong)),
        (section.has_losses, Item("losses", "training", "Training loss, one line per run",
                                   _figure("losses", section))),
    ]  # fmt: skip
    return [item for needed, item in items if needed]


def across_models(runs: Sequence[RunRecord], scored: pl.DataFrame) -> list[Item]:
    """Curves through models of different sizes, a task each; none where there is one size."""
    if MODEL_SIZE not in swept(runs, scored):
        return []
    table = curve(runs, scored, MODEL_SIZE)
    return [
        _curves(MODEL_SIZE, lambda part=part: part, "models", visible(task, 60), slug(task))  # type: ignore[misc]
        for (task,), part in table.group_by(["task"], maintain_order=True)
        if part["value"].drop_nulls().n_unique() > 1
    ]


def across_tasks(scored: pl.DataFrame) -> list[Item]:
    """A suite's tasks and their mean, of results that have enough of them."""
    table = suite_table(scored)
    return [] if table is None else [Item(SUITE, "suite", table.caption, table=lambda: table)]


def _curves(
    setting: str, table: Callable[[], pl.DataFrame], place: str, about: str = "", end: str = ""
) -> Item:
    name = visible(setting.replace("_", " "), 60)

    def chart(_: "Width") -> Any:
        from crosstune.report.figures.curves import curves

        return curves(table(), name)

    def panels() -> list[tuple[str, Any]]:
        from crosstune.report.figures.curves import panels as drawn

        return [(f"{about}: {text}" if about else text, panel) for text, panel in drawn(table(), name)]

    title = f"{about}: curves by {name}" if about else f"Score and language of answers by {name}"
    identity = "-".join(filter(None, ("curve", slug(setting), end)))
    return Item(identity, place, title, chart, panels=panels, least=320, numbers=True)
