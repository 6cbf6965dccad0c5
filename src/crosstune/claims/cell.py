"""One cell of a claim, and how the cells of a claim are corrected for being several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from crosstune.analysis.statistics.multiplicity import holm
from crosstune.claims.file import Quantifier

Outcome = Literal["yes", "no", "open"]
ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """One of the comparisons that decide a claim."""

    where: str  # what distinguishes it from the claim's other cells, such as "xnli, Uralic"
    # "yes" if the difference is significantly on the claim's side of its threshold, "no" if significantly on
    # the other, otherwise "open".
    outcome: Outcome = "open"
    why: str = ""  # why it is open, unless only because of the interval
    a: str = ""  # label of the method the claim is about
    b: str = ""  # label of the other method
    # Of the claim's quantity: most often the mean of a - b over languages, in [-1, 1]; null without data.
    difference: float | None = None
    holds: bool = False  # whether it is on the claim's side of the threshold
    low: float | None = None  # lower end of its 95% interval
    high: float | None = None  # upper end
    p: float | None = None  # two-sided, for a true difference equal to the threshold
    p_corrected: float | None = None  # the p value that decides the outcome; see `corrected`
    detectable: float | None = None  # minimum detectable distance from the threshold, at 80% power
    languages: int = 0  # number of target languages
    examples: int = 0  # number of examples in all languages
    seeds_a: int = 0  # seeds of a
    seeds_b: int = 0  # seeds of b
    # What each side was given besides the method, where that differs: "best of 10 rates against 1".
    effort: str = ""
    note: str = ""  # what keeps its numbers from being those of a table, or makes them doubtful
    runs: tuple[str, ...] = ()  # ids of the compared runs


def corrected(cells: Sequence[Cell], quantifier: Quantifier) -> list[Cell]:
    """The cells with their outcomes.

    That all cells hold needs no correction (intersection-union test; Berger 1982), and neither that all fail,
    for which `some` asks. In every other case p values are Holm-corrected over the cells with data.
    """
    adjusted = iter(holm([cell.p for cell in cells if cell.p is not None]))
    result = []
    for cell in cells:
        if cell.p is None or cell.difference is None:
            result.append(cell)
            continue
        p_holm = next(adjusted)
        p = cell.p if quantifier == ("every" if cell.holds else "some") else p_holm
        decided: Outcome = "yes" if cell.holds else "no"
        outcome = decided if not cell.why and p < ALPHA else "open"
        result.append(replace(cell, p_corrected=p, outcome=outcome))
    return result


def needed(quantifier: Quantifier, total: int) -> tuple[int, int]:
    """How many cells have to hold for a claim to be supported, and how many to fail to contradict it."""
    return {"every": (total, 1), "some": (1, total), "most": (total // 2 + 1, (total + 1) // 2)}[quantifier]


def counted(count: int, what: str) -> str:
    """Such as "1 seed", "3 languages", "2 families"."""
    plural = {
        "family": "families",
        "branch": "branches",
        "resource": "resource classes",
        "seen_script": "kinds of script",
    }.get(what, f"{what}s")
    return f"{count:,} {what.replace('resource', 'resource class') if count == 1 else plural}"
