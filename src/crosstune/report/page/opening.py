"""What the page opens with: what was compared, on what and when; of several sections, a row each."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date

from crosstune.analysis.transfer import comparable
from crosstune.claims.cell import counted
from crosstune.report.sections import ALPHA, Section
from crosstune.report.tables.tables import Column
from crosstune.report.text import p_value, percent, points, visible


def facts(parts: Sequence[Section]) -> str:
    """Such as "gemma-3-270m on sib200: 5 methods, 23 languages, 3 seeds each; 26 November 2026"."""
    counts = (
        counted(len({name for part in parts for name in part.methods}), "method"),
        counted(len({code for part in parts for code in part.languages["language"]}), "language"),
        f"{_seeds(parts)} each",
    )
    about = f"{_names(part.model.split('/')[-1] for part in parts)} on {_names(part.task for part in parts)}"
    return f"{about}: {', '.join(counts)}{_days(parts)}"


def at_a_glance(parts: Sequence[Section]) -> list[Column]:
    """One row a section: the best zero-shot method, the next, and their difference with its interval."""
    rows = [_row(part) for part in parts]
    titles = ("Task", "Model", "Targets", "Seeds", "Best", "Mean", "Chance", "Next", "Difference (95%)", "p")
    right = {"Targets", "Seeds", "Mean", "Chance", "Difference (95%)", "p"}
    columns = [
        Column(title, column, right=title in right)
        for title, column in zip(titles, zip(*rows, strict=True), strict=True)
    ]
    one_model = len({part.model for part in parts}) == 1  # which the line above the table names
    return [column for column in columns if not (one_model and column.title == "Model")]


def _row(part: Section) -> tuple[str, ...]:
    ranked = [*part.ranked[:2], {}, {}]
    best, following = (visible(row["method"], 60) if row else "–" for row in ranked[:2])
    mean = percent(ranked[0].get("target_mean"))
    tests = part.against(ranked[0]["method"]).rows(named=True) if ranked[1] else []
    test = next((row for row in tests if row["a"] == ranked[1]["method"]), None)
    between = p = "–"
    if test is not None and test["not_enough_data"]:
        between = f"{points(-test['difference'])}, not tested"
    elif test is not None:
        # Of the next against the best: its sign is turned, so that it says how far the best is ahead.
        between = f"{points(-test['difference'])} ({points(-test['high'])} to {points(-test['low'])})"
        p = ("" if test["p"] < ALPHA else "n.s., ") + p_value(test["p"]).removeprefix("p ").removeprefix("= ")
    targets = set(comparable(part.scores).filter(~comparable(part.scores)["is_source"])["language"])
    about = (visible(part.task, 60), visible(part.model.split("/")[-1], 60), str(len(targets)))
    return (*about, _seeds([part]).split()[0], best, mean, percent(part.levels.chance), following, between, p)


def _seeds(parts: Sequence[Section]) -> str:
    counts = {
        row["seeds"]
        for part in parts
        for row in part.table.rows(named=True)
        if part.of(row["method"])[0].method_facts.random
    } or {1}
    low, high = min(counts), max(counts)
    return counted(low, "seed") if low == high else f"{low}–{high} seeds"


def _names(names: Iterable[str], most: int = 3) -> str:
    different = list(dict.fromkeys(names))
    shown = ", ".join(visible(name, 60) for name in different[:most])
    return shown + (f" and {len(different) - most} more" if len(different) > most else "")


def _days(parts: Sequence[Section]) -> str:
    """The day of the last run, or the first and the last."""
    dates = set()
    for finished in (run.finished for part in parts for run in part.runs):
        with suppress(ValueError):  # a record of somebody else's may have any text there
            dates.add(date.fromisoformat((finished or "")[:10]))
    shown = [f"{day.day} {day:%B %Y}" for day in sorted(dates)]
    return "" if not shown else f"; {shown[0]} to {shown[-1]}" if len(shown) > 1 else f"; {shown[0]}"
