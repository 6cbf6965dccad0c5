"""Paired tests between methods: over all languages, and language by language.

`docs/statistics.md` says what each test takes for random and how it did on simulated predictions.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from crosstune.analysis.statistics.bootstrap import DRAWS, Factor, bootstrap_means
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.power import critical, detectable, two_sided
from crosstune.analysis.statistics.variance import Floats, LanguageEffect, Sample, SeedVariation
from crosstune.metrics.statistic import MEAN


@dataclass(frozen=True)
class Difference:
    """How far method a is above method b, as a mean over languages.

    Attributes:
        a: Method.
        b: Method.
        difference: Mean over languages (each with the same weight) of a - b, seeds averaged; in [-1, 1].
        low: Lower end of the interval.
        high: Upper end.
        p: Two-sided, of no difference; below ``1 - level`` exactly when the interval leaves out 0.
        bootstrap_low: Lower end of the percentile interval of the hierarchical bootstrap over languages
            (where they are taken for a sample), seeds and examples: to compare with papers that give it;
            too narrow with few seeds (`crosstune.analysis.statistics.bootstrap`).
        bootstrap_high: Its upper end.
        languages: How many.
        examples: How many, of all languages together.
        seeds_a: Seeds of a.
        seeds_b: Seeds of b.
        effect: Cohen's h, 2 asin(sqrt(A)) - 2 asin(sqrt(B)) of the two mean scores (Cohen 1988: 0.2 is
            small, 0.5 medium, 0.8 large).
        effect_low: h of the interval's lower end, at the mean level of the two scores; likewise
        effect_high: of its upper end.
        detectable: The smallest true difference that this sample shows with 80% power.
        wins: Languages where a is better, by test after Holm (`by_language`).
        ties: Languages where neither is.
        losses: Languages where b is better.
        se: Standard error of the difference.
        df: Its degrees of freedom.
        language_effect: "random" if the interval is for other languages like these, "fixed" if it is for the
            mean over exactly these languages.
        seed_variation: "measured"; "borrowed" where one method has a single seed and is taken to vary as the
            other does; "absent" where neither has several seeds, so that the interval does not cover what
            another seed would have given.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    bootstrap_low: float
    bootstrap_high: float
    languages: int
    examples: int
    seeds_a: int
    seeds_b: int
    effect: float
    effect_low: float
    effect_high: float
    detectable: float
    wins: int
    ties: int
    losses: int
    se: float
    df: float
    language_effect: LanguageEffect
    seed_variation: SeedVariation


