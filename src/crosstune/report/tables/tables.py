"""The report's tables as data: to export, or to read in a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from crosstune.analysis.groups import Grouping, family_order, group_means, group_of
from crosstune.analysis.statistics.differences import differences
from crosstune.claims.judge import Verdict, verdict_table
from crosstune.report.sections import Section
from crosstune.report.text import (
    GROUPINGS,
    group_name,
    language_name,
    percent,
    points,
    slug,
    visible,
    with_sd,
)


@dataclass(frozen=True)
class Table:
    """One table, for people and for programs.

    Attributes:
        name: Of its file: letters, digits and hyphens.
        caption: What it shows.
        head: Names of the columns as shown.
        rows: Cells as shown, plain text.
        right: Columns that end on the right.
        wide: Columns that wrap.
        data: The same, and more, in full precision.
    """

    name: str
    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: tuple[int, ...]
    data: pl.DataFrame
    wide: tuple[int, ...] = ()


def section_names(parts: Sequence[Section]) -> list[str]:
    """A file name for each section, unique: its task and model, and a number where two share these."""
    names: list[str] = []
    for part in parts:
        name = base = slug(part.task, part.model)
        number = 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def _about(section: Section) -> str:
    return " ".join(visible(part, 80) for part in (section.task, "with", section.model, section.note) if part)


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """What was found of every claim."""
    rows = []
    for each in verdicts:
        cell = each.cell
        known = cell.difference is not None
        rows.append(
            (
                each.verdict,
                visible(each.claim, 300),
                points(cell.difference),
                f"{points(cell.low)} to {points(cell.high)}" if known else "–",
                str(cell.languages) if known else "–",
                f"{cell.examples:,}" if known else "–",
                f"{cell.seeds_a}, {cell.seeds_b}" if known else "–",
                visible(each.reason, 300),
            )
        )
    head = ("Verdict", "Claim", "Difference", "95% interval", "Languages", "Examples", "Seeds", "Why")
    data = verdict_table(verdicts).with_columns(pl.col("runs").list.join(" "))
    caption = "Verdicts on claims; differences in points out of 100, of the comparison that decides"
    return Table("verdicts", caption, head, rows, (2, 3, 4, 5, 6), data, wide=(1, 7))


def settings_table(parts: Sequence[Section]) -> Table:
    """The settings of every setup: runs that differ in nothing but the seed."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        for method in part.methods:
            runs = part.of(method)
            train = runs[0].train or {}
            rows.append(
                {
                    "model": part.model,
                    "revision": runs[0].revision,
                    "task": f"{part.task} v{runs[0].task.version}",
                    "method": method,
                    "trained_parameters": max(run.trained_parameters or 0 for run in runs),
                    "learning_rate": train.get("learning_rate"),
                    "searched": runs[0].search is not None,
                    "steps": train.get("steps"),
                    "batch_size": train.get("batch_size"),
                    "loss": train.get("loss"),
                    "dtype": runs[0].dtype,
                    "seeds": " ".join(str(run.seed) for run in runs),
                    "runs": " ".join(run.id for run in runs),
                }
            )
    data = pl.DataFrame(rows, infer_schema_length=None)
    shown = [name for name in data.columns if name not in ("revision", "runs")]
    head = tuple(name.replace("_", " ").capitalize() for name in shown)
    cells = [tuple(_cell(row[name]) for name in shown) for row in rows]
    numbers = ("trained_parameters", "learning_rate", "steps", "batch_size")
    right = tuple(i for i, name in enumerate(shown) if name in numbers)
    return Table("settings", "Settings of the runs", head, cells, right, data)


