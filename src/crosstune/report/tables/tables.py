"""The report's tables, each built once: page, terminal, CSV and LaTeX render the same cells."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from crosstune.analysis.answer_language import CORRECT, SOURCE, UNDECIDED
from crosstune.analysis.groups import Grouping, family_order, group_means, group_of
from crosstune.analysis.statistics.bootstrap import DRAWS
from crosstune.analysis.transfer import comparable
from crosstune.claims.cell import counted
from crosstune.languages.table import lookup
from crosstune.report.effort import seeds_left_out
from crosstune.report.findings import not_shown
from crosstune.report.sections import IN_ENGLISH, Section, outcome
from crosstune.report.text import (
    GROUPINGS,
    group_name,
    language_name,
    p_value,
    percent,
    points,
    span,
    visible,
)

Medium = Literal["terminal", "page", "file"]

MARKS = {"better": "▲", "worse": "▼", "not significant": "n.s."}


@dataclass(frozen=True)
class Column:
    """One column as shown; every text in it is harmless (`crosstune.report.text.visible`)."""

    title: str  # its heading
    cells: Sequence[str]  # text of each row
    right: bool = True  # cells end on the right, as numbers do
    wide: bool = False  # cells wrap
    media: tuple[Medium, ...] = ("terminal", "page", "file")  # where the column is shown
    notes: Sequence[str] = ()  # what stands beside each cell, less prominent; not in files
    best: Sequence[bool] = ()  # which cells are emphasised
    more: bool = False  # the page shows it only to readers who ask for all columns
    foot: Sequence[str] = ()  # what stands under the rows on the page, a cell a line: levels to compare with


@dataclass(frozen=True)
class Table:
    """One table, for people and for programs."""

    caption: str  # what it shows
    columns: Sequence[Column]  # as shown
    data: pl.DataFrame  # the same numbers, and more, in full precision
    notes: Sequence[str] = ()  # what a reader has to know of the columns, on the page and in the terminal

    def shown(self, medium: Medium) -> list[Column]:
        """The columns of a medium, in order."""
        return [column for column in self.columns if medium in column.media]

    @property
    def height(self) -> int:
        """How many rows."""
        return len(self.columns[0].cells)


def titled(section: Section) -> str:
    """A section in a caption: its task, model and note."""
    return " ".join(visible(part, 80) for part in (section.task, "with", section.model, section.note) if part)


def transfer(section: Section) -> Table:
    """Source score, mean over targets and gap of each method, and the languages of its answers."""
    data = section.table
    rows = data.rows(named=True)
    first = rows[0]
    leader = next(iter(section.references), None)
    compared = leader is not None and len(rows) > 1
    tests = {row["a"]: row for row in section.against(leader).rows(named=True)} if leader else {}
    targets = first["targets"]

    guessed = section.levels.named
    same = [_one_label(section, row["method"]) for row in rows]

    def scored(title: str, name: str, foot: Sequence[str] = ()) -> Column:
        return Column(title, [percent(row[name]) for row in rows], best=_best(rows, name), foot=foot)

    def extreme(title: str, end: str, *media: Medium) -> Column:
        codes = [row[f"{end}_language"] for row in rows]
        names = ["–" if code is None else visible(language_name(code), 20) for code in codes]
        values = [percent(row[f"{end}_score"]) if row[f"{end}_language"] else "" for row in rows]
        best = _best(rows, f"{end}_score") if end == "worst" else ()
        return Column(title, names, media=media, notes=values, best=best, more=True)

    def shares(title: str, column: str, *media: Medium, of_all: bool = False) -> Iterator[Column]:
        if not (section.has_in_english if column == IN_ENGLISH else section.has_answer_language):
            return
        values = [row[column] for row in rows]
        shares_shown = [None if value is None else 1 - value if of_all else value for value in values]
        for medium in media:
            digits = 0 if medium == "terminal" else 1
            cells = ["–" if value is None else f"{percent(value, digits)}%" for value in shares_shown]
            yield Column(title, cells, media=(medium,), more=column == UNDECIDED)

    wide = section.has_in_english or section.has_answer_language
    relative: tuple[Medium, ...] = ("page", "file") if wide else ("terminal", "page", "file")
    columns = [
        Column("Method", [_label(row) for row in rows], right=False, notes=same if any(same) else (),
               foot=[name.capitalize() for name, _ in guessed]),
        Column("Trained", [_compact(row["trained_parameters"]) for row in rows], more=True),
        scored(section.source, "source"),
        scored(f"Mean of {targets}", "target_mean", [percent(level) for _, level in guessed]),
        *([Column("95% interval", [span(*section.intervals[row["method"]]) for row in rows])]
          if section.intervals else []),
        *([Column("Against the best", [_marked(tests.get(row["method"])) for row in rows],
                  media=("page",))] if compared else []),
        Column("Gap", [percent(row["gap"]) for row in rows]),
        Column("Relative", ["–" if row["relative"] is None else f"{row['relative']:.2f}" for row in rows],
               media=relative, more=True),
        extreme("Best language", "best", "page"),
        extreme("Worst language", "worst", "terminal", "page"),
        *shares("In English", IN_ENGLISH, "terminal", "page"),
        *shares("Identified", UNDECIDED, "page", of_all=True),
        *shares("Right language", CORRECT, "terminal", "page"),
        *shares(f"In {section.source} instead", SOURCE, "page"),
        Column("Seeds", [str(row["seeds"]) for row in rows], media=("page", "file"), more=True),
        Column("SD over seeds", [percent(row["target_sd"]) for row in rows], media=("page", "file"),
               more=True),
        Column("Rates tried", [_tried(section, row["method"]) for row in rows], media=("page", "file"),
               more=True),
        Column("Targets", [str(row["targets"]) for row in rows], media=("file",)),
    ]  # fmt: skip
    measure = visible(first["measure"], 40)
    caption = f"Transfer, {titled(section)}: {measure} out of 100{_guessing(section)}; {_of_means(section)}"
    zero_shot = bool(data["zero_shot"].all())
    if not zero_shot:
        caption += "; † not zero-shot"
    about = f"gap = {section.source} − mean; relative = mean / {section.source}"
    notes = [f"{measure} out of 100{_guessing(section)}; {about}", _of_means(section)]
    if first["targets_seen"] > targets:
        notes.append(
            f"mean over the {targets} of {first['targets_seen']} target languages that every run has"
        )
    notes += seeds_left_out(section.setups)
    if not zero_shot:
        notes.append("† not zero-shot")
    if section.has_in_english:
        notes.append("In English = correct, but written in English (targets)")
    if section.has_answer_language:
        identified = [1 - float(value) for value in data[UNDECIDED].drop_nulls().to_list()]
        low, high = percent(min(identified), 0), percent(max(identified), 0)
        part = f"{low}%" if low == high else f"{low} to {high}%"
        notes.append(
            f"Right language = share of the answers with an identified language, {part} of all (targets)"
        )
    return Table(caption, columns, data, notes)


def _label(row: Mapping[str, Any]) -> str:
    return visible(row["method"], 60) + ("" if row["zero_shot"] else " †")


def _one_label(section: Section, method: str) -> str:
    """A mark where the runs of a method give one and the same answer to everything in some languages."""
    counts = [section.same_answers.get(run.id, 0) for run in section.of(method)]
    return f"one answer in {counted(max(counts), 'language')}" if any(counts) else ""


def _best(rows: Sequence[Mapping[str, Any]], name: str) -> list[bool]:
    """Which zero-shot rows have the highest value of a column."""
    values = [row[name] if row["zero_shot"] else None for row in rows]
    highest = max((value for value in values if value is not None), default=None)
    return [value is not None and value == highest for value in values]


def _compact(count: int | None) -> str:
    if count is None:
        return "–"
    return f"{count:,}" if count < 10_000_000 else f"{count / 1e6:,.1f}M"


def _marked(test: Mapping[str, Any] | None) -> str:
    """A difference with its mark; if it is not significant, with the minimum detectable difference."""
    if test is None:
        return "–"
    if test["not_enough_data"]:
        return f"{points(test['difference'])} not tested"
    result = outcome(test)
    if result != "not significant":
        return f"{MARKS[result]} {points(test['difference'])}"
    return f"{points(test['difference'])} n.s. ({percent(test['detectable'])})"


def _tried(section: Section, method: str) -> str:
    """How many settings a method is the best of."""
    setup = section.setups[method]
    return "–" if setup.first.train is None else str(setup.tried)


def _guessing(section: Section) -> str:
    return f" ({section.levels})" if str(section.levels) else ""


def _of_means(section: Section) -> str:
    """What the interval of a mean covers."""
    seeds = "alone (one seed each)" if section.one_seed else "and training seeds"
    return f"95% interval of each mean over exactly these languages: other test examples {seeds}"


def _covers(tests: pl.DataFrame) -> str:
    """What the intervals of differences cover, and how many tests hold together."""
    if tests.is_empty():
        return "nothing is tested"
    first = tests.row(0, named=True)
    absent = first["seed_variation"] == "absent"
    seeds = "these trained models alone (one seed each)" if absent else "other training seeds"
    languages = (
        "other languages like these" if first["language_effect"] == "random" else "these languages alone"
    )
    pairs = first["methods"] * (first["methods"] - 1) // 2
    together = (
        f"for all {pairs} pairs of {first['methods']} methods together" if pairs > 1 else "for this pair"
    )
    return f"95% intervals and p values hold {together}; they cover other test examples, {seeds}, {languages}"


def languages(section: Section) -> Table:
    """Score of each method in each language."""
    scores = section.languages
    cells = {(row["language"], row["method"]): row["score"] for row in scores.rows(named=True)}
    examples = dict(scores.select("language", "n").iter_rows())
    shared = set(comparable(section.scores)["language"])
    source = scores["source_language"][0]
    codes = family_order(examples)
    known = [lookup(code) for code in codes]
    marks = [" ".join(("source",) * (code == source) + ("○",) * (code not in shared)) for code in codes]
    page: tuple[Medium, ...] = ("page",)
    columns = [
        Column("Language", [visible(language_name(code), 40) for code in codes], right=False, notes=marks),
        Column("Code", [visible(code) for code in codes], right=False, media=page),
        Column("Family", [visible(group_of(code, "family"), 40) for code in codes], right=False),
        Column("Script", [visible(group_name("script", group_of(code, "script"))) for code in codes],
               right=False, media=page),
        Column("Resource", ["–" if row is None or row.resource is None else str(row.resource)
                            for row in known], media=page),
        Column("Examples", [f"{examples[code]:,}" for code in codes]),
        *_by_method(section, cells, codes),
    ]  # fmt: skip
    measure = visible(section.table["measure"][0])
    notes = [
        f"{measure}, out of 100{_guessing(section)}, mean over seeds",
        "○ marks a language that some runs lack; it is not part of the means above",
    ]
    return Table(f"Scores by language, {titled(section)}, out of 100", columns, scores, notes)


def groups(section: Section, by: Grouping) -> Table:
    """Mean of each method in each group of target languages."""
    means = group_means(section.scores, by)
    cells = {(row["group"], row["method"]): row["score"] for row in means.rows(named=True)}
    counts = dict(means.select("group", "languages").iter_rows())
    members = dict(means.select("group", "codes").iter_rows())
    which = [visible(", ".join(map(language_name, members[group])), 4000) for group in counts]
    columns = [
        Column(GROUPINGS[by], [visible(group_name(by, group), 40) for group in counts], right=False),
        Column("Languages", [str(count) for count in counts.values()]),
        *_by_method(section, cells, list(counts)),
        Column("Which", which, right=False, wide=True, media=("page",)),
    ]
    grouping = GROUPINGS[by].lower()
    caption = f"Means over target languages by {grouping}, {titled(section)}, out of 100"
    return Table(caption, columns, means.with_columns(pl.col("codes").list.join(" ")), [f"by {grouping}"])


def _by_method(
    section: Section, scores: Mapping[tuple[str, str], float], keys: Sequence[str]
) -> Iterator[Column]:
    for method in section.methods:
        yield Column(visible(method, 60), [percent(scores.get((key, method))) for key in keys])


def all_differences(section: Section) -> Table:
    """Paired differences of all pairs of methods, which need a target language in common."""
    assert section.paired is not None
    tests = section.pairs(DRAWS).table()
    caption = (
        f"Paired differences, {titled(section)}: points out of 100 as a mean over {tests['languages'][0]} "
        f"target languages{_guessing(section)}; {_covers(tests)}; h is Cohen's; detectable is "
        "the minimum detectable difference at 80% power, an estimate; better, n.s. and worse count languages"
    )
    few = tests.filter(pl.col("not_enough_data") != "")["not_enough_data"].to_list()
    if few:
        caption += f"; not enough data: {visible(few[0])}"
    return Table(caption, _tested(section, tests), tests)


def differences_from(section: Section, reference: str) -> Table:
    """Paired differences of every other method from one."""
    tests = section.against(reference)
    return Table(f"against {visible(reference, 80)}", _tested(section, tests), tests, [_covers(tests)])


def _tested(section: Section, tests: pl.DataFrame) -> list[Column]:
    rows = tests.rows(named=True)
    words = [
        f"not enough data: {visible(row['not_enough_data'])}" if row["not_enough_data"]
        else not_shown(row) if outcome(row) == "not significant" else f"{MARKS[outcome(row)]} {outcome(row)}"
        for row in rows
    ]  # fmt: skip
    file: tuple[Medium, ...] = ("file",)
    return [
        Column("Method", [visible(row["a"], 60) for row in rows], right=False),
        Column("Against", [visible(row["b"], 60) for row in rows], right=False, media=file),
        Column("Difference", [points(row["difference"]) for row in rows]),
        Column(
            "95% interval",
            [
                "not tested" if row["not_enough_data"] else f"{points(row['low'])} to {points(row['high'])}"
                for row in rows
            ],
        ),
        Column("p (all pairs)", [p_value(row["p"]).removeprefix("p ").removeprefix("= ") for row in rows]),
        Column("h", [f"{row['effect']:+.2f}".replace("-", "−") for row in rows]),
        Column("Detectable", [percent(row["detectable"]) for row in rows], media=file),
        Column("Better / n.s. / worse", [f"{row['wins']} / {row['ties']} / {row['losses']}" for row in rows]),
        Column("Examples", [f"{row['examples']:,}" for row in rows], media=file),
        Column("Seeds", [f"{row['seeds_a']}, {row['seeds_b']}" for row in rows], media=file),
        Column(
            "Effort",
            [visible(section.effort(row["a"], row["b"]), 300) or "equal" for row in rows],
            right=False,
            wide=True,
            media=("page", "file"),
        ),
        Column("In words", words, right=False, wide=True, media=("page",)),
    ]
