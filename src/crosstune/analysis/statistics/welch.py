"""Degrees of freedom of a sum of variances, one of which is known from few seeds or languages.

Satterthwaite's (1946) are too many there: a variance between three seeds that is small by chance also has a
small share, and the sum then seems to be known well. 5% false positives become 6 with four degrees of freedom
and 8 with two. This is Welch's problem (1947), and is solved as he had it: the critical value is a function
of the observed share, such that the test of normal means keeps its level whatever the true share is. It is
found by quadrature over both chi-squared distributions; nothing in it is tuned on simulated studies.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

OWN = 1 / 3
"""How much of a method's variance between seeds is its own; the rest is the mean over all methods."""

LEVEL = 0.05
_SHARES = np.linspace(0, 1, 31)
# Where it is solved; in between it is interpolated.
_FEW = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 25.0)
_REST = (1.0, 2.0, 4.0, 10.0, 1000.0)
_STEPS = 25

Floats = NDArray[np.float64]


class SeedVariance(NamedTuple):
    """What one seed adds to the variance of each method with several seeds."""

    # The estimate: the mean square of seeds less the noise of examples; may be below 0.
    added: dict[str, float]
    square: dict[str, float]  # the mean square itself
    df: dict[str, int]  # its degrees of freedom

    def of(self, seeds: Mapping[str, int]) -> tuple[float, float, float]:
        """What seeds add to the variance of a sum or difference of methods.

        Args:
            seeds: The methods and how many seeds each has; one without a variance of its own has the mean.

        Returns:
            The variance, which may be below 0 by chance; the mean square in it; that one's degrees of
            freedom by Satterthwaite.
        """
        total = sum(self.df.values())
        weight = dict.fromkeys(self.df, 0.0)
        for name, count in seeds.items():
            kept = OWN if name in self.df else 0.0
            for other, df in self.df.items():
                weight[other] += ((1 - kept) * df / total + kept * (other == name)) / count
        added, square = (sum(weight[m] * values[m] for m in weight) for values in (self.added, self.square))
        mean = sum(self.square[m] * self.df[m] for m in weight) / total
        terms = {m: weight[m] * (OWN * self.square[m] + (1 - OWN) * mean) for m in weight}
        squares = sum(term**2 / self.df[m] for m, term in terms.items())
        return added, square, sum(terms.values()) ** 2 / squares if squares else float(total)


def corrected(variance: float, parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a variance.

    Args:
        variance: The sum.
        parts: The mean squares it is made of, each with its degrees of freedom.

    Returns:
        Satterthwaite's, made fewer where the part with the fewest would be trusted too much; never fewer
        than that part has.
    """
    parts = [(square, max(df, 1.0)) for square, df in parts if square > 0]
    if not parts:
        return 1.0
    few = min(parts, key=lambda part: part[1])
    others = [part for part in parts if part is not few]
    df = variance**2 / sum(square**2 / k for square, k in parts)
    if others:
        rest = sum(square for square, _ in others)
        rest_df = rest**2 / sum(square**2 / k for square, k in others)
        share = few[0] / (few[0] + rest)
        low, high, share = (few[1], rest_df, share) if few[1] <= rest_df else (rest_df, few[1], 1 - share)
        factor = sum(
            weight * other * float(np.interp(share, _SHARES, _solved(_FEW[i], _REST[j])))
            for (i, weight), (j, other) in itertools.product(_between(low, _FEW), _between(high, _REST))
        )
        df *= float(np.exp(factor))
    return max(df, few[1])


def _between(df: float, points: Sequence[float]) -> list[tuple[int, float]]:
    """The points next to a number of degrees of freedom, with their weights."""
    at = float(np.interp(-1 / df, [-1 / point for point in points], range(len(points))))
    low = int(at)
    return [(i, weight) for i, weight in ((low, 1 - at + low), (low + 1, at - low)) if weight]


@functools.cache
def _solved(few: float, rest: float) -> Floats:
    """[shares]; the logarithm of the factor that Satterthwaite's degrees of freedom need.

    By Picard's iteration: where a true share leads to more false positives than the level, the test is made
    stricter at that observed share.
    """
    plain = 1 / (_SHARES**2 / few + (1 - _SHARES) ** 2 / rest)
    small = _SHARES[:, None, None] * _scaled(few, 80)[:, None]
    total = small + (1 - _SHARES[:, None, None]) * _scaled(rest, 10)
    observed, root = small / total, np.sqrt(total)
    cut = special.stdtrit(plain, 1 - LEVEL / 2)
    for _ in range(_STEPS):
        wrong = 2 * special.ndtr(-np.interp(observed, _SHARES, cut) * root).mean(axis=(1, 2))
        cut = cut * (wrong / LEVEL) ** 0.35
    low, high = np.full_like(cut, 0.5), plain
    for _ in range(40):
        middle = (low + high) / 2
        stricter = special.stdtrit(middle, 1 - LEVEL / 2) > cut
        low, high = np.where(stricter, middle, low), np.where(stricter, high, middle)
    return np.asarray(np.log(high / plain))


def _scaled(df: float, points: int) -> Floats:
    """A chi-squared variate over its degrees of freedom, at equally likely quantiles."""
    return np.asarray(2 * special.gammaincinv(df / 2, (np.arange(points) + 0.5) / points) / df)