def difference(
    paired: PairedPredictions,
    a: str,
    b: str,
    languages: Sequence[str] | None = None,
    *,
    language_effect: LanguageEffect = "random",
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Test whether method a scores above or below method b.

    Args:
        paired: The comparison.
        a: Method.
        b: Method.
        languages: Codes; all targets by default.
        language_effect: "random": would it hold in other languages like these? "fixed": is the mean over
            exactly these languages different? A single language is always "fixed".
        draws: Of the bootstrap.
        seed: Of its draws.
        level: Of the intervals.

    Raises:
        UserError: The comparison lacks a method or a language.
    """
    sample = Sample(paired, languages)
    language_effect = _possible(sample, language_effect)
    means = bootstrap_means(sample, [a, b], _FACTORS[language_effect], draws=draws, seed=seed)
    return _difference(sample, a, b, language_effect, level, means[:, 0] - means[:, 1])


def differences(
    paired: PairedPredictions,
    against: str | None = None,
    languages: Sequence[str] | None = None,
    *,
    language_effect: LanguageEffect = "random",
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> pl.DataFrame:
    """Test every method against one, or all pairs.

    With ``against`` it is ``b`` in every test. All other arguments, and errors, are those of `difference`.

    Returns:
        One row a test: the fields of `Difference`, and p_holm, the p value after Holm over these tests.
    """
    sample = Sample(paired, languages)
    if against is None:
        pairs = list(itertools.combinations(paired.methods, 2))
    else:
        pairs = [(name, paired.known(against)) for name in paired.methods if name != against]
    language_effect = _possible(sample, language_effect)
    means = bootstrap_means(sample, paired.methods, _FACTORS[language_effect], draws=draws, seed=seed)
    drawn = dict(zip(paired.methods, means.T, strict=True))
    rows = [asdict(_difference(sample, a, b, language_effect, level, drawn[a] - drawn[b])) for a, b in pairs]
    table = pl.DataFrame(rows, schema=_SCHEMA)
    return table.with_columns(p_holm=pl.Series(holm(table["p"].to_list()), dtype=pl.Float64))


_TYPES: dict[Any, Any] = {float: pl.Float64, int: pl.Int64}
_SCHEMA = {field.name: _TYPES.get(field.type, pl.String) for field in fields(Difference)}
_FACTORS: dict[LanguageEffect, tuple[Factor, ...]] = {
    "random": ("languages", "seeds", "examples"),
    "fixed": ("seeds", "examples"),
}


def _possible(sample: Sample, language_effect: LanguageEffect) -> LanguageEffect:
    return "fixed" if len(sample.languages) == 1 else language_effect


def _difference(
    sample: Sample, a: str, b: str, language_effect: LanguageEffect, level: float, drawn: Floats
) -> Difference:
    spread = sample.pair(a, b, language_effect)
    low, high = spread.interval(level)
    one, other = sample.method(a), sample.method(b)
    top, bottom = float(one.by_language.mean()), float(other.by_language.mean())
    middle = (top + bottom) / 2
    bottom_draw, top_draw = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    outcomes = _by_language(sample, a, b, level)["outcome"].to_list()
    return Difference(
        a=a,
        b=b,
        difference=spread.difference,
        low=low,
        high=high,
        bootstrap_low=float(bottom_draw),
        bootstrap_high=float(top_draw),
        p=spread.p,
        languages=len(sample.languages),
        examples=len(sample.columns),
        seeds_a=one.seeds,
        seeds_b=other.seeds,
        effect=_cohen_h(top, bottom),
        effect_low=_cohen_h(middle + low / 2, middle - low / 2),
        effect_high=_cohen_h(middle + high / 2, middle - high / 2),
        detectable=spread.detectable(level),
        wins=outcomes.count("win"),
        ties=outcomes.count("tie"),
        losses=outcomes.count("loss"),
        se=spread.se,
        df=spread.df,
        language_effect=language_effect,
        seed_variation=sample.seed_variation(a, b),
    )


def _cohen_h(a: float, b: float) -> float:
    first, second = (2 * np.arcsin(np.sqrt(np.clip(score, 0, 1))) for score in (a, b))
    return float(first - second)


def by_language(
    paired: PairedPredictions,
    a: str,
    b: str,
    languages: Sequence[str] | None = None,
    *,
    level: float = 0.95,
) -> pl.DataFrame:
    """Test method a against method b in each language; arguments and errors as `difference`.

    Right-or-wrong scores of one seed each (or of a method that no seed changes) are tested with McNemar's
    exact test. Graded scores, or several seeds, with a t test on the example-wise differences of the means
    over seeds, whose variance includes that between seeds. Outcomes are at ``1 - level``.

    Returns:
        One row a language: language, difference (a - b), low, high (of this language alone), p, p_holm (Holm
        over the languages), outcome ("win", "tie" or "loss" of a, by p_holm), n (examples), detectable (the
        smallest true difference shown with 80% power in Holm's first and hardest step), test ("mcnemar" or
        "t"). A tie says that no difference was shown, not that there is none. low, high and detectable are
        null for a language with one example.
    """
    return _by_language(Sample(paired, languages), a, b, level)


def _by_language(sample: Sample, a: str, b: str, level: float) -> pl.DataFrame:
    one, other = sample.method(a), sample.method(b)
    n = sample.n
    z = one.mean - other.mean
    means = sample.language_means(z)
    squares = np.add.reduceat((z - sample.spread_out(means)) ** 2, sample.starts)
    variance = squares / (n * np.maximum(n - 1, 1)) + 2 / n**2
    terms = [(variance.copy(), n - 1)]
    for parts, factor in sample.seed_parts(a, b):
        v_seed, v_example_seed = sample.seed_variance_by_language(parts)
        variance += np.maximum(v_seed - v_example_seed, 0) * factor
        terms.append((v_seed * factor, np.full(len(n), parts.seeds - 1)))
    df = np.maximum(variance**2 / np.sum([v**2 / np.maximum(k, 1) for v, k in terms], axis=0), 1.0)
    se = np.sqrt(variance)
    right_or_wrong = sample.paired.statistic == MEAN and bool(((z == 0) | (np.abs(z) == 1)).all())
    binary = right_or_wrong and one.seeds == other.seeds == 1
    up, down = (np.add.reduceat(side.astype(np.int64), sample.starts) for side in (z > 0, z < 0))
    # No test of signs or permutations can go below 2^(1 - k) with k differences, so the t test may not.
    floor = np.exp2(1.0 - (up + down))
    p = mcnemar(up, down) if binary else np.maximum(two_sided(means / se, df), floor)
    p = np.where(n > 1, np.minimum(p, 1.0), 1.0)
    reach = critical(df, level) * se
    adjusted = holm(p.tolist())
    hardest = 1 - (1 - level) / len(n)
    return pl.DataFrame(
        {
            "language": sample.languages,
            "difference": means,
            "low": np.maximum(means - reach, -1),
            "high": np.minimum(means + reach, 1),
            "p": p,
            "p_holm": adjusted,
            "n": n,
            "detectable": detectable(se, df, hardest),
        }
    ).with_columns(
        pl.when(pl.col("n") > 1).then(pl.col(name)).alias(name) for name in ("low", "high", "detectable")
    ).with_columns(
        pl.when(pl.col("p_holm") >= 1 - level).then(pl.lit("tie"))
        .when(pl.col("difference") > 0).then(pl.lit("win"))
        .otherwise(pl.lit("loss")).alias("outcome"),
        pl.lit("mcnemar" if binary else "t").alias("test"),
    )  # fmt: skip


def mcnemar(only_a: NDArray[np.int64], only_b: NDArray[np.int64]) -> Floats:
    """Exact McNemar test (McNemar 1947): two-sided p values from the binomial distribution.

    Counted are the examples that a alone, and that b alone, has right.
    """
    both = only_a + only_b
    tail = special.bdtr(np.minimum(only_a, only_b).astype(np.float64), both, 0.5)
    return np.asarray(np.minimum(2 * tail, 1.0))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction: adjusted p values, in the order given."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]
