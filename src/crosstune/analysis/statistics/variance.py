"""The variance of a mean difference, by what varies: examples, seeds and languages.

A mean over languages, seeds and examples varies because each of them is a sample. Its variance is estimated
from the mean squares of this crossed design (languages x seeds x examples, an example being crossed with the
languages that share its id and nested in its language where none does), as in an analysis of variance with
random effects (Searle, Casella and McCulloch 1992). It is what a hierarchical bootstrap has for a variance
after infinitely many draws (Owen 2007, "The pigeonhole bootstrap", arXiv 0712.1111), without what that counts
twice or thrice and with n - 1 for n, which is all the difference with three seeds. The degrees of freedom are
Satterthwaite's (1946).

Examples of one passage are one unit: their residuals are summed. Languages of one family are one unit where
the languages are a sample: the variance is Bell and McCaffrey's (2002) bias-reduced one for clusters, with
their degrees of freedom; with every language in a family of its own it is the plain one.

Two or three seeds say little about a method's variance between seeds. A third of it is therefore the method's
own, the rest the mean over all methods (`OWN`): unbiased where methods vary alike, and with two methods of
equally many seeds exactly their own two variances. The degrees of freedom are those of the mean squares that
the variance is made of, not of what is left when the noise of examples is taken from them, and are corrected
for few seeds or languages (`crosstune.analysis.statistics.welch`).

Notation: V_f is the variance of the mean that resampling the factor f alone gives; V_fg that of their
interaction. V_f holds every component that f takes part in, so the variance is put together by inclusion and
exclusion.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from crosstune.analysis.statistics.estimand import Estimand
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.power import detectable, detectable_shift
from crosstune.analysis.statistics.spread import Spread
from crosstune.analysis.statistics.welch import SeedVariance, corrected
from crosstune.errors import UserError

LanguageEffect = Literal["random", "fixed"]
"""How languages enter the model: a random sample of languages, or exactly those measured."""
SeedVariation = Literal["measured", "borrowed", "absent"]

FEWEST_FAMILIES = 6
"""Fewer families of languages say too little about how much others vary (Gelman and Hill 2007): the effect of
languages is then fixed."""

Floats = NDArray[np.float64]


class MethodParts(NamedTuple):
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
    """The examples of some languages of a comparison, for one estimand.

    Args:
        paired: The comparison.
        of: What is estimated of each method; codes of languages stand for the mean over them, None for the
            mean over all targets.
    """

    def __init__(self, paired: PairedPredictions, of: Estimand | Sequence[str] | None = None) -> None:
        self.paired = paired
        self.of = of if isinstance(of, Estimand) else Estimand("mean", of)
        parts = self.of.parts(paired)
        self.languages = [code for part in parts for code in part.languages]
        self.weights = np.concatenate(
            [np.full(len(part.languages), part.sign / len(part.languages)) for part in parts]
        )
        self._part = np.repeat(np.arange(len(parts)), [len(part.languages) for part in parts])
        self._sampled = [self._part == i for i, part in enumerate(parts) if part.sampled]
        ranges = [
            np.arange(paired.offsets[i], paired.offsets[i + 1])
            for i in (paired.languages.index(code) for code in self.languages)
        ]
        self.columns = np.concatenate(ranges)
        self.n = np.array([len(columns) for columns in ranges])
        self.starts = np.concatenate([[0], np.cumsum(self.n)[:-1]])
        self._codes = np.unique(paired.unit_codes[self.columns], return_inverse=True)[1]
        language = self.spread_out(np.arange(len(self.n)))
        # A cell is what an independent unit has in one language: one example, or those of one passage.
        cells, self._cell = np.unique(self._codes * len(self.n) + language, return_inverse=True)
        self._unit, cell_language = np.divmod(cells, len(self.n))
        self.units = np.bincount(cell_language)
        # Residuals times this add up to the estimate; u / (u - 1) makes their squares unbiased.
        weight = self.weights / self.n * np.sqrt(self.units / np.maximum(self.units - 1, 1))
        self._weight = self.spread_out(weight)
        self._cell_sampled = np.logical_or.reduce(self._sampled)[cell_language]
        group = (self._unit * len(parts) + self._part[cell_language])[self._cell_sampled]
        self._group = np.unique(group, return_inverse=True)[1]
        self._sizes = np.bincount(self._group).astype(np.float64)
        self._cell_language = cell_language
        names = [paired.families.get(code, f"family of {code} alone") for code in self.languages]
        self._family = np.unique(names, return_inverse=True)[1]
        self._parts: dict[str, MethodParts] = {}
        self._pools: dict[LanguageEffect, SeedVariance | None] = {}

    def language_means(self, values: Floats) -> Floats:
        """Means over the columns of each language; the last axis of ``values`` is columns."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=-1) / self.n)

    def spread_out(self, means: NDArray[np.generic]) -> Floats:
        """[..., languages] to [..., columns]."""
        return np.repeat(means, self.n, axis=-1)

    def possible(self, language_effect: LanguageEffect) -> LanguageEffect:
        """What can be said: of languages of too few families no more than "fixed"."""
        enough = all(len(np.unique(self._family[part])) >= FEWEST_FAMILIES for part in self._sampled)
        return language_effect if enough else "fixed"

    @property
    def families(self) -> int:
        """Of the languages that may be a sample."""
        return len(np.unique(self._family[np.logical_or.reduce(self._sampled)]))

    def not_enough_data(self, *methods: str) -> str:
        """`PairedPredictions.not_enough_data` in the languages that methods are compared over."""
        return self.paired.not_enough_data(methods, self._compared_over)

    def few_units(self) -> str:
        """`PairedPredictions.few_units` of these."""
        return self.paired.few_units(self._compared_over)

    @property
    def _compared_over(self) -> list[str] | None:
        return None if self.of.languages is None else [*self.of.languages, *self.of.versus]

    def linked(self) -> list[tuple[int, list[tuple[int, NDArray[np.int64]]]]]:
        """Languages in sets that share units: one set for a parallel task, one each where none does.

        Returns:
            For each set, how many units it has, and of each of its languages the index and [columns], the
            numbers of their units in the set.
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
        if self.of.quantity == "relative":
            if why := near_chance(self.paired, [name], self.of.chance):
                raise UserError(f"relative transfer: {why}")
            values *= self.spread_out(self._slopes(self.language_means(values).mean(axis=0)))
        seeds, languages = len(values), len(self.n)
        mean = values.mean(axis=0)
        by_language = self.language_means(values)
        seedless = name in self.paired.seedless
        if seeds == 1:
            return MethodParts(mean, by_language, 1, seedless, 0.0, 0.0, 0.0, 0.0, np.zeros(languages))
        pairs = seeds * (seeds - 1)
        v_seed = float((by_language @ self.weights).var(ddof=1)) / seeds
        moved = by_language - by_language.mean(axis=0)
        v_language_seed = 0.0
        for part in self._sampled:
            rest = moved[:, part]
            rest = (rest - rest.mean(axis=1, keepdims=True)) * self.weights[part]
            v_language_seed += float((rest**2).sum()) / pairs * rest.shape[1] / max(rest.shape[1] - 1, 1)
        residuals = values - mean - self.spread_out(moved)
        sums = [self._examples(of_seed) for of_seed in residuals]
        v_example_seed, v_all = (sum(squares) / pairs for squares in zip(*sums, strict=True))
        squares = sum(self.unit_squares(of_seed) for of_seed in residuals)
        return MethodParts(
            mean, by_language, seeds, seedless, v_seed, v_language_seed, v_example_seed, v_all,
            np.asarray(squares / pairs),
        )  # fmt: skip

    def _slopes(self, means: Floats) -> Floats:
        """Derivatives of relative transfer by the source score and by the mean over targets."""
        source, target = means[0] - self.of.chance, means[1:].mean() - self.of.chance
        return np.asarray(np.where(self._part == 0, -target / source**2, 1 / source))

    def estimate(self, name: str) -> float:
        """A method's own value."""
        if self.of.quantity != "relative":
            return float(self.method(name).by_language.mean(axis=0) @ self.weights)
        values = self.paired.scores[self.paired.known(name)][:, self.columns].astype(np.float64)
        means = self.language_means(values.mean(axis=0)) - self.of.chance
        return float(means[1:].mean() / means[0])

    def unit_squares(self, residuals: Floats) -> Floats:
        """[languages]; the variance of each language's mean by its units, from residuals centred in each."""
        cells = np.bincount(self._cell, weights=residuals)
        squares = np.bincount(self._cell_language, weights=cells**2)
        return np.asarray(squares / self.n**2 * self.units / np.maximum(self.units - 1, 1))

    def example_variance(self, residuals: Floats) -> float:
        """Variance of the mean over languages by its units, from residuals centred in each language."""
        return self._examples(residuals)[0]

    def _examples(self, residuals: Floats) -> tuple[float, float]:
        """Sums of squares of residuals (centred in each language): of whole units, and of their languages.

        The second is of what is left of a unit in each sampled language when its mean over them is taken
        away; all of it for a unit that only one language has.
        """
        cells = np.bincount(self._cell, weights=residuals * self._weight)
        whole = float((np.bincount(self._unit, weights=cells) ** 2).sum())
        sampled = cells[self._cell_sampled]
        totals = np.bincount(self._group, weights=sampled, minlength=len(self._sizes))
        squares = np.bincount(self._group, weights=sampled**2, minlength=len(self._sizes))
        left = (squares - totals**2 / self._sizes) * self._sizes / np.maximum(self._sizes - 1, 1)
        return whole, float(np.where(self._sizes > 1, left, squares).sum())

    def _language_variance(self, by_language: Floats) -> list[tuple[float, float]]:
        """Variance, and its degrees of freedom, by the sampled languages of each part, in families."""
        terms = []
        for part in self._sampled:
            differences = by_language[part] * self.weights[part]
            family = np.unique(self._family[part], return_inverse=True)[1]
            sums = np.bincount(family, weights=differences - differences.mean())
            size = np.bincount(family).astype(np.float64)
            left = 1 - size / len(differences)
            # How the cluster sums of independent languages vary together, and so the degrees of freedom.
            together = -np.outer(size, size) / len(differences) / np.sqrt(np.outer(left, left))
            np.fill_diagonal(together, size)
            df = float(together.trace() ** 2 / (together**2).sum())
            terms.append((float((sums**2 / left).sum()), df))
        return terms

    def pair(self, a: str, b: str | None, language_effect: LanguageEffect) -> Spread:
        """The estimand of a less that of b (nothing for None), with its standard error.

        Args:
            a: Method.
            b: Method.
            language_effect: "random" takes the languages for a sample, "fixed" for all there are. The
                standard error of a sample is never below that of the languages themselves.
        """
        fixed, _ = self._spread(a, b, "fixed")
        if self.possible(language_effect) == "fixed":
            return fixed
        random, languages = self._spread(a, b, "random")
        more = random.se**2 - fixed.se**2
        if more <= 0:
            return fixed
        # What languages add is bounded at 0, and so known better than their mean square, but not as well as
        # if it were one itself: the degrees of freedom take it to be halfway (the geometric mean).
        mean_square = sum(v for v, _ in languages)
        few = mean_square**2 / sum(v**2 / df for v, df in languages)
        of_languages = min(more, mean_square) ** 0.5 * mean_square**0.5
        df = corrected(random.se**2, [(fixed.se**2, fixed.df), (of_languages, few)])
        squares = of_languages**2 / few
        alone = round(squares / (squares + fixed.se**4 / fixed.df), 1)
        return replace(random, df=df, alone=alone)

    def _spread(
        self, a: str, b: str | None, effect: LanguageEffect
    ) -> tuple[Spread, list[tuple[float, float]]]:
        """With the mean squares of languages, and their degrees of freedom."""
        names = [a] if b is None else [a, b]
        one = self.method(a)
        mean, by_language = one.mean, one.by_language.mean(axis=0)
        if b is not None:
            other = self.method(b)
            mean, by_language = mean - other.mean, by_language - other.by_language.mean(axis=0)
        v_example, v_language_example = self._examples(mean - self.spread_out(by_language))
        # Two pseudo-examples, one won and one lost (Bonett and Price 2012): where all examples agree, the
        # sample still does not show that there is no difference.
        v_pseudo = 2 * float((self.spread_out(self.weights / self.n) ** 2).mean())
        rest, units = v_example, max(float(self._codes.max()), 1.0)
        few: list[tuple[float, float]] = []
        if effect == "random":
            rest -= v_language_example
            few = self._language_variance(by_language)
        languages = few
        drawn = {name: self.method(name).seeds for name in names if not self.method(name).seedless}
        pool = self.seed_variance(effect)
        if pool is not None and drawn:
            added, square, df = pool.of(drawn)
            rest -= square - added
            few = [*few, (square, df)]
        # What is taken away may be more than there is by chance. The sum is not bounded part by part, which
        # would make it too large on average (Stroup and Littell 2002).
        known = sum(v for v, _ in few)
        variance = v_pseudo + max(rest + known, max((v for v, _ in few), default=0.0))
        df = corrected(variance, [(variance - known, units), *few])
        value = self.estimate(a) - (0.0 if b is None else self.estimate(b))
        most = {"mean": 1.0, "relative": float("inf")}.get(self.of.quantity, len(names))
        v_examples = min(v_example + v_pseudo, variance)
        return Spread(value, float(np.sqrt(variance)), df, v_examples, most), languages

    def seed_variance(self, effect: LanguageEffect) -> SeedVariance | None:
        """How much one seed of each method varies; None where no method has several seeds."""
        if effect not in self._pools:
            several = {name: parts for name, parts in self._all_methods() if parts.seeds > 1}
            added = {}
            for name, parts in several.items():
                added[name] = (parts.v_seed - parts.v_example_seed) * parts.seeds
                if effect == "random":
                    added[name] += (parts.v_all - parts.v_language_seed) * parts.seeds
            square = {name: parts.v_seed * parts.seeds for name, parts in several.items()}
            df = {name: parts.seeds - 1 for name, parts in several.items()}
            self._pools[effect] = SeedVariance(added, square, df) if several else None
        return self._pools[effect]

    def _all_methods(self) -> list[tuple[str, MethodParts]]:
        return [(name, self.method(name)) for name in self.paired.methods]

    def seed_variance_by_language(self) -> tuple[SeedVariance, SeedVariance] | None:
        """As `seed_variance`, of one language: the part all languages share, and that of each for itself.

        The second is pooled over the languages, which say far more about it than two or three seeds of one.
        """
        several = {name: parts for name, parts in self._all_methods() if parts.seeds > 1}
        if not several:
            return None
        languages = len(self.n)
        shared, apart, mains, rests = {}, {}, {}, {}
        for name, parts in several.items():
            mains[name] = float(parts.by_language.mean(axis=1).var(ddof=1))
            rests[name] = float(parts.by_language.var(axis=0, ddof=1).mean()) - mains[name]
            noise = float(parts.example_seed_by_language.mean()) * parts.seeds
            shared[name] = mains[name] - noise / languages
            apart[name] = rests[name] - noise * (languages - 1) / languages
        df = {name: parts.seeds - 1 for name, parts in several.items()}
        more = {name: count * max(languages - 1, 1) for name, count in df.items()}
        return SeedVariance(shared, mains, df), SeedVariance(apart, rests, more)

    def seed_variation(self, a: str, b: str) -> SeedVariation:
        """Whether the variance between seeds is in the standard error; see `Sample.pair`."""
        both = [self.method(name) for name in (a, b)]
        if all(parts.seeds > 1 or parts.seedless for parts in both):
            return "measured"
        return "borrowed" if self.seed_variance("fixed") is not None else "absent"

    def detectable(self, spread: Spread, a: str, b: str, level: float, methods: int) -> float | None:
        """The smallest true difference found with 80% power (an estimate); None beyond 100 points."""
        if self.of.quantity != "mean":
            smallest = float(detectable(spread.se, spread.df, level, methods, alone=spread.alone))
            return smallest if smallest <= 1 or spread.most == float("inf") else None
        one, other = (self.method(name).by_language.mean(axis=0) for name in (a, b))
        rest = spread.se**2 - spread.v_examples
        smallest = float(
            detectable_shift(one, other, spread.v_examples, rest, spread.df, level, methods, spread.alone)
        )
        return smallest if np.isfinite(smallest) else None


def near_chance(paired: PairedPredictions, methods: Sequence[str], chance: float) -> str:
    """Whether a source score is not clearly above a guess's (by two standard errors); "" if all are.

    Relative transfer divides by that difference: around 0 its size and even its sign mean nothing.
    """
    source = Sample(paired, [paired.source])
    for method in methods:
        score = source.pair(method, None, "fixed")
        if score.difference - chance <= 2 * score.se:
            return (
                f"{method} scores {100 * score.difference:.1f} in {paired.source}, "
                f"not clearly above {100 * chance:.1f}: there is nothing whose share could be transferred"
            )
    return ""
