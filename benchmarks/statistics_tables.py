"""The tables of docs/statistics.md, from the rows that statistics_check.py stored."""

from collections.abc import Mapping
from typing import Any

from simulated_predictions import Shape


def describe(named: Mapping[str, Any]) -> str:
    """A shape in words."""
    shape = Shape(**{key: tuple(map(_hashable, value)) if isinstance(value, list) else value
                     for key, value in named.items()})  # fmt: skip
    seeds = [shape.seeds_of(i) for i in range(min(shape.methods, len(shape.seeds)))]
    changed = dict(shape.changed)
    sizes = f"{shape.languages} x {shape.examples}" if shape.fewest is None else (
        f"{shape.languages} x {shape.fewest} to {shape.examples}"
    )  # fmt: skip
    parts = [
        f"{shape.methods} methods" if shape.methods > 2 else "",
        f"{' and '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''}",
        sizes,
        {"binary": "", "f1": "micro-F1", "beta": "beta-binomial"}.get(shape.scores, shape.scores),
        "heavy tails" if shape.tails else "",
        "" if shape.level == 0.5 else f"mean score {shape.level:g}",
        "" if shape.parallel else "not parallel",
        f"{shape.questions} questions a passage" if shape.questions > 1 else "",
        f"{len(shape.families)} families" if shape.families else "",
        "these trained models" if changed.get("seed") == 0 else "",
        f"seeds of one vary {shape.uneven:g} times as much" if shape.uneven != 1 else "",
        "seeds differ by language" if changed.get("seed x language", 0) > 0.2 else "",
    ]
    return ", ".join(filter(None, parts))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """Markdown tables by the name that docs/statistics.md has for them."""
    pairs = [
        "| study | languages | not tested | one pair | any pair | wrongly better | coverage "
        "| of a mean | power | at |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found["pairs"]:
        size = row["detectable"]
        power = "– | –" if size is None else f"{percent(row['power'])} | {100 * size:.1f}"
        refused = row["refused"]["share"]
        cells = [describe(row["shape"]), row["language_effect"], f"{100 * refused:.0f}" if refused else ""]
        cells += [percent(row.get(name)) for name in ("alone", "family", "supported", "coverage", "mean")]
        pairs.append(f"| {' | '.join(cells)} | {power} |")
    single = ["| study | test | one language | any, after Holm | coverage |", "|---|---|--:|--:|--:|"]
    for row in found["languages"]:
        single.append(
            f"| {describe(row['shape'])} | {'exact McNemar' if row['test'] == 'mcnemar' else 't'} "
            f"| {100 * row['one']:.1f} | {percent(row['any'])} | {100 * row['coverage']:.1f} |"
        )
    other = ["| test | study | false positives | power |", "|---|---|--:|--:|"]
    for row in found["estimands"]:
        other.append(f"| difference of {row['of']} | {describe(row['shape'])} | {percent(row['false'])} | |")
    for row in found["equivalence"]:
        name = f"equivalence within {100 * row['margin']:g} points"
        shape = describe(row["shape"])
        other.append(f"| {name} | {shape} | {percent(row['false'])} | {percent(row['power'])} |")
    for row in found["selection"]:
        for how, hits in row["supported"].items():
            name = f"best of {row['rates']} rates {how}, against one rate"
            other.append(f"| {name}: wrongly better | {describe(Shape().named())} | {percent(hits)} | |")
    claims = ["| what is true | claim | supported |", "|---|---|--:|"]
    for row in found.get("claims", []):
        for name, hits in row["supported"].items():
            claims.append(f"| {row['truth']} | {name} | {percent(hits)} |")
    usual: list[str] = []
    if found["usual"]:
        heads = [describe(row["shape"]) for row in found["usual"]]
        usual = ["| test | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
        for test in found["usual"][0]["fixed"]:
            cells = [
                f"{percent(row['fixed'][test])} / {percent(row['random'][test])}" for row in found["usual"]
            ]
            usual.append(f"| {test} | " + " | ".join(cells) + " |")
    made = {"pairs": pairs, "languages": single, "other": other, "claims": claims, "usual": usual}
    return {name: "\n".join(rows) for name, rows in made.items()}


def percent(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "–"
    half = 100 * (found["high"] - found["low"]) / 2
    return f"{100 * found['share']:.1f} ± {half:.1f}"


def fill(text: str, filled: Mapping[str, str]) -> str:
    """Put tables between the marks that a page has for them."""
    for name, table in filled.items():
        if not table:
            continue
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text
