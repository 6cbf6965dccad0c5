"""The findings of a report in sentences, each based on a test."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from crosstune.report.sections import ALPHA, Section
from crosstune.report.text import counted, p_value, percent, points


def finding(section: Section) -> str:
    """Which method is best in a section, whether significantly so, and the size of the sample."""
    rows = section.ranked
    if not rows:
        return "No zero-shot run shares a target language with all others: there is no transfer to report."
    best = rows[0]
    targets = counted(best["targets"], "target language")
    score = f"mean of {targets} {percent(best['target_mean'])}"
    if best["source"] is not None:
        side = "under" if best["gap"] >= 0 else "over"
        score += f", {percent(abs(best['gap']))} points {side} {section.source} ({percent(best['source'])})"
    if len(rows) == 1:
        alone = "there is no other method to compare it with"
        return f"{best['method']}: {score}; {alone}. {_weight(section, rows)}"
    undecided, tested = _against_best(section)
    second = rows[1]
    if not undecided:
        sentence = (
            f"{best['method']} transfers best: {score}; next is {second['method']} with "
            f"{percent(second['target_mean'])}"
        )
    elif len(undecided) == len(rows) - 1 and len(undecided) > 1:
        sentence = (
            f"{best['method']} has the highest mean, but no method is significantly different from it: "
            f"{score}"
        )
    else:
        sentence = (
            f"{best['method']} has the highest mean, but is not significantly different from "
            f"{_names(undecided)}: {score}"
        )
    return f"{sentence}. {tested}{_weight(section, rows)}"


def overall_finding(parts: Sequence[Section]) -> str:
    """The finding of a single section, or how many sections each method leads."""
    if len(parts) == 1:
        return finding(parts[0])
    compared = [part for part in parts if len(part.ranked) > 1]
    if not compared:
        return f"{len(parts)} sets of runs, none of them with two zero-shot methods to compare."
    leads = Counter(leader(part) or "no single leader" for part in compared)
    ranked = sorted(leads.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) == 1 and len(compared) > 1:
        name = ranked[0][0]
        if name == "no single leader":
            sentence = (
                f"In none of {len(compared)} comparisons is one method significantly better than all others"
            )
        else:
            sentence = (
                f"{name} is significantly better than every other method in all {len(compared)} comparisons"
            )
    else:
        counts = ", ".join(f"{name} in {count}" for name, count in ranked)
        sentence = f"Significantly better than every other method, in {len(compared)} comparisons: {counts}"
    return f"{sentence} (mean over target languages, 5% after Holm). Each section below has its tests."


def leader(section: Section) -> str | None:
    """The method that is significantly better than every other zero-shot one (Holm), or None."""
    rows = section.ranked
    return None if not rows or _against_best(section)[0] else str(rows[0]["method"])


def not_shown(row: Mapping[str, Any]) -> str:
    """The text for a difference that is not significant."""
    size = "none" if row["detectable"] is None else f"{percent(row['detectable'])} points"
    return f"not significant; minimum detectable difference: {size}"


def _against_best(section: Section) -> tuple[list[str], str]:
    """Methods not significantly different from the best, and a sentence on the test against the second."""
    best, *others = (row["method"] for row in section.ranked)
    tests = {row["a"]: row for row in section.against(best).rows(named=True)}
    if not tests:
        return list(others), "No example was scored with all methods, so nothing is tested. "
    undecided = [name for name in others if tests[name]["p"] >= ALPHA]
    row = tests[others[0]]
    sentence = (
        f"The difference from {others[0]} is {percent(-row['difference'])} points (95% interval "
        f"{points(-row['high'])} to {points(-row['low'])}, {p_value(row['p'])}"
    )
    sentence += f"; {not_shown(row)}). " if others[0] in undecided else "). "
    if row["seed_variation"] == "absent":
        sentence += "With one seed per method, this interval does not include the variation between seeds. "
    return undecided, sentence


def _names(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"{len(names)} others"


def _weight(section: Section, rows: Sequence[Mapping[str, Any]]) -> str:
    seeds, sizes = [row["seeds"] for row in rows], section.scores["n"].to_list()
    times = "One seed" if max(seeds) == 1 else f"{_range(seeds)} seeds"
    compared = "" if len(rows) == 1 else f", {len(rows)} methods compared"
    return f"{times} per method, {_range(sizes)} examples per language{compared}."


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
