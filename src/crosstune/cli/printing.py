"""What the command line prints: lines, complaints and tables, harmless to a terminal whatever they hold."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from crosstune.errors import ACTS, UserError, inert


def say(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(inert(text) + "\n")


def complain(text: str, style: str) -> None:
    """One line on standard error, whatever the text holds."""
    console = Console(stderr=True, highlight=False)
    console.print(Text(inert(text), style=style), soft_wrap=True)


def print_csv(table: Any) -> None:
    """A polars table as CSV (`crosstune.report.text.csv_text`)."""
    from crosstune.report.text import csv_text

    sys.stdout.write(csv_text(table))


def print_json(content: Any) -> None:
    """Rows for other programs; characters that act stand as JSON's escapes."""
    text = json.dumps(content, ensure_ascii=False, indent=1)
    for char in {*ACTS.findall(text)} - {"\n"}:
        text = text.replace(char, json.dumps(char)[1:-1])
    sys.stdout.write(text + "\n")


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
        table.add_row(*(Text(inert(cell)) for cell in row))
    show(table)


def print_runs(results: Any, store: Any) -> None:
    """The finished runs of a store: id, task, model, method, seed, mean score, and the day."""
    import polars as pl

    means = dict(results.scores.group_by("run").agg(pl.col("score").mean()).iter_rows())
    rows = [
        (run.id, run.task.name, run.model, run.label, str(run.seed), f"{100 * means[run.id]:.1f}",
         (run.finished or "–")[:10])
        for run in results.runs
    ]  # fmt: skip
    print_rows(("run", "task", "model", "method", "seed", "mean of all languages", "finished"), rows, (4, 5))
    say(f"a run's folder is {store}/RUN; ask it something: crosstune predict {store}/RUN --text ...")


def print_counts(counts: Mapping[str, Any], method: str | None, model: str, total: int) -> None:
    """Trained parameters (`crosstune.methods.budget.count_parameters`), and what does not fit the model."""
    if method is not None:
        say(f"{counts[method]:,} trained parameters, {counts[method] / total:.4%} of {model}")
        return
    fitting = {name: count for name, count in counts.items() if not isinstance(count, UserError)}
    rows = [(name, f"{count:,}", f"{count / total:.4%}") for name, count in fitting.items()]
    print_rows(("method", "trained parameters", f"of {total:,}"), rows, right=(1, 2))
    _print_refused(counts)


def _print_refused(results: Mapping[str, Any]) -> None:
    for result in results.values():
        if isinstance(result, UserError):
            say(f"refused: {result}")


def print_sizes(solved: Mapping[str, Any], budget: str, geometry: Any) -> None:
    """The size of each method that comes nearest to a budget (`crosstune.methods.budget.solve_budget`)."""
    from crosstune.methods.budget import NEAR, hint

    sizes = [
        (name, f"{best.setting} {best.size}", f"{best.count:,}", best.share_off)
        if best is not None
        else (name, "-", "-", "-")
        for name, best in solved.items()
        if not isinstance(best, UserError)
    ]
    print_rows(("method", "size", "trained parameters", f"off {budget}"), sizes, right=(2, 3))
    _print_refused(solved)
    sized = {name: best for name, best in solved.items() if best and not isinstance(best, UserError)}
    hints = {name: hint(name, best, geometry) for name, best in sized.items()}
    if any(hints.values()):
        say(f"more than {NEAR:.0%} off:")
    for name, text in hints.items():
        if text is not None:
            say(f"  {name}: {text}")
