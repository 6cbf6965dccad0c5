"""Variance components and the bootstrap: against slow loops, against each other, and where truth is known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from crosstune.analysis.statistics.bootstrap import bootstrap_means
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.power import detectable
from crosstune.analysis.statistics.studentized import critical, two_sided
from crosstune.analysis.statistics.variance import Sample
from crosstune.analysis.statistics.welch import SeedVariance, corrected


def made(scores: dict[str, np.ndarray], ids: list[list[str]]) -> PairedPredictions:
    """Arrays [seeds, columns] with the ids of each language as paired predictions; no source language."""
    return PairedPredictions(
        model="m",
        task="t",
        protocol="p",
        source="none of them",
        methods=sorted(scores),
        languages=[f"l{i}" for i in range(len(ids))],
        offsets=np.cumsum([0, *map(len, ids)]),
        examples=np.array([each for codes in ids for each in codes], dtype=object),
        scores={name: values.astype(np.float32) for name, values in scores.items()},
        seeds={name: tuple(range(len(values))) for name, values in scores.items()},
    )


PARALLEL = [[str(i) for i in range(7)]] * 4
APART = [[f"{code}-{i}" for i in range(n)] for code, n in enumerate((5, 8, 6))]
PARTLY = [["a", "b", "c", "d"], ["a", "b", "c", "d"], ["a", "b", "x", "y", "z"]]


def random_sample(ids: list[list[str]], seed: int = 0, seeds: tuple[int, int] = (3, 2)) -> Sample:
    rng = np.random.default_rng(seed)
    columns = sum(map(len, ids))
    shape = {"a": (seeds[0], columns), "b": (seeds[1], columns)}
    return Sample(made({name: rng.random(size) for name, size in shape.items()}, ids))


def cube(sample: Sample, name: str) -> np.ndarray:
    """[seeds, languages, examples] of a parallel sample."""
    return sample.paired.scores[name].astype(float).reshape(-1, 4, 7)


def test_variances_of_a_parallel_sample_are_those_of_plain_means() -> None:
    sample = random_sample(PARALLEL)
    a, b = cube(sample, "a"), cube(sample, "b")
    for name, values in (("a", a), ("b", b)):
        parts = sample.method(name)
        assert parts.v_seed == pytest.approx(values.mean(axis=(1, 2)).var(ddof=1) / len(values))
        expected = values.var(axis=0, ddof=1)  # by language and example
        assert expected.shape == (4, 7)
        rest = values - values.mean(0) - values.mean(2, keepdims=True) + values.mean((0, 2), keepdims=True)
        squares = (rest**2).sum(axis=(0, 2)) / ((len(values) - 1) * 6)  # mean square of seed x example
        np.testing.assert_allclose(parts.example_seed_by_language, squares / (7 * len(values)))
    z = a.mean(axis=0) - b.mean(axis=0)
    found, _ = sample._examples((z - z.mean(axis=1, keepdims=True)).ravel())
    assert found == pytest.approx(z.mean(axis=0).var(ddof=1) / 7)


def test_mean_squares_of_the_crossed_design() -> None:
    """Each V_fg of a parallel sample against the textbook's sum of squares."""
    sample = random_sample(PARALLEL, seeds=(3, 3))
    y, parts = cube(sample, "a"), sample.method("a")
    s, languages, n = y.shape
    size = {"s": s, "l": languages, "e": n}

    def effect(*kept: str) -> np.ndarray:
        """The interaction of some factors: means over the others by inclusion and exclusion."""
        total = np.zeros_like(y)
        for k in range(len(kept) + 1):
            for some in itertools.combinations(kept, k):
                axes = tuple(i for i, name in enumerate("sle") if name not in some)
                total += (-1) ** (len(kept) - k) * y.mean(axis=axes, keepdims=True)
        return total

    def variance(*kept: str) -> float:
        """Mean square over the number of cells: the variance of the mean by these factors together."""
        freedom = np.prod([size[name] - 1 for name in kept])
        return float((effect(*kept) ** 2).sum() / freedom / y.size)

    assert parts.v_seed == pytest.approx(variance("s"))
    assert parts.v_language_seed == pytest.approx(variance("s", "l"))
    assert parts.v_example_seed == pytest.approx(variance("s", "e"))
    assert parts.v_all == pytest.approx(variance("s", "l", "e"))


@pytest.mark.parametrize("ids", [PARALLEL, APART, PARTLY])
def test_the_fast_sums_are_the_slow_ones(ids: list[list[str]]) -> None:
    sample = random_sample(ids)
    residuals = np.random.default_rng(1).standard_normal(len(sample.columns))
    names = sample.paired.examples
    weighted = []
    for column in range(len(names)):
        language = int(np.searchsorted(sample.paired.offsets, column, side="right")) - 1
        n = len(ids[language])
        weighted.append(residuals[column] / (len(ids) * n) * (n / (n - 1)) ** 0.5)
    whole, left = 0.0, 0.0
    for name in set(names):
        own = np.array([value for value, each in zip(weighted, names, strict=True) if each == name])
        whole += own.sum() ** 2
        left += own.var(ddof=1) * len(own) if len(own) > 1 else float(own[0] ** 2)
    assert sample._examples(residuals) == pytest.approx((whole, left))


