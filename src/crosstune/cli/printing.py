"""What the command line prints: lines, complaints and tables, harmless to a terminal whatever they hold."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text


def say(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(printable(text) + "\n")


def complain(text: str, style: str) -> None:
    """One line on standard error, whatever the text holds."""
    console = Console(stderr=True, highlight=False)
    console.print(Text(printable(text), style=style), soft_wrap=True)


def printable(text: str) -> str:
    """Text from files without control characters, which could act on a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_csv(table: Any) -> None:
    """A polars table as CSV (`crosstune.report.text.csv_text`)."""
    from crosstune.report.text import csv_text

    sys.stdout.write(csv_text(table))


def print_json(content: Any) -> None:
    """Rows for other programs."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def show(table: RenderableType) -> None:
    """A table; wide where standard output is a file or a pipe, whose width is nobody's screen."""
    (Console() if sys.stdout.isatty() else Console(width=160)).print(table)


def print_rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    """A plain table; columns whose numbers are in ``right`` end on the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    show(table)


def print_sizes(solved: Mapping[str, Any], budget: str, geometry: Any) -> None:
    """The size of each method that comes nearest to a budget (`crosstune.methods.budget.solve_budget`)."""
    from crosstune.methods.budget import NEAR, hint

    sizes = [
        (name, f"{best.setting} {best.size}", f"{best.count:,}", best.share_off)
        if best is not None
        else (name, "-", "-", "-")
        for name, best in solved.items()
    ]
    print_rows(("method", "size", "trained parameters", f"off {budget}"), sizes, right=(2, 3))
    hints = {name: hint(name, best, geometry) for name, best in solved.items() if best is not None}
    if any(hints.values()):
        say(f"more than {NEAR:.0%} off:")
    for name, text in hints.items():
        if text is not None:
            say(f"  {name}: {text}")
