"""All pairs as one family, other estimands than a mean, equivalence: against scipy, statsmodels and loops."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from crosstune.analysis.statistics.differences import AllPairs
from crosstune.analysis.statistics.estimand import Estimand
from crosstune.analysis.statistics.multiplicity import every, most, some
from crosstune.analysis.statistics.power import detectable, detectable_shift
from crosstune.analysis.statistics.spread import Spread, combined
from crosstune.analysis.statistics.studentized import critical, two_sided
from crosstune.errors import UserError
from paired_scores import coins, made


@pytest.mark.parametrize("methods", [3, 6, 10])
def test_the_studentized_range_is_the_published_one(methods: int) -> None:
    for df in (1.0, 3.5, 40.0):
        cut = float(critical(df, 0.95, methods))
        assert cut == pytest.approx(stats.studentized_range.ppf(0.95, methods, df) / 2**0.5, rel=1e-4)
        assert float(two_sided(-cut, df, methods)) == pytest.approx(0.05, abs=1e-4)
    assert float(two_sided(2.0, 7.0)) == pytest.approx(2 * stats.t.sf(2, 7))


def test_where_each_pair_has_its_own_variance_the_studentized_range_is_too_small() -> None:
    """Six equal methods in six families of languages: Tukey's test finds a difference in 10%."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 6, 6))
    a, b = np.triu_indices(6, 1)
    d = x[:, a] - x[:, b]
    t = d.mean(axis=2) / stats.sem(d, axis=2)
    false = {alone: (two_sided(t, 5.0, 6, alone).min(axis=1) < 0.05).mean() for alone in (0.0, 1.0)}
    assert false[0.0] > 0.08
    assert false[1.0] == pytest.approx(0.05, abs=0.013)
    for alone in (0.0, 0.3, 1.0):
        assert float(two_sided(critical(5.0, 0.95, 6, alone), 5.0, 6, alone)) == pytest.approx(0.05, abs=1e-4)


def test_all_pairs_share_what_is_known_of_seeds() -> None:
    """One language, seeds alone: on average over pairs the standard error is that of Tukey's test."""
    rng = np.random.default_rng(0)
    level = rng.random((4, 12))
    scores = {
        name: np.repeat(values[:, None, None], 2, axis=1) + np.zeros((1, 1, 3))
        for name, values in zip("abcd", level, strict=True)
    }
    found = AllPairs(made(scores), ["l1"])
    squares = level.var(axis=1, ddof=1)
    pairs = list(itertools.combinations(range(4), 2))
    errors = [found.pair("abcd"[i], "abcd"[j]).se ** 2 - 2 / 9 for i, j in pairs]
    for (i, j), error in zip(pairs, errors, strict=True):
        assert error == pytest.approx((squares[i] + squares[j] + 4 * squares.mean()) / 3 / 12, rel=1e-4)
    assert np.mean(errors) == pytest.approx(2 * squares.mean() / 12, rel=1e-4)


def test_a_pair_has_one_p_value_wherever_it_is_asked_for() -> None:
    rng = np.random.default_rng(1)
    paired = made({name: coins(rng, 0.4 + 0.05 * i, 3, 6, 40) for i, name in enumerate("abcde")})
    family = AllPairs(paired)
    row = family.table().filter(a="b", b="e").row(0, named=True)
    other = AllPairs(paired).table("b").filter(a="e").row(0, named=True)
    alone = AllPairs(paired).pair("b", "e")
    assert row["p"] == other["p"] == alone.p == family.pair("e", "b").p
    assert (row["low"], row["high"]) == (-other["high"], -other["low"]) == (alone.low, alone.high)
    assert alone.p > alone.p_alone
    assert alone.p_at(alone.low) == pytest.approx(0.05, abs=1e-4)
    assert (alone.methods, alone.detectable) == (5, family.pair("e", "b").detectable)
    assert alone.detectable is not None
    # What is detectable is so among all ten pairs, not by itself.
    by_itself = family.sample.detectable(family.sample.pair("b", "e", "fixed"), "b", "e", 0.95, 2)
    assert alone.detectable > 1.2 * float(by_itself or 0)


