"""The variance of a mean difference, by what varies: examples, seeds and languages.

A mean over languages, seeds and examples varies because each of them is a sample. Its variance is estimated
from the mean squares of this crossed design (languages x seeds x examples, an example being crossed with the
languages that share its id and nested in its language where none does), as in an analysis of variance with
random effects (Searle, Casella and McCulloch 1992). It is what a hierarchical bootstrap has for a variance
after infinitely many draws (Owen 2007, "The pigeonhole bootstrap", arXiv 0712.1111), without what that counts
twice or thrice and with n - 1 for n, which is all the difference with three seeds. The degrees of freedom are
Satterthwaite's (1946).

Notation: V_f is the variance of the mean that resampling the factor f alone gives; V_fg that of their
interaction. V_f holds every component that f takes part in, so the variance is put together by inclusion and
exclusion, each part not below nought.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.power import critical, detectable, two_sided

LanguageEffect = Literal["random", "fixed"]
"""How languages enter the model: a random sample of languages, or exactly those measured."""
SeedVariation = Literal["measured", "borrowed", "absent"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """A mean difference, its standard error and the degrees of freedom of that."""

    difference: float
    se: float
    df: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of Student's t, inside [-1, 1]."""
        reach = float(critical(self.df, level)) * self.se
        return max(self.difference - reach, -1.0), min(self.difference + reach, 1.0)

    @property
    def p(self) -> float:
        """Two-sided, of no difference."""
        return float(two_sided(self.difference / self.se, self.df))

    def detectable(self, level: float = 0.95) -> float:
        """The smallest true difference found with 80% power."""
        return float(detectable(self.se, self.df, level))


@dataclass(frozen=True, eq=False)
class MethodParts:
    """What one method adds: [columns] means over seeds, [seeds, languages] means, and its seeds' variance."""

    mean: Floats
    by_language: Floats
    seeds: int
    seedless: bool
    v_seed: float
    v_language_seed: float
    v_example_seed: float
    v_all: float
    example_seed_by_language: Floats


