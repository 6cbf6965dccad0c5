"""Results as tables for a terminal about 100 columns wide."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crosstune.analysis.answer_language import CORRECT, UNDECIDED
from crosstune.analysis.costs import total
from crosstune.analysis.predictions import Predictions
from crosstune.report.findings import finding
from crosstune.report.sections import IN_ENGLISH, Section, sections
from crosstune.report.text import language_name, percent, visible, with_sd
from crosstune.store.record import RunRecord


def results_table(runs: Sequence[RunRecord], predictions: pl.DataFrame | Predictions) -> Group:
    """One table for each model, task and protocol: method against source score, mean of targets, gap.

    Scores are out of 100; the best zero-shot value of a column is bold. Names are shown as plain text:
    neither control characters nor rich markup in them acts.

    Raises:
        UserError: As `crosstune.analysis.transfer.language_scores`.
    """
    shown: list[RenderableType] = []
    for section in sections(runs, predictions):
        heading = " · ".join(part for part in (section.task, section.model, section.note) if part)
        notes = [Text(_caption(section), style="dim"), Text(visible(finding(section), 1000))]
        shown += [Text(visible(heading), style="bold"), _table(section), Padding(Group(*notes), (0, 1, 1, 1))]
    return Group(*shown)


def costs_table(costs: pl.DataFrame) -> Table:
    """What runs cost (`crosstune.analysis.costs`), with a last row for everything together.

    Times are h:mm:ss; "–" where no run has the figure.
    """
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
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


def _table(section: Section) -> Table:
    rows = section.table.rows(named=True)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("Method", overflow="fold", min_width=12)
    targets = rows[0]["targets"]
    for name in ("Trained", section.source, f"Mean of {targets}", "Gap", "Relative", "Worst language"):
        table.add_column(name, justify="right", overflow="fold")
    if section.has_in_english:
        table.add_column("In English", justify="right")
    if section.has_answer_language:
        table.add_column("Right language", justify="right")
    best = {
        name: max((row[name] for row in rows if row["zero_shot"] and row[name] is not None), default=None)
        for name in ("source", "target_mean", "worst_score")
    }

    def cell(row: dict[str, Any], name: str, text: str) -> Text:
        return Text(text, style="bold" if row["zero_shot"] and row[name] == best[name] is not None else "")

    for row in rows:
        worst = "–" if row["worst_language"] is None else language_name(row["worst_language"])
        cells = [
            Text(visible(row["method"], 60) + ("" if row["zero_shot"] else " †")),
            Text(_compact(row["trained_parameters"])),
            cell(row, "source", with_sd(row["source"], row["source_sd"])),
            cell(row, "target_mean", with_sd(row["target_mean"], row["target_sd"])),
            Text(percent(row["gap"])),
            Text("–" if row["relative"] is None else f"{row['relative']:.2f}"),
            cell(row, "worst_score", f"{visible(worst, 20)} {percent(row['worst_score'])}"),
        ]
        if section.has_in_english:
            cells.append(_share(row[IN_ENGLISH]))
        if section.has_answer_language:
            cells.append(_share(row[CORRECT]))
        table.add_row(*cells)
    return table


def _caption(section: Section) -> str:
    source, row = section.source, section.table.row(0, named=True)
    parts = [f"{visible(row['measure'], 30)} out of 100; gap = {source} − mean; relative = mean / {source}"]
    if row["targets_seen"] > row["targets"]:
        parts.append(
            f"mean over the {row['targets']} of {row['targets_seen']} target languages that every run has"
        )
    if section.table["seeds"].max() != 1:
        parts.append("± = standard deviation over seeds")
    if not section.table["zero_shot"].all():
        parts.append("† not zero-shot")
    if section.has_in_english:
        parts.append("In English = right, but written in English (targets)")
    if section.has_answer_language:
        shares = [1 - float(value) for value in section.table[UNDECIDED].drop_nulls().to_list()]
        low, high = percent(min(shares), 0), percent(max(shares), 0)
        told = f"{low}%" if low == high else f"{low} to {high}%"
        parts.append(f"Right language = of the answers whose language could be told, {told} of all (targets)")
    if section.overlap:
        parts.append(f"{section.overlap:,} test prompts are also in the training data")
    for name, count in section.shared_texts.items():
        parts.append(f"the {visible(name, 30)} of {count:,} test examples is also in the training data")
    if section.skipped_rows:
        parts.append(f"{section.skipped_rows:,} rows of the data could not be used and were left out")
    return "; ".join(parts)


def _share(value: float | None) -> Text:
    return Text("–" if value is None else f"{percent(value, 0)}%")


def _compact(count: int | None) -> str:
    if count is None:
        return "–"
    return f"{count:,}" if count < 10_000_000 else f"{count / 1e6:,.1f}M"
