"""Several tests that lead to one statement: over tasks, the cells of a claim, or the claims of a file."""

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction: adjusted p values, in the order given.

    Each adjusted value may be held against the level, and the chance that any of them is wrongly below it is
    at most that level, however the tests depend on each other.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def every(p: Sequence[float]) -> float:
    """P value of "at least one does not hold": the largest (intersection-union test, Berger 1982).

    To say that all hold, each is tested at the full level; no correction is needed.
    """
    return max(p, default=1.0)


def some(p: Sequence[float]) -> float:
    """P value of "none holds": the smallest after Holm."""
    return min(holm(p), default=1.0)


def most(p: Sequence[float]) -> float:
    """P value of "no more than half hold": Holm over that many of the smallest (a partial conjunction).

    More than half of k hold where of the ``k - k // 2`` or more that would have to be false one is rejected:
    Bonferroni over them (Benjamini and Heller 2008).
    """
    ordered = sorted(p)
    half = len(ordered) // 2
    return min(1.0, (len(ordered) - half) * ordered[half]) if ordered else 1.0
