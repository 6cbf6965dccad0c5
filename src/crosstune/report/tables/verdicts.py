"""Verdicts on claims: as a table for a terminal, and as what the page shows of them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from crosstune.claims.cell import ALPHA, Cell, counted
from crosstune.claims.judge import Ruling, Verdict
from crosstune.report.text import p_value, points, visible

ORDER: tuple[Ruling, ...] = ("supported", "contradicted", "not enough data", "literature")
SIGNS = {"supported": "✓", "contradicted": "✗", "not enough data": "?", "literature": "·"}
OUTCOMES = {"yes": "above", "no": "below", "open": "open"}
STYLES = {
    "supported": "bold green",
    "contradicted": "bold red",
    "not enough data": "yellow",
    "literature": "dim",
}


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """One row a claim: verdict, the claim and why, the difference with its interval, and what it rests on.

    Differences are in points out of 100, of the comparison that decides. Whatever a file of claims or a
    label holds is shown as plain text.
    """
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("Verdict", min_width=12)
    table.add_column("Claim", overflow="fold", ratio=1)
    table.add_column("Difference\n95% interval", justify="right", no_wrap=True)
    table.add_column("Of", justify="right", no_wrap=True)
    for verdict in verdicts:
        text = Text(visible(verdict.claim, 500))
        for line in (visible(why(verdict), 500), compared(verdict), runs_line(verdict)):
            if line:
                text.append(f"\n{line}", style="dim")
        table.add_row(
            Text(verdict.verdict, style=STYLES[verdict.verdict]),
            text,
            Text(interval(verdict.cell)),
            Text(sample(verdict.cell)),
        )
        table.add_row()
    return table


def why(verdict: Verdict) -> str:
    """The reason, whether it holds for all claims judged together, and whether the claim was fixed before."""
    parts = [verdict.reason]
    if verdict.p_together is not None and verdict.p_together >= ALPHA:
        together = p_value(verdict.p_together)
        parts.append(f"not significant after Holm over all claims judged here ({together})")
    return "; ".join([*parts, *((verdict.frozen,) if verdict.frozen else ())])


def compared(verdict: Verdict) -> str:
    """What the difference is of: "lora r4 - none, on xnli", the metric if not the score, and the effort."""
    cell = verdict.cell
    if cell.difference is None:
        return ""
    first = f"{visible(cell.a, 60)} against {visible(cell.b, 60)}"
    metric = "" if verdict.metric == "score" else visible(verdict.metric.replace("_", " "), 40)
    parts = (first, visible(cell.where, 120), metric, visible(cell.effort, 300), visible(cell.note, 300))
    return ", ".join(part for part in parts if part)


def interval(cell: Cell) -> str:
    """Such as "+2.1" above "+1.0 to +3.2"; "–" where there is no difference."""
    if cell.difference is None:
        return "–"
    if cell.low is None:
        return f"{points(cell.difference)}\nnot tested"
    return f"{points(cell.difference)}\n{points(cell.low)} to {points(cell.high)}"


def sample(cell: Cell) -> str:
    """Languages, examples and seeds behind a cell."""
    if cell.difference is None:
        return "–"
    languages = counted(cell.languages, "language")
    return f"{languages}\n{cell.examples:,} examples\nseeds {cell.seeds_a}, {cell.seeds_b}"


def runs_line(verdict: Verdict, most: int = 12) -> str:
    """The first characters of the ids of the runs behind a verdict."""
    if not verdict.runs:
        return ""
    more = f" and {len(verdict.runs) - most} more" if len(verdict.runs) > most else ""
    return f"runs {' '.join(run[:6] for run in verdict.runs[:most])}{more}"


def verdicts_view(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What the page shows: those with data, rulings first, and apart those that no run speaks to.

    Returns:
        summary (a sentence), shown and silent: entries with verdict, kind (for its colour), sign, claim,
        source, reason, compared, difference, interval, sample, runs (ids) and cells (where, what is compared,
        difference with interval, p, and how each came out; empty where there is one).
    """
    counts = Counter(verdict.verdict for verdict in verdicts)
    rulings = ", ".join(f"{counts[name]} {name}" for name in ORDER if counts[name])
    ordered = sorted(verdicts, key=lambda verdict: ORDER.index(verdict.verdict))
    entries = [(verdict.cell.difference is None and not verdict.runs, _entry(verdict)) for verdict in ordered]
    return {
        "summary": f"Of {counted(len(verdicts), 'claim')}: {rulings}.",
        "shown": [entry for empty, entry in entries if not empty],
        "silent": [entry for empty, entry in entries if empty],
    }


def _entry(verdict: Verdict) -> dict[str, Any]:
    difference, _, between = interval(verdict.cell).partition("\n")
    cells = [
        {
            "where": cell.where,
            "compared": ", ".join(filter(None, (f"{cell.a} against {cell.b}", cell.effort, cell.note)))
            if cell.a
            else "",
            "difference": "–" if cell.difference is None else interval(cell).replace("\n", " (") + ")",
            "p": "–" if cell.p_corrected is None else p_value(cell.p_corrected),
            "sample": "–" if cell.difference is None else sample(cell).replace("\n", ", "),
            "outcome": OUTCOMES[cell.outcome] + (f": {cell.why}" if cell.why else ""),
        }
        for cell in verdict.cells
    ]
    return {
        "verdict": verdict.verdict,
        "kind": verdict.verdict.split()[0],
        "sign": SIGNS[verdict.verdict],
        "claim": verdict.claim,
        "source": verdict.source,
        "reason": why(verdict),
        "compared": compared(verdict),
        "difference": difference,
        "interval": between,
        "sample": sample(verdict.cell).split("\n"),
        "threshold": points(verdict.threshold),
        "runs": list(verdict.runs),
        "cells": cells if len(cells) > 1 else [],
    }
