"""Paired tests between methods: over all languages, and language by language.

All pairs of the methods of a comparison are one family of tests, adjusted together: a pair has one p
value and one interval, whoever asks for it. `docs/statistics.md` says what each test takes for random and
how it did on simulated predictions.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from crosstune.analysis.statistics.bootstrap import Factor, bootstrap_means
from crosstune.analysis.statistics.estimand import Estimand
from crosstune.analysis.statistics.multiplicity import holm
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.power import detectable_shift
from crosstune.analysis.statistics.spread import Spread
from crosstune.analysis.statistics.studentized import critical, two_sided
from crosstune.analysis.statistics.variance import Floats, LanguageEffect, Sample, SeedVariation
from crosstune.metrics.statistic import MEAN


@dataclass(frozen=True)
class Difference:
    """How far method a is above method b."""

    a: str
    b: str
    # a - b of the estimand, seeds averaged: most often the mean over languages (each with the same weight),
    # in [-1, 1].
    difference: float
    # Lower end of the simultaneous interval: it and those of all other pairs hold together. As p, the other
    # ends and ``detectable`` it is None of a pair that is not tested (``not_enough_data``).
    low: float | None
    high: float | None  # upper end
    # Two-sided, of no difference, adjusted for all pairs of the ``methods`` compared; below ``1 - level``
    # exactly when the interval leaves out 0.
    p: float | None
    p_alone: float | None  # the same if this were the only pair
    low_alone: float | None  # lower end of its interval then
    high_alone: float | None  # upper end
    methods: int  # how many methods make the family of tests
    # Lower end of the percentile interval of the hierarchical bootstrap over languages (where they are taken
    # for a sample), seeds and examples: to compare with papers that give it; too narrow with few seeds
    # (`crosstune.analysis.statistics.bootstrap`). Of means only.
    bootstrap_low: float | None
    bootstrap_high: float | None  # its upper end
    languages: int  # how many
    families: int  # families of these languages
    examples: int  # how many, of all languages together
    units: int  # of these, independent ones of each language: examples, or passages with several questions
    seeds_a: int  # seeds of a
    seeds_b: int  # seeds of b
    # Cohen's h, 2 asin(sqrt(A)) - 2 asin(sqrt(B)) of the two mean scores (Cohen 1988: 0.2 is small, 0.5
    # medium, 0.8 large). Of means only.
    effect: float | None
    effect_low: float | None  # h of the interval's lower end, at the mean level of the two scores
    effect_high: float | None  # h of its upper end
    # The smallest true difference that this sample shows with 80% power among all pairs, an estimate; None
    # where not even 100 points would be shown.
    detectable: float | None
    wins: int  # languages where a is better, by test after Holm (`by_language`)
    ties: int  # languages where neither is
    losses: int  # languages where b is better
    se: float  # standard error of the difference
    df: float  # its degrees of freedom
    # Share of what is not known of that error which this pair has for itself; the rest it has from a variance
    # pooled over methods (`crosstune.analysis.statistics.studentized`).
    alone: float
    # "random" if the interval is for other languages like these, "fixed" if it is for the mean over exactly
    # these languages.
    language_effect: LanguageEffect
    # "measured"; "borrowed" where a method has a single seed and is taken to vary as the others do; "absent"
    # where none has several seeds: then the test is about these trained models alone, not about what another
    # seed would have given.
    seed_variation: SeedVariation
    # Why the pair is not tested: too few right or wrong answers, or independent examples; "" where it is.
    not_enough_data: str

    def p_at(self, value: float, *, alone: bool = False) -> float:
        """Two-sided p value of this true difference, adjusted for all pairs unless ``alone``."""
        return self.spread.p_at(value, 2 if alone else self.methods)

    def p_equivalent(self, margin: float, *, alone: bool = False) -> float:
        """P value of a true difference of at least ``margin`` in size: small where the two are equivalent.

        Two one-sided tests (TOST, Schuirmann 1987). State the margin before looking at the results.
        """
        return self.spread.p_equivalent(margin, 2 if alone else self.methods)

    @property
    def spread(self) -> Spread:
        """The estimate by itself, which `crosstune.analysis.statistics.spread.combined` takes."""
        return Spread(self.difference, self.se, self.df, alone=self.alone)


class AllPairs:
    """The family of tests: all pairs of a comparison's methods by one estimand. Each pair is tested once.

    Args:
        paired: The comparison.
        of: What is estimated of each method: the mean over all targets for None, over some languages for
            their codes, or another `Estimand`.
        language_effect: "random": would it hold in other languages like these? "fixed": does it for exactly
            these languages? Languages of fewer than six families are always "fixed".
        draws: Of the bootstrap; none for 0.
        seed: Of its draws.
        level: Of the intervals.
        small: Test with few right or wrong answers, too, as single languages are: such tests find less.

    Raises:
        UserError: The comparison lacks a language.
    """

    def __init__(
        self,
        paired: PairedPredictions,
        of: Estimand | Sequence[str] | None = None,
        *,
        language_effect: LanguageEffect = "random",
        draws: int = 0,
        seed: int = 0,
        level: float = 0.95,
        small: bool = False,
    ) -> None:
        self.paired = paired
        self.sample = Sample(paired, of)
        self.language_effect = self.sample.possible(language_effect)
        self.level, self.small = level, small
        self._draws, self._seed = draws if self.sample.of.quantity == "mean" else 0, seed
        self._pairs: dict[tuple[str, str], Difference] = {}

    def pair(self, a: str, b: str) -> Difference:
        """One pair.

        Raises:
            UserError: The comparison lacks a method.
        """
        if (a, b) not in self._pairs:
            self._pairs[a, b] = self._tested(self.paired.known(a), self.paired.known(b))
        return self._pairs[a, b]

    def table(self, against: str | None = None) -> pl.DataFrame:
        """All pairs, or those with one method as ``b``: the fields of `Difference`, one row a pair."""
        if against is None:
            pairs = list(itertools.combinations(self.paired.methods, 2))
        else:
            pairs = [(name, self.paired.known(against)) for name in self.paired.methods if name != against]
        return pl.DataFrame([asdict(self.pair(a, b)) for a, b in pairs], schema=_SCHEMA)

    def values(self) -> pl.DataFrame:
        """Each method's own estimate: its mean, gap or relative transfer.

        Returns:
            One row a method: method, value, low, high (its own interval), p (of 0; all three null of too few
            independent examples), seeds, se, df, language_effect and seed_variation.
        """
        rows: list[dict[str, Any]] = []
        few = self.sample.few_units()
        for name in self.paired.methods:
            spread = self.sample.pair(name, None, self.language_effect)
            low, high = spread.interval(self.level)
            if self.sample.of.quantity == "mean":
                low, high = spread.interval_of_score(int(self.sample.units.sum()), self.level)
            row = {"method": name, "value": spread.difference, "low": low, "high": high, "p": spread.p}
            row |= dict.fromkeys(("low", "high", "p")) if few else {}
            row |= {"seeds": self.sample.method(name).seeds, "se": spread.se, "df": spread.df}
            row |= {"language_effect": self.language_effect}
            rows.append(row | {"seed_variation": self.sample.seed_variation(name, name)})
        return pl.DataFrame(rows)

    @cached_property
    def _drawn(self) -> dict[str, Floats]:
        methods = self.paired.methods
        means = bootstrap_means(
            self.sample, methods, _FACTORS[self.language_effect], draws=self._draws, seed=self._seed
        )
        return dict(zip(methods, means.T, strict=True))

    def _tested(self, a: str, b: str) -> Difference:
        sample, level, methods = self.sample, self.level, len(self.paired.methods)
        spread = sample.pair(a, b, self.language_effect)
        low, high = spread.interval(level, methods)
        alone = spread.interval(level)
        effects: tuple[float | None, ...] = (None, None, None)
        outcomes: list[str] = []
        if sample.of.quantity == "mean":
            top, bottom = sample.estimate(a), sample.estimate(b)
            middle = (top + bottom) / 2
            ends = ((top, bottom), *((middle + end / 2, middle - end / 2) for end in (low, high)))
            effects = tuple(_cohen_h(*scores) for scores in ends)
            outcomes = _by_language(sample, a, b, level)["outcome"].to_list()
        percentiles: tuple[float | None, ...] = (None, None)
        if self._draws:
            drawn = self._drawn[a] - self._drawn[b]
            percentiles = tuple(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]).tolist())
        tested = Difference(
            a=a,
            b=b,
            difference=spread.difference,
            low=low,
            high=high,
            p=spread.p_at(0.0, methods),
            p_alone=spread.p,
            low_alone=alone[0],
            high_alone=alone[1],
            methods=methods,
            bootstrap_low=percentiles[0],
            bootstrap_high=percentiles[1],
            languages=len(sample.languages),
            families=sample.families,
            examples=len(sample.columns),
            units=int(sample.units.sum()),
            seeds_a=sample.method(a).seeds,
            seeds_b=sample.method(b).seeds,
            effect=effects[0],
            effect_low=effects[1],
            effect_high=effects[2],
            detectable=sample.detectable(spread, a, b, level, methods),
            wins=outcomes.count("win"),
            ties=outcomes.count("tie"),
            losses=outcomes.count("loss"),
            se=spread.se,
            df=spread.df,
            alone=spread.alone,
            language_effect=self.language_effect,
            seed_variation=sample.seed_variation(a, b),
            not_enough_data=sample.few_units() if self.small else sample.not_enough_data(a, b),
        )
        return replace(tested, **_NOT_TESTED) if tested.not_enough_data else tested


_NOT_TESTED: dict[str, Any] = dict.fromkeys(
    (
        *("low", "high", "p", "p_alone", "low_alone", "high_alone", "bootstrap_low", "bootstrap_high"),
        *("effect_low", "effect_high", "detectable"),
    )
)
_TYPES: dict[Any, Any] = {float: pl.Float64, float | None: pl.Float64, int: pl.Int64}
_SCHEMA = {field.name: _TYPES.get(field.type, pl.String) for field in fields(Difference)}
_FACTORS: dict[LanguageEffect, tuple[Factor, ...]] = {
    "random": ("languages", "seeds", "examples"),
    "fixed": ("seeds", "examples"),
}


def _cohen_h(a: float, b: float) -> float:
    first, second = (2 * np.arcsin(np.sqrt(np.clip(score, 0, 1))) for score in (a, b))
    return float(first - second)


def by_language(
    paired: PairedPredictions, a: str, b: str, languages: Sequence[str] | None = None, *, level: float = 0.95
) -> pl.DataFrame:
    """Test method a against method b in each language.

    Right-or-wrong scores of one seed each (or of a method that no seed changes), of independent examples, are
    tested with McNemar's exact test. Graded scores, several seeds or several questions on one passage with a
    t test on the differences of the means over seeds, whose variance includes that between seeds: what all
    languages share of it, and what each has for itself, pooled over the languages. Outcomes are at
    ``1 - level``.

    Returns:
        One row a language: language, difference (a - b), low, high (of this language alone), se, df, p,
        p_holm (Holm over the languages), outcome ("win", "tie" or "loss" of a, by p_holm), n (examples),
        detectable (the smallest true difference shown with 80% power in Holm's first and hardest step, an
        estimate; null where none would be), test ("mcnemar" or "t"). A tie says that no difference was shown,
        not that there is none. low, high and detectable are null for a language with one example.

    Raises:
        UserError: The comparison lacks a method or a language.
    """
    return _by_language(Sample(paired, languages), a, b, level)


def _by_language(sample: Sample, a: str, b: str, level: float) -> pl.DataFrame:
    one, other = sample.method(a), sample.method(b)
    n, units = sample.n, sample.units
    z = one.mean - other.mean
    means = sample.language_means(z)
    apart = np.add.reduceat((z != 0).astype(np.int64), sample.starts)
    # One won and one lost example more, of the usual size: 1 for right or wrong of one seed each.
    usual = np.where(apart > 0, np.add.reduceat(z**2, sample.starts) / np.maximum(apart, 1), 1.0)
    v_examples = sample.unit_squares(z - sample.spread_out(means)) + 2 * usual / n**2
    variance, squares = v_examples, v_examples**2 / np.maximum(units - 1, 1)
    drawn = {name: sample.method(name).seeds for name in (a, b) if not sample.method(name).seedless}
    for pool in (sample.seed_variance_by_language() or ()) if drawn else ():
        added, square, seeds_df = pool.of(drawn)
        variance, squares = variance + max(added, 0.0), squares + square**2 / seeds_df
    df = np.maximum(variance**2 / squares, 1.0)
    se = np.sqrt(variance)
    right_or_wrong = sample.paired.statistic == MEAN and bool(((z == 0) | (np.abs(z) == 1)).all())
    independent = sample.paired.clusters is None or bool((units == n).all())
    exact = right_or_wrong and independent and one.seeds == other.seeds == 1
    up, down = (np.add.reduceat(side.astype(np.int64), sample.starts) for side in (z > 0, z < 0))
    # No test of signs or permutations can go below 2^(1 - k) with k differences, so the t test may not.
    floor = np.exp2(1.0 - apart)
    p = mcnemar(up, down) if exact else np.maximum(two_sided(means / se, df), floor)
    p = np.where(units > 1, np.minimum(p, 1.0), 1.0)
    reach = critical(df, level) * se
    adjusted = holm(p.tolist())
    hardest = 1 - (1 - level) / len(n)
    first, second = (parts.by_language.mean(axis=0)[:, None] for parts in (one, other))
    shown = detectable_shift(first, second, v_examples, variance - v_examples, df, hardest)
    return pl.DataFrame(
        {
            "language": sample.languages,
            "difference": means,
            "low": np.maximum(means - reach, -1),
            "high": np.minimum(means + reach, 1),
            "se": se,
            "df": df,
            "p": p,
            "p_holm": adjusted,
            "n": n,
            "detectable": pl.Series(shown, dtype=pl.Float64).fill_nan(None),
        }
    ).with_columns(
        pl.when(pl.Series(units > 1)).then(pl.col(name)).alias(name) for name in ("low", "high", "detectable")
    ).with_columns(
        pl.when(pl.col("p_holm") >= 1 - level).then(pl.lit("tie"))
        .when(pl.col("difference") > 0).then(pl.lit("win"))
        .otherwise(pl.lit("loss")).alias("outcome"),
        pl.lit("mcnemar" if exact else "t").alias("test"),
    )  # fmt: skip


def mcnemar(only_a: NDArray[np.int64], only_b: NDArray[np.int64]) -> Floats:
    """Exact McNemar test (McNemar 1947): two-sided p values from the binomial distribution.

    Counted are the examples that a alone, and that b alone, has right.
    """
    both = only_a + only_b
    tail = special.bdtr(np.minimum(only_a, only_b).astype(np.float64), both, 0.5)
    return np.asarray(np.minimum(2 * tail, 1.0))