def example_values(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[examples]; a weighted sum over languages of each example of a parallel test set."""
    return np.tensordot(weights, scores[0], axes=1)


@pytest.mark.parametrize("quantity", ["gap", "contrast"])
def test_gaps_and_interactions_are_t_tests_of_what_examples_add(quantity: str) -> None:
    rng = np.random.default_rng(2)
    scores = {name: rng.random((1, 6, 300)) for name in "ab"}
    weights = np.array([1.0, *[-0.2] * 5])
    of = Estimand("gap")
    if quantity == "contrast":
        weights = np.array([0.0, 0.5, 0.5, -1 / 3, -1 / 3, -1 / 3])
        of = Estimand("contrast", ["l1", "l2"], ["l3", "l4", "l5"])
    family = AllPairs(made(scores), of, language_effect="fixed")
    one, other = (example_values(scores[name], weights) for name in "ab")
    found, plain = family.pair("a", "b"), stats.ttest_rel(one, other)
    assert found.difference == pytest.approx((one - other).mean(), abs=1e-6)
    assert found.se == pytest.approx(stats.sem(one - other), rel=0.02)
    assert found.p == pytest.approx(plain.pvalue, abs=0.01)
    assert (found.effect, found.wins) == (None, 0)
    value = family.values().row(0, named=True)
    assert value["value"] == pytest.approx(one.mean(), abs=1e-6)
    assert value["se"] == pytest.approx(stats.sem(one), rel=0.02)


@pytest.mark.parametrize("chance", [0.0, 0.2])
def test_relative_transfer_has_the_jackknifes_error(chance: float) -> None:
    rng = np.random.default_rng(3)
    scores = {"a": coins(rng, 0.8, 1, 5, 200), "b": coins(rng, 0.6, 1, 5, 200)}
    family = AllPairs(made(scores), Estimand("relative", chance=chance), language_effect="fixed")

    def plain(kept: np.ndarray) -> float:
        a, b = (
            (y[0, 1:, kept].mean() - chance) / (y[0, 0, kept].mean() - chance)
            for y in (scores["a"], scores["b"])
        )
        return float(a - b)

    found, every_one = family.pair("a", "b"), np.arange(200)
    assert found.difference == pytest.approx(plain(every_one), abs=1e-5)
    without = np.array([plain(np.delete(every_one, i)) for i in every_one])
    assert found.se == pytest.approx(np.sqrt(199 / 200 * ((without - without.mean()) ** 2).sum()), rel=0.05)


def test_means_have_intervals() -> None:
    rng = np.random.default_rng(4)
    scores = {"a": rng.random((3, 4, 50)), "b": rng.random((3, 4, 50))}
    table = AllPairs(made(scores), language_effect="fixed").values()
    for row in table.rows(named=True):
        assert row["value"] == pytest.approx(scores[row["method"]][:, 1:].mean(), abs=1e-6)
        assert row["low"] < row["value"] < row["high"]


@pytest.mark.parametrize(("right", "answers"), [(50, 100), (3, 400), (1998, 2000)])
def test_the_interval_of_a_mean_is_wilsons(right: int, answers: int) -> None:
    score = right / answers
    spread = Spread(score, (score * (1 - score) / answers) ** 0.5, 1e6)
    published = proportion_confint(right, answers, method="wilson")
    assert spread.interval_of_score(answers) == pytest.approx(published, abs=1e-4)
    # Without a right answer there is no such standard error; two examples that are not seen stand for it.
    low, high = Spread(0.0, 2**0.5 / answers, 1e6).interval_of_score(answers)
    assert (low, high > 3 / answers) == (0.0, True)


def test_equivalence_is_two_one_sided_tests() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random((2, 1, 2, 900))
    found = AllPairs(made({"a": a, "b": b}), ["l1"]).pair("a", "b")
    for margin in (0.01, 0.03, 0.06):
        plain = ttost_paired(a[0, 1], b[0, 1], -margin, margin)[0]
        assert found.p_equivalent(margin) == pytest.approx(plain, abs=0.02)
    assert found.p_equivalent(0.5) < 1e-6


def test_independent_estimates_add_up_as_welch_has_it() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(0.5, 1, 12), rng.normal(0, 3, 7)
    spreads = [Spread(v.mean(), stats.sem(v), len(v) - 1) for v in (x, y)]
    found = combined([(1.0, spreads[0]), (-1.0, spreads[1])])
    assert found.p == pytest.approx(stats.ttest_ind(x, y, equal_var=False).pvalue)


def test_several_tests_that_make_one_statement() -> None:
    p = [0.01, 0.2, 0.03, 0.04]
    assert every(p) == 0.2
    assert some(p) == pytest.approx(0.04)
    assert most(p) == pytest.approx(2 * 0.04)  # three of four
    assert (every([]), some([]), most([])) == (1.0, 1.0, 1.0)


def test_the_detectable_difference_moves_the_means() -> None:
    """At a low score the variance grows with the difference: more is needed than at today's variance."""
    a, n = np.full((1,), 0.02), 500.0
    v = np.array(2 * 0.02 * 0.98 / n)
    found = float(detectable_shift(a, a, v, 0.0, 1e6))
    assert found > float(detectable(np.sqrt(v), 1e6))
    up = np.linspace(0.02, 0.2, 2000)
    middle = np.log(0.02 / 0.98)
    down = 1 / (1 + np.exp(np.log(up / (1 - up)) - 2 * middle))
    se = np.sqrt((up * (1 - up) + down * (1 - down)) / n)
    plain = (up - down)[np.argmax(up - down >= (1.96 + 0.8416) * se)]
    assert found == pytest.approx(plain, rel=0.02)
    assert np.isnan(detectable_shift(a, a, np.array(0.5), 0.0, 1e6))
    assert float(detectable(1.0, 20, 0.95, 6)) > float(detectable(1.0, 20))


def test_wrong_estimands_are_refused() -> None:
    paired = made({"a": np.zeros((1, 3, 4)), "b": np.zeros((1, 3, 4))})
    with pytest.raises(UserError, match="l1 is in both groups"):
        AllPairs(paired, Estimand("contrast", ["l1"], ["l1", "l2"]))