class Sample:
    """The examples of some languages of a comparison (by default all targets), each with the same weight."""

    def __init__(self, paired: PairedPredictions, languages: Sequence[str] | None = None) -> None:
        self.paired = paired
        places = paired.places(languages)
        self.languages = [paired.languages[i] for i in places]
        ranges = [np.arange(paired.offsets[i], paired.offsets[i + 1]) for i in places]
        self.columns = np.concatenate(ranges)
        self.n = np.array([len(columns) for columns in ranges])
        self.starts = np.concatenate([[0], np.cumsum(self.n)[:-1]])
        codes = np.unique(paired.example_codes[self.columns], return_inverse=True)[1]
        self._codes = codes
        self._sizes = np.bincount(codes).astype(np.float64)
        # Residuals times this add up to the mean; n / (n - 1) makes their squares unbiased.
        weight = np.sqrt(self.n / np.maximum(self.n - 1, 1)) / (len(places) * self.n)
        self._weight = np.repeat(weight, self.n)
        self._parts: dict[str, MethodParts] = {}

    def language_means(self, values: Floats) -> Floats:
        """Means over the columns of each language; the last axis of ``values`` is columns."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=-1) / self.n)

    def spread_out(self, means: Floats) -> Floats:
        """[..., languages] to [..., columns]."""
        return np.repeat(means, self.n, axis=-1)

    def linked(self) -> list[tuple[int, list[tuple[int, NDArray[np.int64]]]]]:
        """Languages in sets that share example ids: one set for a parallel task, one each where none does.

        Returns:
            For each set, how many ids it has, and of each of its languages the index and [columns], the
            numbers of its ids in the set.
        """
        codes_of = [self._codes[start : start + n] for start, n in zip(self.starts, self.n, strict=True)]
        language = np.repeat(np.arange(len(self.n)), self.n)
        table = coo_array((np.ones(len(language)), (language, self._codes)))
        _, groups = connected_components(table @ table.T, directed=False)
        sets = []
        for group in range(groups.max() + 1):
            members = np.flatnonzero(groups == group)
            ids = np.unique(np.concatenate([codes_of[i] for i in members]))
            sets.append((len(ids), [(int(i), np.searchsorted(ids, codes_of[i])) for i in members]))
        return sets

    def method(self, name: str) -> MethodParts:
        """A method's share, computed once."""
        if name not in self._parts:
            self._parts[name] = self._method(name)
        return self._parts[name]

    def _method(self, name: str) -> MethodParts:
        values = self.paired.scores[self.paired.known(name)][:, self.columns].astype(np.float64)
        seeds, languages = len(values), len(self.n)
        mean = values.mean(axis=0)
        by_language = self.language_means(values)
        seedless = name in self.paired.seedless
        if seeds == 1:
            return MethodParts(mean, by_language, 1, seedless, 0.0, 0.0, 0.0, 0.0, np.zeros(languages))
        pairs = seeds * (seeds - 1)
        of_seed = by_language.mean(axis=1)
        v_seed = float(of_seed.var(ddof=1)) / seeds
        rest = by_language - by_language.mean(axis=0) - (of_seed - of_seed.mean())[:, None]
        correction = languages / max(languages - 1, 1)
        v_language_seed = float((rest**2).sum()) / (languages**2 * pairs) * correction
        moved = by_language - by_language.mean(axis=0)
        residuals = values - mean - self.spread_out(moved)
        parts = [self._examples(of_seed) for of_seed in residuals]
        v_example_seed, v_all = (sum(squares) / pairs for squares in zip(*parts, strict=True))
        squares = np.add.reduceat((residuals**2).sum(axis=0), self.starts)
        return MethodParts(
            mean, by_language, seeds, seedless, v_seed, v_language_seed, v_example_seed, v_all,
            squares / (pairs * self.n * np.maximum(self.n - 1, 1)),
        )  # fmt: skip

    def _examples(self, residuals: Floats) -> tuple[float, float]:
        """Sums of squares of residuals (centred in each language): of whole examples, and of their languages.

        The second is of what is left of an example in each language when its mean over languages is taken
        away; all of it for an example that only one language has.
        """
        weighted = residuals * self._weight
        totals = np.bincount(self._codes, weights=weighted)
        squares = np.bincount(self._codes, weights=weighted**2)
        shared = self._sizes > 1
        left = (squares - totals**2 / self._sizes) * self._sizes / np.maximum(self._sizes - 1, 1)
        return float((totals**2).sum()), float(np.where(shared, left, squares).sum())

    def pair(self, a: str, b: str, language_effect: LanguageEffect) -> Spread:
        """Mean over languages of a - b, with its standard error.

        Args:
            a: Method.
            b: Method.
            language_effect: "random" takes the languages for a sample, "fixed" for all there are.
        """
        one, other = self.method(a), self.method(b)
        languages = len(self.n)
        by_language = one.by_language.mean(axis=0) - other.by_language.mean(axis=0)
        v_example, v_language_example = self._examples(one.mean - other.mean - self.spread_out(by_language))
        # Two pseudo-examples, one won and one lost (Bonett and Price 2012): where all examples agree, the
        # sample still does not show that there is no difference.
        v_example += 2 / len(self.columns) ** 2
        terms = [(v_example, len(self._sizes) - 1)]
        variance = v_example
        random = language_effect == "random"
        if random:
            v_language = float(by_language.var(ddof=1)) / languages
            variance = v_language + max(v_example - v_language_example, 0.0)
            terms = [(v_language, languages - 1), (max(v_example - v_language_example, 0.0), terms[0][1])]
        for parts, factor in self.seed_parts(a, b):
            extra = parts.v_seed - parts.v_example_seed
            if random:
                extra += parts.v_all - parts.v_language_seed
            variance += max(extra, 0.0) * factor
            terms.append((parts.v_seed * factor, parts.seeds - 1))
        df = variance**2 / sum(v**2 / max(k, 1) for v, k in terms)
        return Spread(float(by_language.mean()), float(np.sqrt(variance)), max(float(df), 1.0))

    def seed_parts(self, a: str, b: str) -> list[tuple[MethodParts, float]]:
        """The methods whose seeds add variance, each with a factor.

        A method with a single seed is taken to vary as the other does, if that has several.
        """
        one, other = self.method(a), self.method(b)
        several = [parts for parts in (one, other) if parts.seeds > 1]
        if len(several) == 1:
            single = other if several[0] is one else one
            return [(several[0], 1.0 if single.seedless else 1.0 + several[0].seeds)]
        return [(parts, 1.0) for parts in several]

    def seed_variance_by_language(self, parts: MethodParts) -> tuple[Floats, Floats]:
        """[languages]; variance of each language's mean over seeds, and the examples' share in it."""
        v_seed = parts.by_language.var(axis=0, ddof=1) / parts.seeds
        return v_seed, parts.example_seed_by_language

    def seed_variation(self, a: str, b: str) -> SeedVariation:
        """Whether the variance between seeds is in the standard error; see `Sample.pair`."""
        both = [self.method(name) for name in (a, b)]
        if all(parts.seeds > 1 or parts.seedless for parts in both):
            return "measured"
        return "borrowed" if any(parts.seeds > 1 for parts in both) else "absent"