@pytest.mark.parametrize("ids", [PARALLEL, APART, PARTLY])
def test_bootstrap_draws_are_means_of_what_was_drawn(ids: list[list[str]]) -> None:
    """With nothing drawn the mean comes back; with all drawn, values stay means of the data."""
    sample = random_sample(ids)
    still = bootstrap_means(sample, ["a", "b"], (), draws=3)
    expected = [sample.method(name).by_language.mean() for name in "ab"]
    np.testing.assert_allclose(still, [expected] * 3, rtol=1e-5)
    moved = bootstrap_means(sample, ["a", "b"], draws=400)
    assert np.ptp(moved[:, 0]) > 0
    assert moved.mean(axis=0) == pytest.approx(expected, abs=0.02)
    again = bootstrap_means(sample, ["b"], draws=400)
    np.testing.assert_allclose(moved[:, 1], again[:, 0], rtol=1e-5)  # who else is there does not matter


@pytest.mark.parametrize("ids", [PARALLEL, APART])
def test_each_factor_of_the_bootstrap_has_the_variance_in_closed_form(ids: list[list[str]]) -> None:
    sample = random_sample(ids)
    one, other = sample.method("a"), sample.method("b")
    z = one.mean - other.mean
    means = sample.language_means(z)
    n = np.array([len(each) for each in ids])
    closed = {
        # The bootstrap divides by n where the variance has n - 1.
        "seeds": one.v_seed * 2 / 3 + other.v_seed * 1 / 2,
        "languages": means.var() / len(n),
        "examples": sample._examples(z - sample.spread_out(means))[0] if ids is APART else 0.0,
    }
    if ids is APART:
        closed["examples"] = sum(
            z[start : start + size].var() / size for start, size in zip(sample.starts, n, strict=True)
        ) / len(n) ** 2  # fmt: skip
    else:
        closed["examples"] = z.reshape(4, 7).mean(axis=0).var() / 7
    for factor, expected in closed.items():
        drawn = bootstrap_means(sample, ["a", "b"], (factor,), draws=8000)  # type: ignore[arg-type]
        assert (drawn[:, 0] - drawn[:, 1]).var() == pytest.approx(expected, rel=0.08)


def test_both_agree_where_languages_share_some_ids() -> None:
    """As in cldr-names: every language asks for some of the same countries."""
    rng = np.random.default_rng(3)
    ids = [sorted(rng.choice(60, 25, replace=False).astype(str)) for _ in range(12)]
    hard = dict(zip(map(str, range(60)), rng.standard_normal(60), strict=True))
    flat = [hard[each] for codes in ids for each in codes]
    scores = {
        "a": (rng.random((2, len(flat))) + 0.4 * np.array(flat) > 0.5).astype(float),
        "b": (rng.random((2, len(flat))) - 0.4 * np.array(flat) > 0.5).astype(float),
    }
    sample = Sample(made(scores, ids))
    (found,) = sample.linked()
    assert found[0] == len({each for codes in ids for each in codes})
    one, other = sample.method("a"), sample.method("b")
    z = one.mean - other.mean
    closed = sample._examples(z - sample.spread_out(sample.language_means(z)))[0]
    drawn = bootstrap_means(sample, ["a", "b"], ("examples",), draws=4000)
    assert (drawn[:, 0] - drawn[:, 1]).var() == pytest.approx(closed, rel=0.12)
    apart = [[f"{i} {each}" for each in codes] for i, codes in enumerate(ids)]
    alone = Sample(made(scores, apart)).pair("a", "b", "fixed").se
    assert sample.pair("a", "b", "fixed").se > 2 * alone  # taking them for independent would be wrong


def own(sample: Sample, name: str, effect: str) -> float:
    """What a method's seeds add by themselves; below 0 by chance."""
    parts = sample.method(name)
    more = parts.v_all - parts.v_language_seed if effect == "random" else 0.0
    return parts.v_seed - parts.v_example_seed + more


