"""The smallest true difference that a sample would have shown: what "no difference" may rest on."""

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

POWER = 0.8


def critical(df: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """Two-sided critical value of Student's t."""
    return np.asarray(special.stdtrit(df, (1 + level) / 2), dtype=np.float64)


def two_sided(t: ArrayLike, df: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p value of Student's t."""
    return np.asarray(2 * special.stdtr(df, -np.abs(t)), dtype=np.float64)


def detectable(
    se: ArrayLike, df: ArrayLike, level: float = 0.95, power: float = POWER
) -> NDArray[np.float64]:
    """Minimum detectable difference of a two-sided t test.

    Args:
        se: Standard error of the difference.
        df: Its degrees of freedom.
        level: Of the interval; the test is at ``1 - level``.
        power: Probability with which the difference is to be found.

    Returns:
        The true difference that the test finds with this power, from the noncentral t distribution; the far
        tail, where the test is significant in the wrong direction, is left out. A standard error of few
        degrees of freedom is too small on average (its square is not): it is divided by c4, which mends that.
    """
    inverse, ratio = _ratios(level, power)
    df = np.maximum(np.asarray(df, dtype=np.float64), 1.0)
    cut = critical(df, level) + special.ndtri(power)
    c4 = np.sqrt(2 / df) * np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2))
    return np.asarray(np.asarray(se) / c4 * cut * np.interp(1 / df, inverse, ratio), dtype=np.float64)


@functools.cache
def _ratios(level: float, power: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the sum of the two quantiles is short of, by 1 / df: from 1 for many to 1.2 for one.

    Found by halving: scipy's own inverse does not come back for some fractions of degrees of freedom.
    """
    inverse = np.linspace(1e-3, 1, 400)
    cut = critical(1 / inverse, level)
    sums = cut + special.ndtri(power)
    low, high = np.full_like(cut, 0.9), np.full_like(cut, 1.6)
    for _ in range(40):
        middle = (low + high) / 2
        enough = special.nctdtr(1 / inverse, middle * sums, cut) < 1 - power
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.concatenate([[0], inverse]), np.concatenate([[1], (low + high) / 2])
