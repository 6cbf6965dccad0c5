import io
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from synthetic import HOSTILE, TASKS, frame, make_predictions, make_run

from crosstune.analysis.transfer import language_scores, transfer
from crosstune.cli.printing import say
from crosstune.report.sections import sections
from crosstune.report.terminal import results_table


def show(runs: list[dict[str, Any]], predictions: pl.DataFrame, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(
        results_table(sections(runs, predictions))
    )
    return out.getvalue()


def test_every_method_fits_on_one_line_of_100_columns(
    runs: list[dict[str, Any]], predictions: pl.DataFrame
) -> None:
    lines = show(runs, predictions).splitlines()
    assert all(len(line) <= 100 for line in lines)
    rows = transfer(language_scores(runs, predictions)).rows(named=True)
    for row in rows:
        mean = f"{100 * row['target_mean']:.1f}"
        assert any(line.strip().startswith(row["method"]) and mean in line for line in lines), row["method"]


def test_names_are_text_not_markup_or_escapes() -> None:
    run = make_run(TASKS[0], 2, 0, label="[bold]pre[/]\x1b[31mfix\u202e", model="m\x07")
    text = show([run], frame(make_predictions(run)))
    assert "[bold]pre[/]" in text
    assert not {"\x1b[31m", "\x07", "\u202e"} & {text[i : i + n] for n in (1, 5) for i in range(len(text))}


def test_a_run_that_is_not_zero_shot_is_marked_and_never_leads(
    runs: list[dict[str, Any]], predictions: pl.DataFrame
) -> None:
    task = [run for run in runs if run.task.name == "topics"]
    best = transfer(language_scores(task, predictions)).row(0, named=True)
    changed = [run.model_copy(update={"zero_shot": run.label != best["method"]}) for run in task]
    text = show(changed, predictions)
    assert f"{best['method']} †" in text
    assert f"{best['method']} {100 * best['target_mean']:.1f};" not in text


def test_an_answer_is_harmless_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for text in HOSTILE:
        say(text)
    shown = capsys.readouterr().out
    assert "\\x1b[31mred\\x07" in shown
    assert "\\u202egnp.exe" in shown
    assert "long " * 20_000 in shown
    assert all(char.isprintable() for char in shown.replace("\n", ""))
