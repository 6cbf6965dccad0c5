"""The check of the statistics, small: the simulator is right, and the tests hold on what it draws."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import statistics_check as check
from crosstune.analysis.statistics.differences import difference
from crosstune.analysis.statistics.variance import LanguageEffect, Sample
from statistics_check import Shape


def likely(found: dict[str, float], times: int, truth: float) -> bool:
    """Whether a share of simulated studies is one that the truth gives."""
    return stats.binomtest(round(found["share"] * times), times, truth).pvalue > 1e-3


@pytest.mark.parametrize("scores", ["binary", "graded"])
def test_the_simulated_truth_is_the_mean_of_many_predictions(scores: str) -> None:
    shape = Shape((40, 40), 60, 400, scores)
    means, fixed = [], []
    for seed in range(6):
        drawn = check.simulate(shape, np.random.default_rng(seed), shift=1.5)
        entries = {name: values.mean() for name, values in drawn.paired.scores.items()}
        means.append(entries["a"] - entries["b"])
        fixed.append(drawn.fixed)
    assert np.mean(means) == pytest.approx(np.mean(fixed), abs=0.015)
    assert np.mean(fixed) == pytest.approx(check.true_difference(shape, 1.5), abs=0.015)
    assert check.true_difference(shape, check.shift_for(shape, 0.1)) == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("effect", ["random", "fixed"])
def test_false_positives_coverage_and_power(effect: str) -> None:
    measured = check.check(Shape((4, 4), 8, 40), effect, 300)  # type: ignore[arg-type]
    assert measured["seed_variation"] == "measured"
    assert likely(measured["false_positives"], 300, 0.05)
    assert likely(measured["coverage"], 300, 0.95)
    assert likely(measured["power"], 300, 0.8)


def test_with_one_seed_the_library_says_what_is_missing() -> None:
    measured = check.check(Shape((1, 1), 20, 100), "random", 150)
    assert measured["seed_variation"] == "absent"
    assert not likely(measured["false_positives"], 150, 0.05)


def test_holm_keeps_false_wins_rare() -> None:
    for shape in (Shape((3, 3), 10, 60), replace(check.LANGUAGE_SHAPES[0], languages=10)):
        measured = check.check_languages(shape, 150)
        assert measured["any_after_holm"]["low"] <= 0.05
        assert measured["false_positives"] < 0.07


def test_what_is_checked_is_what_is_reported() -> None:
    paired = check.simulate(Shape((3, 2), 6, 30), np.random.default_rng(0), shift=1.0).paired
    for effect in get_args(LanguageEffect):
        estimate = difference(paired, "a", "b", language_effect=effect, draws=2)
        pair = Sample(paired).pair("a", "b", effect)
        assert (estimate.low, estimate.high) == pair.interval()
        assert (estimate.p, estimate.detectable) == (pair.p, pair.detectable())


def test_the_page_shows_the_stored_results() -> None:
    stored = json.loads(check.RESULTS.read_text(encoding="utf-8"))
    page = check.DOCS.read_text(encoding="utf-8")
    assert check.fill(page, check.tables(stored)) == page
