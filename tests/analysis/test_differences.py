"""Paired tests against scipy, statsmodels and slow loops."""

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as published_mcnemar
from statsmodels.stats.multitest import multipletests

from crosstune.analysis.statistics.differences import AllPairs, by_language, mcnemar
from crosstune.analysis.statistics.multiplicity import holm
from crosstune.errors import UserError
from paired_scores import coins, made


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_the_published_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    paired = made({"a": coins(rng, 0.7, 1, 6, 60), "b": coins(rng, 0.5, 1, 6, 60)})
    table = by_language(paired, "a", "b")
    assert table["test"].unique().to_list() == ["mcnemar"]
    for i, row in enumerate(table.rows(named=True)):
        one, other = (paired.scores[k][0, (i + 1) * 60 : (i + 2) * 60] for k in "ab")
        cells = [[np.sum((one == x) & (other == y)) for y in (0, 1)] for x in (0, 1)]
        assert row["p"] == pytest.approx(published_mcnemar(cells, exact=True).pvalue)


def test_mcnemar_of_counts_is_the_binomial_test() -> None:
    counts = [(0, 0), (0, 5), (5, 5), (3, 12), (40, 20)]
    found = mcnemar(*np.array(counts).T)
    expected = [1.0 if a + b == 0 else stats.binomtest(a, a + b).pvalue for a, b in counts]
    np.testing.assert_allclose(found, expected)


def test_holm_is_the_published_one() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 100):
        p = (rng.random(size) ** 3).tolist()
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    assert holm([]) == []


def test_a_graded_language_is_a_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    paired = made({"a": rng.random((1, 3, 500)), "b": rng.random((1, 3, 500))})
    for i, row in enumerate(by_language(paired, "a", "b").rows(named=True)):
        one, other = (paired.scores[k][0, (i + 1) * 500 : (i + 2) * 500] for k in "ab")
        assert row["test"] == "t"
        assert row["difference"] == pytest.approx(float((one - other).mean()), abs=1e-6)
        # The two pseudo-examples cost a little.
        assert row["p"] == pytest.approx(stats.ttest_rel(one, other).pvalue, abs=0.02)


def test_the_mean_over_languages_is_unweighted_and_leaves_out_the_source() -> None:
    rng = np.random.default_rng(2)
    scores = {"a": rng.random((3, 4, 50)), "b": rng.random((2, 4, 50))}
    found = AllPairs(made(scores)).pair("a", "b")
    expected = scores["a"][:, 1:].mean() - scores["b"][:, 1:].mean()
    assert found.difference == pytest.approx(expected, abs=1e-6)
    assert (found.languages, found.examples, found.seeds_a, found.seeds_b) == (3, 150, 3, 2)
    assert found.low < found.difference < found.high
    assert found.wins + found.ties + found.losses == 3


def test_the_interval_leaves_out_nought_exactly_when_p_is_small() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        paired = made({"a": coins(rng, 0.58, 2, 5, 40), "b": coins(rng, 0.5, 2, 5, 40)})
        found = AllPairs(paired).pair("a", "b")
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_every_pair_or_every_method_against_one() -> None:
    rng = np.random.default_rng(3)
    paired = made({k: coins(rng, p, 2, 5, 40) for k, p in zip("abc", (0.3, 0.5, 0.9), strict=True)})
    family = AllPairs(paired)
    assert family.table().select("a", "b").rows() == [("a", "b"), ("a", "c"), ("b", "c")]
    table = AllPairs(paired).table("b")
    assert table.select("a", "b").rows() == [("a", "b"), ("c", "b")]
    one = family.pair("c", "b")
    assert table.row(1, named=True) == pytest.approx(one.__dict__)
    # A pair is the same whoever asks, and which way round.
    row = family.table().row(2, named=True)
    assert (row["p"], row["low"], row["methods"]) == (one.p, -one.high, 3)
    assert table.row(0, named=True)["p"] > table.row(0, named=True)["p_alone"]


def test_wrong_names_are_told() -> None:
    paired = made({"a": np.zeros((1, 2, 3)), "b": np.zeros((1, 2, 3))})
    with pytest.raises(UserError, match='no method "c"'):
        AllPairs(paired).pair("a", "c")
    with pytest.raises(UserError, match='the language "l9"'):
        AllPairs(paired, ["l9"])


def test_agreement_on_everything_is_no_proof_of_equality() -> None:
    same = np.ones((1, 3, 10))
    found = AllPairs(made({"a": same, "b": same})).pair("a", "b")
    assert found.difference == 0
    assert found.not_enough_data == "40 right answers of a and b, fewer than 100"
    assert (found.p, found.low, found.detectable) == (None, None, None)
    low, high = found.spread.interval()
    assert low < 0 < high
    table = by_language(made({"a": same, "b": same}), "a", "b")
    assert table["outcome"].to_list() == ["tie", "tie"]
    assert (table["detectable"].fill_null(1.0) > 0.1).all()
    assert isinstance(table, pl.DataFrame)