def transfer(section: Section, name: str) -> Table:
    """Source score, mean over targets and gap of each method."""
    head = ("Method", "Trained", section.source, "Mean of targets", "Gap", "Relative", "Seeds", "Targets")
    rows = [
        (
            visible(row["method"], 60) + ("" if row["zero_shot"] else " †"),
            f"{row['trained_parameters']:,}" if row["trained_parameters"] is not None else "–",
            with_sd(row["source"], row["source_sd"]),
            with_sd(row["target_mean"], row["target_sd"]),
            with_sd(row["gap"], row["gap_sd"]),
            "–" if row["relative"] is None else f"{row['relative']:.2f}",
            str(row["seeds"]),
            str(row["targets"]),
        )
        for row in section.table.rows(named=True)
    ]
    measure = visible(section.table["measure"][0], 40)
    caption = f"Transfer, {_about(section)}: {measure} out of 100, ± one standard deviation over seeds"
    if not section.table["zero_shot"].all():
        caption += "; † not zero-shot"
    return Table(f"{name}-transfer", caption, head, rows, tuple(range(1, 8)), section.table)


def languages(section: Section, name: str) -> Table:
    """Score of each method in each language."""
    methods, scores = section.methods, section.languages
    cells = {(row["language"], row["method"]): row["score"] for row in scores.rows(named=True)}
    counts = dict(scores.select("language", "n").iter_rows())
    rows = [
        (
            visible(language_name(code), 40),
            visible(group_of(code, "family"), 40),
            f"{counts[code]:,}",
            *(percent(cells.get((code, method))) for method in methods),
        )
        for code in family_order(counts)
    ]
    head = ("Language", "Family", "Examples", *(visible(method, 40) for method in methods))
    return Table(
        f"{name}-languages",
        f"Scores by language, {_about(section)}, out of 100",
        head,
        rows,
        tuple(range(2, len(head))),
        scores,
    )


def groups(section: Section, by: Grouping, name: str) -> Table:
    """Mean of each method in each group of target languages."""
    means = group_means(section.scores, by)
    cells = {(row["group"], row["method"]): row["score"] for row in means.rows(named=True)}
    counts = dict(means.select("group", "languages").iter_rows())
    rows = [
        (
            visible(group_name(by, group), 40),
            str(count),
            *(percent(cells.get((group, method))) for method in section.methods),
        )
        for group, count in counts.items()
    ]
    head = (GROUPINGS[by], "Languages", *(visible(method, 40) for method in section.methods))
    caption = f"Means over target languages by {GROUPINGS[by].lower()}, {_about(section)}, out of 100"
    data = means.with_columns(pl.col("codes").list.join(" "))
    return Table(f"{name}-{slug(by)}", caption, head, rows, tuple(range(1, len(head))), data)


def differences_table(section: Section, name: str) -> Table:
    """Paired differences of all pairs of methods, which need a target language in common."""
    assert section.aligned is not None
    found = differences(section.aligned)
    rows = [
        (
            visible(row["a"], 40),
            visible(row["b"], 40),
            points(row["difference"]),
            f"{points(row['low'])} to {points(row['high'])}",
            f"{row['p_holm']:.3f}",
            f"{row['effect']:+.2f}",
            percent(row["detectable"]),
            f"{row['wins']}/{row['ties']}/{row['losses']}",
            f"{row['examples']:,}",
            f"{row['seeds_a']}, {row['seeds_b']}",
        )
        for row in found.rows(named=True)
    ]
    head = (
        "A",
        "B",
        "A - B",
        "95% interval",
        "p (Holm)",
        "h",
        "Detectable",
        "Win/tie/loss",
        "Examples",
        "Seeds",
    )
    caption = (
        f"Paired differences, {_about(section)}: points out of 100 as a mean over {found['languages'][0]} "
        "target languages; "
        "h is Cohen's; detectable is the smallest true difference found with 80% power; wins, ties and "
        "losses are languages"
    )
    return Table(f"{name}-differences", caption, head, rows, tuple(range(2, 10)), found)


def _cell(value: Any) -> str:
    if value is None or value is False:
        return "–"
    if value is True:
        return "yes"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else visible(value, 60)
