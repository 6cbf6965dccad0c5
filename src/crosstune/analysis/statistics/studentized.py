"""The studentized range: p values and critical values for all pairs of several methods together (Tukey 1949).

With two methods it is Student's t. With unequal variances each pair has its own standard error and degrees of
freedom, as Games and Howell (1976) test all pairs of group means. The studentized range holds where all pairs
share one estimate of the variance. Where each has its own, of few degrees of freedom, more of them come out
small by chance (of six methods in six families 10% false positives, not 5): then Sidak's (1967) correction
holds, as in Dunnett's T3 (1980). What a pair shares and what it has for itself decides between the two.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(120)
_CHI_NODES, _CHI_WEIGHTS = np.polynomial.legendre.leggauss(64)
_INVERSE = np.concatenate([[1e-6], np.linspace(0.005, 1, 120)])


def two_sided(t: ArrayLike, df: ArrayLike, methods: int = 2, alone: float = 0.0) -> Floats:
    """P value of a pair's t, adjusted for all pairs of the methods.

    Args:
        t: Difference over its standard error.
        df: Degrees of freedom of that.
        methods: How many there are.
        alone: Share of the standard error's uncertainty that is of this pair's own, in tenths: Sidak's p
            value has that weight, that of the studentized range the rest.

    Returns:
        The probability that, were all methods equal, any of their pairs had as large a t; of two methods
        the two-sided p value of Student's t.
    """
    t, df = np.broadcast_arrays(np.abs(np.asarray(t, dtype=np.float64)), np.asarray(df, dtype=np.float64))
    one = np.asarray(2 * special.stdtr(df, -t), dtype=np.float64)
    if methods == 2:
        return one
    ranges, below = _normal_range(methods)
    # Over the distribution of the standard deviation, by its quantiles.
    spread = np.sqrt(special.chdtri(df[..., None], (1 - _CHI_NODES) / 2) / df[..., None])
    inside = np.interp(t[..., None] * np.sqrt(2) * spread, ranges, below) @ (_CHI_WEIGHTS / 2)
    pairs = methods * (methods - 1) / 2
    together = np.clip(1 - inside, one, np.minimum(1.0, pairs * one))
    with np.errstate(divide="ignore"):
        apart = -np.expm1(pairs * np.log1p(-one))
    return np.asarray((1 - alone) * together + alone * apart)


def critical(df: ArrayLike, level: float = 0.95, methods: int = 2, alone: float = 0.0) -> Floats:
    """The t above which `two_sided` is below ``1 - level``."""
    df = np.asarray(df, dtype=np.float64)
    if methods == 2:
        return np.asarray(special.stdtrit(df, (1 + level) / 2), dtype=np.float64)
    return np.asarray(np.exp(np.interp(1 / df, _INVERSE, _log_critical(level, methods, alone))))


@functools.cache
def _normal_range(methods: int) -> tuple[Floats, Floats]:
    """Ranges of independent standard normal values, and the probability to be below each."""
    z, ranges = 8 * _NODES[:, None], np.linspace(0, 40, 1601)
    density = 8 * _WEIGHTS * np.exp(-(z[:, 0] ** 2) / 2) / np.sqrt(2 * np.pi)
    inside = special.ndtr(z) - special.ndtr(z - ranges)
    return ranges, methods * (density @ inside ** (methods - 1))


@functools.cache
def _log_critical(level: float, methods: int, alone: float) -> Floats:
    """Found by halving, between Student's t and Bonferroni's."""
    df, pairs = 1 / _INVERSE, methods * (methods - 1) / 2
    low, high = (np.log(special.stdtrit(df, 1 - (1 - level) / 2 / count)) for count in (1, pairs))
    for _ in range(30):
        middle = (low + high) / 2
        above = two_sided(np.exp(middle), df, methods, alone) > 1 - level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2)
