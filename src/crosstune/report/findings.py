"""The findings of a report in sentences, each based on a test."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from crosstune.claims.cell import counted
from crosstune.report.sections import ALPHA, Section, outcome
from crosstune.report.text import p_value, percent


def finding(section: Section) -> str:
    """The best method and the next in one line, each difference with its interval; then the sample."""
    rows = section.ranked
    if not rows:
        return "No zero-shot run shares a target language with all others: there is no transfer to report."
    best = rows[0]
    score = f"{best['method']} {percent(best['target_mean'])}"
    if len(rows) == 1:
        return f"{score}; no other method to compare it with. {_weight(section, rows)}"
    tests = {row["a"]: row for row in section.against(best["method"]).rows(named=True)}
    if not tests:
        return (
            f"{score}; no example was scored with all methods, so nothing is tested. {_weight(section, rows)}"
        )
    others = [row["method"] for row in rows[1:]]
    few = tests[others[0]]["not_enough_data"]
    sentence = (
        f"{score}; not tested against {others[0]}: {few}."
        if few
        else f"{score}; {compared(tests[others[0]])}."
    )
    testable = [name for name in others[1:] if tests[name]["p"] is not None]
    for words, wanted in (("Not significantly different either", False), ("Significantly lower", True)):
        names = [name for name in testable if (tests[name]["p"] < ALPHA) == wanted]
        shown = [f"{name} (untuned)" if section.of(name)[0].method_facts.untuned else name for name in names]
        sentence += f" {words}: {_names(shown)}." if shown else ""
    if section.one_seed:
        what = "two" if len(rows) == 2 else str(len(rows))
        sentence = (
            f"Of these {what} trained models (one seed each, so nothing is said of the methods): {sentence}"
        )
    effort = section.effort(best["method"], others[0])
    effort_text = f" Effort of the first two: {effort}." if effort else ""
    return f"{sentence}{effort_text} {_weight(section, rows)}"


def compared(row: Mapping[str, Any]) -> str:
    """Such as "lora 3.8 lower (−1.6 to 9.1), n.s.; 80% power from 9.2 points", of a row against the best."""
    side = "lower" if row["difference"] <= 0 else "higher"
    sign = -1 if side == "lower" else 1
    low, high = sorted((sign * row["low"], sign * row["high"]))
    text = f"{row['a']} {percent(abs(row['difference']))} {side} ({_signed(low)} to {_signed(high)}), "
    return text + (p_value(row["p"]) if row["p"] < ALPHA else f"n.s.; {_power(row)}")


def _signed(value: float) -> str:
    return percent(value).replace("-", "−")


def _power(row: Mapping[str, Any]) -> str:
    if row["detectable"] is None:
        return "no difference would be found with 80% power"
    return f"80% power from {percent(row['detectable'])} points"


def overall_finding(parts: Sequence[Section]) -> str:
    """The finding of a single section, or how many sections each method leads."""
    if len(parts) == 1:
        return finding(parts[0])
    compared = [part for part in parts if len(part.ranked) > 1]
    if compared and all(part.one_seed for part in compared):
        models = f"{len(compared)} sets of trained models, one seed per method"
        return f"{models}: differences are between these models, and nothing is said of the methods."
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
    return (
        f"{sentence} (mean over target languages, 5%, all pairs together). Each section below has its tests."
    )


def leader(section: Section) -> str | None:
    """The method that is significantly better than every other zero-shot one, or None."""
    rows = section.ranked
    if not rows or section.one_seed:
        return None
    best, *others = (row["method"] for row in rows)
    tests = {row["a"]: outcome(row) for row in section.against(best).rows(named=True)}
    better = bool(tests) and all(tests[name] == "worse" for name in others)
    return str(best) if better or not others else None


def not_shown(row: Mapping[str, Any]) -> str:
    """The text for a difference that is not significant."""
    return f"n.s.; {_power(row)}"


def _names(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"{len(names)} others"


def _weight(section: Section, rows: Sequence[Mapping[str, Any]]) -> str:
    """The size of the sample; a method that no seed changes counts no seeds."""
    drawn = [row["seeds"] for row in rows if section.of(row["method"])[0].method_facts.random]
    examples = section.scores["n"].to_list()
    parts = [
        counted(rows[0]["targets"], "target language"),
        f"{_range(examples)} {'example' if max(examples) == 1 else 'examples'} each",
    ]
    if drawn:
        parts.append(f"{_range(drawn)} {'seed' if max(drawn) == 1 else 'seeds'} per method")
    if len(rows) > 1:
        parts.append(f"{len(rows)} methods compared")
    if str(section.levels):
        parts.append(str(section.levels))
    return f"{', '.join(parts)}."


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
