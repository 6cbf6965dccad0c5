"""What the page's template shows of a section: its tables, as text, and its charts, as embedded JSON."""

from typing import Any, get_args

from crosstune.analysis.answer_language import CORRECT, SOURCE, UNDECIDED
from crosstune.analysis.groups import Grouping, family_order, group_means, group_of, language_or_none
from crosstune.analysis.transfer import comparable
from crosstune.report.comparison import outcome, references
from crosstune.report.contents import contents
from crosstune.report.findings import finding, not_shown
from crosstune.report.sections import IN_ENGLISH, Section
from crosstune.report.text import (
    GROUPINGS,
    group_name,
    language_name,
    p_value,
    percent,
    points,
    slug,
    with_sd,
)

MARKS = {"better": "▲", "worse": "▼", "not shown": "≈"}


def view(number: int, section: Section) -> dict[str, Any]:
    """A section, with everything but its predictions."""
    row = section.table.row(0, named=True)
    figures: dict[str, list[dict[str, Any]]] = {}
    for item in contents(section):
        figures.setdefault(item.place, []).extend(item.figures())
    names = references(section)
    return {
        "id": f"s{number}",
        "task": section.task,
        "model": section.model,
        "note": section.note,
        "measure": row["measure"],
        "finding": finding(section),
        "source": section.source,
        "targets": row["targets"],
        "targets_seen": row["targets_seen"],
        "best": names[0] if names else None,
        "rows": _method_rows(section, names),
        "overlap": section.overlap,
        "all_zero_shot": bool(section.table["zero_shot"].all()),
        "shared_texts": section.shared_texts,
        "skipped_rows": section.skipped_rows,
        "has_in_english": section.has_in_english,
        "has_answer_language": section.has_answer_language,
        "figures": figures,
        "comparisons": [_comparison(section, name) for name in names] if len(section.methods) > 1 else [],
        "methods": section.methods,
        "languages": _language_rows(section),
        "groups": _group_tables(section),
    }


def _method_rows(section: Section, names: list[str]) -> list[dict[str, Any]]:
    tests = {row["a"]: row for row in section.against(names[0]).rows(named=True)} if names else {}
    rows = []
    for row in section.table.rows(named=True):
        told = row.get(UNDECIDED)
        rows.append(
            row
            | {
                "best": bool(names) and row["method"] == names[0],
                "against_best": _marked(tests.get(row["method"])),
                "source_text": with_sd(row["source"], row["source_sd"]),
                "target_text": with_sd(row["target_mean"], row["target_sd"]),
                "gap_text": with_sd(row["gap"], row["gap_sd"]),
                "best_name": None if row["best_language"] is None else language_name(row["best_language"]),
                "worst_name": None if row["worst_language"] is None else language_name(row["worst_language"]),
                "in_english": row.get(IN_ENGLISH),
                "answer_languages": (None if told is None else 1 - told, row.get(CORRECT), row.get(SOURCE)),
            }
        )
    return rows


def _marked(test: dict[str, Any] | None) -> str:
    """A difference with the sign of what its test says; where it shows nothing, with what it could show."""
    if test is None:
        return "–"
    said = outcome(test)
    text = f"{MARKS[said]} {points(test['difference'])}"
    return text if said != "not shown" else f"{text} ({percent(test['detectable'])})"


def _comparison(section: Section, reference: str) -> dict[str, Any]:
    rows = []
    for row in section.against(reference).rows(named=True):
        said = outcome(row)
        words = not_shown(row) if said == "not shown" else said
        rows.append(
            {
                "method": row["a"],
                "difference": points(row["difference"]),
                "interval": f"{points(row['low'])} to {points(row['high'])}",
                "p": p_value(row["p_holm"]).removeprefix("p ").removeprefix("= "),
                "effect": f"{row['effect']:+.2f}".replace("-", "−"),
                "languages": f"{row['wins']} / {row['ties']} / {row['losses']}",
                "said": f"{MARKS[said]} {words}",
            }
        )
    return {"reference": reference, "rows": rows}


def _language_rows(section: Section) -> list[dict[str, Any]]:
    means = section.languages
    shared = set(comparable(section.scores)["language"])
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for row in means.rows(named=True):
        cells.setdefault(row["language"], {})[row["method"]] = row
    rows = []
    for code in family_order(cells):
        known = language_or_none(code)
        some = next(iter(cells[code].values()))
        rows.append(
            {
                "code": code,
                "name": language_name(code),
                "family": group_of(code, "family"),
                "script": group_name("script", group_of(code, "script")),
                "resource": None if known is None else known.resource,
                "n": some["n"],
                "is_source": some["is_source"],
                "shared": code in shared,
                "scores": [cells[code].get(method, {}).get("score") for method in section.methods],
            }
        )
    return rows


def _group_tables(section: Section) -> list[dict[str, Any]]:
    tables = []
    for by in get_args(Grouping):
        found: dict[str, dict[str, Any]] = {}
        for row in group_means(section.scores, by).rows(named=True):
            names = ", ".join(language_name(code) for code in row["codes"])
            entry = found.setdefault(
                row["group"],
                {
                    "group": group_name(by, row["group"]),
                    "languages": row["languages"],
                    "names": names,
                    "scores": {},
                },
            )
            entry["scores"][row["method"]] = row["score"]
        tables.append({"id": slug(by), "by": GROUPINGS[by], "rows": list(found.values())})
    return tables
