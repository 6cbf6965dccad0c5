"""Scores of a ranking: ids, the best first."""

from collections.abc import Collection, Sequence


def average_precision(ranking: Sequence[str], relevant: Collection[str], depth: int = 20) -> float:
    """The precision at each place among the first ``depth`` that holds a relevant id, over how many can.

    A perfect ranking has 1: it is divided by the number of relevant ids, at most ``depth``.
    """
    hits, precisions = 0, 0.0
    for place, name in enumerate(ranking[:depth], 1):
        if name in relevant:
            hits += 1
            precisions += hits / place
    return precisions / min(len(relevant), depth)


def reciprocal_rank(ranking: Sequence[str], relevant: Collection[str], depth: int = 20) -> float:
    """1 / the place of the first relevant id; 0 where none is among the first ``depth``."""
    return next((1 / place for place, name in enumerate(ranking[:depth], 1) if name in relevant), 0.0)
