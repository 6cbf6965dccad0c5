"""What scores vary by, as standard deviations: measured in a comparison, for planning another study."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import sqrt

import numpy as np

from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.variance import Sample


@dataclass(frozen=True)
class Spreads:
    """Standard deviations, in scores from 0 to 1; the defaults are close to those of docs/statistics.md."""

    seed: float = 0.026  # of a method's mean over languages, between training seeds
    seed_language: float = 0.02  # of one language beside that, between training seeds
    method_language: float = 0.04  # of the difference of two methods, between languages
    # Of the difference of two methods, between examples of a language, beside ``shared``.
    example: float = 0.45
    shared: float = 0.15  # of what the translations of an example share of that


def measured(comparisons: Sequence[PairedPredictions]) -> tuple[Spreads, list[str]]:
    """Spreads over several comparisons, and the names of those that nothing was found for.

    Nothing is said of seeds where no method has several, and of languages where there are fewer than two.
    """
    squares: dict[str, list[float]] = {field.name: [] for field in fields(Spreads)}
    for paired in comparisons:
        sample = Sample(paired)
        seeds = sample.seed_variance_by_language()
        if seeds is not None:
            for key, pool in zip(("seed", "seed_language"), seeds, strict=True):
                total = sum(pool.df.values())
                squares[key].append(max(sum(pool.added[m] * df for m, df in pool.df.items()) / total, 0.0))
        for a, b in itertools.combinations(paired.methods, 2):
            for key, value in _of_pair(sample, a, b).items():
                squares[key].append(value)
    result = asdict(Spreads())
    for key, values in squares.items():
        if values:
            result[key] = sqrt(max(float(np.mean(values)), 0.0))
    return Spreads(**result), [key for key, values in squares.items() if not values]


def _of_pair(sample: Sample, a: str, b: str) -> dict[str, float]:
    """Squares of the spreads that a difference of two methods has, seeds averaged."""
    one, other = sample.method(a), sample.method(b)
    z = one.mean - other.mean
    means = sample.language_means(z)
    rest = z - sample.spread_out(means)
    of_language = sample.unit_squares(rest)
    languages, n = len(sample.n), float(sample.n.mean())
    if languages < 2:
        return {"example": float(of_language.mean()) * n, "shared": 0.0}
    whole = sample.example_variance(rest)
    apart = max(float(of_language.mean()) - whole, 0.0) * languages / (languages - 1)
    seeds = sample.seed_variance_by_language()
    drawn = {name: sample.method(name).seeds for name in (a, b) if not sample.method(name).seedless}
    by_seed = 0.0 if seeds is None or not drawn else seeds[1].of(drawn)[0]
    return {
        "method_language": float(means.var(ddof=1)) - apart - by_seed,
        "example": apart * n,
        "shared": (whole - apart / languages) * n,
    }
