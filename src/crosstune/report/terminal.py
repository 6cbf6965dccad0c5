"""Results as tables for a terminal about 100 columns wide."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crosstune.analysis.costs import total
from crosstune.report.contents import across_tasks, contents
from crosstune.report.findings import finding
from crosstune.report.sections import Section
from crosstune.report.tables import tables
from crosstune.report.text import visible


def results_table(sections: Sequence[Section]) -> Group:
    """The transfer table of each section, with what its columns mean and what it shows; then a suite's.

    Scores are out of 100; the best zero-shot value of a column is bold. Names are shown as plain text:
    neither control characters nor rich markup in them acts.
    """
    shown: list[RenderableType] = []
    for section in sections:
        heading = " · ".join(part for part in (section.task, section.model, section.note) if part)
        item = next(item for item in contents(section) if item.id == "transfer")
        assert item.table is not None
        table = item.table()
        caption = "; ".join([*table.notes, *section.warnings])
        notes = [Text(caption, style="dim"), Text(visible(finding(section), 1000))]
        shown += [Text(visible(heading), style="bold"), _drawn(table), Padding(Group(*notes), (0, 1, 1, 1))]
    for item in across_tasks(pl.concat([section.scores for section in sections], how="diagonal")):
        assert item.table is not None
        table = item.table()
        below = Text("\n".join(table.notes), style="dim")
        shown += [Text(item.title, style="bold"), _drawn(table), Padding(below, (0, 1, 1, 1))]
    return Group(*shown)


def _grid() -> Table:
    return Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))


def _drawn(table: tables.Table) -> Table:
    drawn, texts = _grid(), []
    for place, column in enumerate(table.shown("terminal")):
        justify, width = ("left", "right")[column.right], 12 if place == 0 else None
        drawn.add_column(column.title, justify=justify, overflow="fold", min_width=width)  # type: ignore[arg-type]
        notes, best = column.notes or [""] * table.height, column.best or [False] * table.height
        cells = zip(column.cells, notes, best, strict=True)
        texts.append([Text(f"{cell} {note}".rstrip(), "bold" if bold else "") for cell, note, bold in cells])
    for row in zip(*texts, strict=True):
        drawn.add_row(*row)
    return drawn


def costs_table(costs: pl.DataFrame) -> Table:
    """What runs cost (`crosstune.analysis.costs`), with a last row for everything together.

    Times are h:mm:ss; "–" where no run has the figure.
    """
    table = _grid()
    for name in ("Model", "Task", "Method", "Kind"):
        table.add_column(name, overflow="fold")
    for name in ("Runs", "Load", "Train", "Evaluate", "Train tok.", "Test tok.", "Memory", "Energy"):
        table.add_column(name, justify="right")
    for row in costs.rows(named=True):
        table.add_row(*_cost_cells(row))
    table.add_section()
    table.add_row(*_cost_cells(total(costs)), style="bold")
    return table


def _cost_cells(row: Mapping[str, Any]) -> Iterator[str | Text]:
    yield from (Text(visible(row[name], 60)) for name in ("model", "task", "method", "kind"))
    yield f"{row['runs']:,}"
    yield from (_time(row[name]) for name in ("load_seconds", "train_seconds", "evaluate_seconds"))
    yield from ("–" if row[name] is None else f"{row[name]:,}" for name in ("train_tokens", "test_tokens"))
    memory, energy = row["peak_memory_bytes"], row["energy_joules"]
    yield "–" if memory is None else f"{memory / 2**30:.1f} GiB"
    yield "–" if energy is None else f"{energy / 3600:,.1f} Wh"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
