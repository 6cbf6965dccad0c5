"""The smallest true difference that a sample would have shown: what "no difference" may rest on."""

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from crosstune.analysis.statistics.studentized import critical

POWER = 0.8
_SHIFTS = np.linspace(0, 16, 321)

Floats = NDArray[np.float64]


def detectable(
    se: ArrayLike,
    df: ArrayLike,
    level: float = 0.95,
    methods: int = 2,
    power: float = POWER,
    alone: float = 0.0,
) -> Floats:
    """Minimum detectable difference of a two-sided t test, its standard error taken to stay as it is.

    Args:
        se: Standard error of the difference.
        df: Its degrees of freedom.
        level: Of the interval; the test is at ``1 - level``.
        methods: All pairs of how many are tested together.
        power: Probability with which the difference is to be found.
        alone: As `crosstune.analysis.statistics.studentized.two_sided`.

    Returns:
        The true difference that the test finds with this power, from the noncentral t distribution; the far
        tail, where the test is significant in the wrong direction, is left out. A standard error of few
        degrees of freedom is too small on average (its square is not): it is divided by c4, which mends that.
    """
    inverse, ratio = _ratios(level, methods, power, alone if methods > 2 else 0.0)
    df = np.maximum(np.asarray(df, dtype=np.float64), 1.0)
    cut = critical(df, level, methods, alone) + special.ndtri(power)
    c4 = np.sqrt(2 / df) * np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2))
    return np.asarray(np.asarray(se) / c4 * cut * np.interp(1 / df, inverse, ratio), dtype=np.float64)


def detectable_shift(
    a: Floats,
    b: Floats,
    v_examples: ArrayLike,
    v_rest: ArrayLike,
    df: ArrayLike,
    level: float = 0.95,
    methods: int = 2,
    alone: float = 0.0,
) -> Floats:
    """Minimum detectable difference where the variance moves with the means.

    Scores near 0 or 1 vary less than those in the middle: a difference moves the means apart (here by the
    same step on the logit scale in every language), and the variance with them: that between examples in
    proportion to p(1 - p), as of right-or-wrong answers, that between seeds and languages to its square.

    Args:
        a: Observed scores ``[..., languages]`` of one method.
        b: Of the other.
        v_examples: ``[...]``, variance of the difference of means by examples.
        v_rest: By seeds and languages.
        df: Degrees of freedom of both together.
        level: As `detectable`.
        methods: As `detectable`.
        alone: As `detectable`.

    Returns:
        ``[...]``; NaN where even a difference of 100 points would not be found.
    """
    low, high = np.clip(a, 0.005, 0.995), np.clip(b, 0.005, 0.995)
    middle = special.logit((low + high) / 2)[..., None]
    up, down = special.expit(middle + _SHIFTS / 2), special.expit(middle - _SHIFTS / 2)
    differences = (up - down).mean(axis=-2)
    scale = (up * (1 - up) + down * (1 - down)).mean(axis=-2)
    scale = scale / (low * (1 - low) + high * (1 - high)).mean(axis=-1)[..., None]
    v_examples, v_rest, df = (np.asarray(value)[..., None] for value in (v_examples, v_rest, df))
    needed = detectable(np.sqrt(v_examples * scale + v_rest * scale**2), df, level, methods, alone=alone)
    # Means at the very ends do not vary at all: that is no evidence.
    reached = (differences >= needed) & (differences < 0.98)
    first = np.argmax(reached, axis=-1)[..., None]
    pick = functools.partial(np.take_along_axis, axis=-1)
    (x0, y0), (x1, y1) = (
        (pick(differences, place), pick(differences - needed, place))
        for place in (np.maximum(first - 1, 0), first)
    )
    crossing = x1 - (x1 - x0) * y1 / np.where(y1 > y0, y1 - y0, 1.0)
    return np.asarray(np.where(reached.any(axis=-1), crossing[..., 0], np.nan))


@functools.cache
def _ratios(level: float, methods: int, power: float, alone: float) -> tuple[Floats, Floats]:
    """What the sum of the two quantiles is short of, by 1 / df: from 1 for many to 1.2 for one.

    Found by halving: scipy's own inverse does not come back for some fractions of degrees of freedom.
    """
    inverse = np.linspace(1e-3, 1, 400)
    cut = critical(1 / inverse, level, methods, alone)
    sums = cut + special.ndtri(power)
    low, high = np.full_like(cut, 0.9), np.full_like(cut, 1.6)
    for _ in range(40):
        middle = (low + high) / 2
        enough = special.nctdtr(1 / inverse, middle * sums, cut) < 1 - power
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.concatenate([[0], inverse]), np.concatenate([[1], (low + high) / 2])