@pytest.mark.parametrize("effect", ["random", "fixed"])
def test_the_variance_is_right_on_average(effect: str) -> None:
    """Normal scores of the crossed design, where the variance of the difference is known."""
    rng = np.random.default_rng(0)
    shape = (3, 6, 20)
    sd = {"s": 0.2, "l": 0.3, "e": 0.5, "sl": 0.2, "se": 0.4, "le": 0.4, "sle": 0.5}
    if effect == "fixed":
        sd["l"] = 0.0
    found, difference = [], []
    for _ in range(1000):
        scores = {}
        for name in "ab":
            y = np.zeros(shape)
            for axes, size in sd.items():
                y += size * rng.standard_normal(
                    [k if c in axes else 1 for c, k in zip("sle", shape, strict=True)]
                )
            scores[name] = y.reshape(3, -1)
        sample = Sample(made(scores, [[str(i) for i in range(20)]] * 6))
        pair = sample.pair("a", "b", effect)  # type: ignore[arg-type]
        pool = sample.seed_variance(effect)  # type: ignore[arg-type]
        assert pool is not None
        seeds = sum(own(sample, name, effect) for name in "ab")
        assert pool.of({"a": 3, "b": 3})[0] == pytest.approx(seeds)
        found.append(pair.se**2)
        difference.append(pair.difference)
    cells = {"s": 3, "l": 6, "e": 20}
    truth = 2 * sum(size**2 / np.prod([cells[c] for c in axes]) for axes, size in sd.items())
    assert np.var(difference) == pytest.approx(truth, rel=0.12)
    # A little above: parts of the variance are held to be nought at least.
    assert truth * 0.97 < np.mean(found) < truth * 1.08


def test_a_method_that_no_seed_changes_adds_no_seed_variance() -> None:
    rng = np.random.default_rng(0)
    scores = {"a": rng.random((3, 28)), "b": rng.random((1, 28))}
    plain = made(scores, PARALLEL)
    lent = Sample(plain)
    fixed = Sample(replace(plain, seedless=frozenset({"b"})))
    assert lent.seed_variation("a", "b") == "borrowed"
    assert fixed.seed_variation("a", "b") == "measured"
    added, square, df = lent.seed_variance("fixed").of({"a": 3, "b": 1})  # type: ignore[union-attr]
    parts = lent.method("a")
    assert (square, df) == (pytest.approx(parts.v_seed * (1 + 3)), pytest.approx(2.0))  # s² of one seed
    assert added == pytest.approx(4 * (parts.v_seed - parts.v_example_seed))
    assert lent.pair("a", "b", "fixed").df < fixed.pair("a", "b", "fixed").df
    alone = Sample(made({name: values[:1] for name, values in scores.items()}, PARALLEL))
    assert alone.seed_variation("a", "b") == "absent"


def test_a_method_keeps_a_third_of_its_own_variance_between_seeds() -> None:
    of_seed = {"a": 4.0, "b": 1.0, "c": 1.0}
    pool = SeedVariance(of_seed, of_seed, dict.fromkeys("abc", 2))
    assert pool.of({"a": 3, "b": 3})[0] == pytest.approx(((4 + 4) / 3 + (1 + 4) / 3) / 3)
    two = SeedVariance({"a": 4.0, "b": 1.0}, {"a": 4.0, "b": 1.0}, {"a": 2, "b": 2})
    found, _, df = two.of({"a": 3, "b": 3})
    assert found == pytest.approx(5 / 3)  # Welch's own
    assert 5**2 / (4**2 / 2 + 1 / 2) < df < 4


@pytest.mark.parametrize(("few", "share"), [(2, 0.8), (2, 0.5), (4, 0.7)])
def test_few_seeds_keep_the_level(few: int, share: float) -> None:
    """Normal means: with Satterthwaite's degrees of freedom 5.5 to 8% would be false."""
    rng = np.random.default_rng(0)
    false, plain = [], []
    for _ in range(4000):
        parts = [
            (share * rng.chisquare(few) / few, float(few)),
            ((1 - share) * rng.chisquare(100) / 100, 100.0),
        ]
        variance = sum(v for v, _ in parts)
        satterthwaite = variance**2 / sum(v**2 / k for v, k in parts)
        for out, df in ((false, corrected(variance, parts)), (plain, satterthwaite)):
            out.append(2 * stats.norm.sf(stats.t.ppf(0.975, df) * variance**0.5))
    assert np.mean(false) == pytest.approx(0.05, abs=0.009)
    assert np.mean(plain) > np.mean(false) + 0.004


@pytest.mark.parametrize("df", [1.0, 2.7, 10.0, 300.0, 1e6])
def test_the_detectable_difference_has_the_power_it_says(df: float) -> None:
    # c4 makes a standard deviation of df degrees of freedom right on average.
    c4 = stats.chi.mean(df) / df**0.5 if df < 1e5 else 1.0
    size = float(detectable(2.0, df)) / 2.0 * c4
    cut = float(critical(df))
    assert stats.t.sf(cut, df) == pytest.approx(0.025, rel=1e-6)
    assert float(two_sided(cut, df)) == pytest.approx(0.05, rel=1e-6)
    power = stats.nct.sf(cut, df, size) if df < 1e5 else stats.norm.sf(cut - size)
    assert power == pytest.approx(0.8, abs=1e-4)
