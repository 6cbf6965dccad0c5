"""Tables as papers print them: methods by languages with their mean, and methods by tasks."""

from collections.abc import Sequence

import polars as pl

from crosstune.report.sections import Section, outcome
from crosstune.report.tables.tables import Column, Table
from crosstune.report.text import language_name, percent, visible

MOST_LANGUAGES = 24
"""With more columns than these a table fits no page; then the columns are language families."""

_MARKS = "* significantly below the best mean ({test}); bold: the best of a column; † not zero-shot"


def by_languages(section: Section) -> Table:
    """Methods by languages: the source, each target language, and the mean over targets.

    Of more languages than `MOST_LANGUAGES` it has the means of families in their place.
    """
    from crosstune.analysis.groups import family_order, group_means

    targets = family_order(section.targets)
    scores = section.languages.select("method", pl.col("language").alias("column"), "score")
    titles = {code: visible(code) for code in targets}
    if len(targets) > MOST_LANGUAGES:
        means = group_means(section.scores, "family")
        scores = means.select("method", pl.col("group").alias("column"), "score")
        titles = {name: visible(name, 40) for name in means["group"].unique().sort().to_list()}
    cells = {(row["method"], row["column"]): row["score"] for row in scores.rows(named=True)}
    rows = section.table.rows(named=True)
    leader = next(iter(section.references), None)
    worse = _below(section, leader)
    columns = [
        Column(
            "Method",
            [visible(row["method"], 60) + ("" if row["zero_shot"] else " †") for row in rows],
            right=False,
        ),
        _scored(section.source, [row["source"] for row in rows]),
        *(_scored(title, [cells.get((row["method"], key)) for row in rows]) for key, title in titles.items()),
        _scored("Mean", [row["target_mean"] for row in rows], [row["method"] in worse for row in rows]),
    ]
    listed = ", ".join(f"{code} {language_name(code)}" for code in targets) if targets == list(titles) else ""
    about = " ".join(
        visible(part, 80) for part in (section.task, "with", section.model, section.note) if part
    )
    measure = visible(section.table["measure"][0], 40)
    caption = f"{about}: {measure} out of 100. {_MARKS.format(test='5%, all pairs')}"
    return Table(f"{caption}{'. ' + listed if listed else ''}", columns, scores)


def over_tasks(parts: Sequence[Section]) -> Table:
    """Methods by tasks: the mean over target languages on each, and the mean of these where all are there."""
    setups = list(dict.fromkeys((part.model, method) for part in parts for method in part.methods))
    means = {
        (part.model, row["method"], place): row["target_mean"]
        for place, part in enumerate(parts)
        for row in part.table.rows(named=True)
    }
    places: dict[tuple[str, str], list[int]] = {}  # sections of one task and protocol, a model each
    for place, part in enumerate(parts):
        places.setdefault((part.task, part.note), []).append(place)
    below = {place: _below(part, next(iter(part.references), None)) for place, part in enumerate(parts)}
    columns: list[Column] = []
    table: dict[tuple[str, str], list[float | None]] = {key: [] for key in setups}
    for (task, note), some in places.items():
        values, marks = [], []
        for model, method in setups:
            at = next((place for place in some if parts[place].model == model), None)
            values.append(None if at is None else means.get((model, method, at)))
            marks.append(at is not None and method in below[at])
            table[model, method].append(values[-1])
        columns.append(_scored(visible(f"{task} {note}".strip(), 40), values, marks))
    averages = [_mean(scores) for scores in table.values()]
    models = len({model for model, _ in setups}) > 1
    first = [
        *([Column("Model", [visible(model, 60) for model, _ in setups], right=False)] if models else []),
        Column("Method", [visible(method, 60) for _, method in setups], right=False),
    ]
    rows = [
        {"model": model, "method": method, "task": task, "note": note, "target_mean": score}
        for (model, method), scores in table.items()
        for (task, note), score in zip(places, scores, strict=True)
    ]
    data = pl.DataFrame(rows, schema_overrides={"target_mean": pl.Float64})
    marks_are = _MARKS.format(test="of its model, 5%, all pairs")
    caption = f"Means over target languages, out of 100, by task. {marks_are}"
    return Table(caption, [*first, *columns, _scored("Mean", averages)], data)


def _mean(scores: Sequence[float | None]) -> float | None:
    """None where one is missing: means over other tasks would not compare."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known and len(known) == len(scores) else None


def _below(section: Section, leader: str | None) -> set[str]:
    """Methods whose mean is significantly below the best zero-shot one's."""
    if leader is None:
        return set()
    tests = section.against(leader).rows(named=True)
    return {row["a"] for row in tests if outcome(row) == "worse"}


def _scored(title: str, values: Sequence[float | None], marked: Sequence[bool] = ()) -> Column:
    highest = max((value for value in values if value is not None), default=None)
    marks = marked or [False] * len(values)
    cells = [percent(value) + "*" * mark for value, mark in zip(values, marks, strict=True)]
    return Column(title, cells, best=[value is not None and value == highest for value in values])
