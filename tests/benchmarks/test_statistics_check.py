"""The check of the statistics, small: the simulator is right, and the tests hold on what it draws."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import statistics_check as check
from crosstune.analysis.statistics.differences import AllPairs
from crosstune.analysis.statistics.variance import LanguageEffect
from simulated_predictions import Shape, frame, intercept, mean_score, shift_for, simulate
from statistics_tables import describe, fill, tables

TIMES = 200


def likely(found: dict[str, float], truth: float) -> bool:
    """Whether a share of simulated studies is one that the truth gives."""
    return stats.binomtest(round(found["share"] * TIMES), TIMES, truth).pvalue > 1e-3


@pytest.mark.parametrize("scores", ["binary", "graded", "f1", "beta"])
def test_the_simulated_truth_is_the_mean_of_many_predictions(scores: str) -> None:
    shape = Shape(seeds=(20,), languages=60, examples=300, scores=scores, level=0.4)
    gains, truths, levels = [], [], []
    for seed in range(6):
        drawn = simulate(shape, np.random.default_rng(seed), shift=1.5)
        one, other = (drawn.sample.estimate(name) for name in drawn.sample.paired.methods)
        gains.append(one - other)
        levels.append((one + other) / 2)
        truths.append(drawn.truth[0].mean() - drawn.truth[1].mean())
    assert np.mean(gains) == pytest.approx(np.mean(truths), abs=0.012)
    assert np.mean(levels) == pytest.approx(0.4, abs=0.05)
    shift = shift_for(shape, 0.1)
    base = intercept(shape)
    gain = mean_score(shape, base + shift / 2) - mean_score(shape, base - shift / 2)
    assert gain == pytest.approx(0.1, abs=1e-3)


def test_a_sample_taken_over_is_one_made_anew() -> None:
    """Drawing reuses what a shape's samples share; the library's own way gives the same numbers."""
    for shape in (Shape(methods=3, languages=6), Shape(questions=4, parallel=False, fewest=20, source=True)):
        sample = simulate(shape, np.random.default_rng(0)).sample
        for effect in ("random", "fixed"):
            kind: LanguageEffect = effect  # type: ignore[assignment]
            pair = sample.pair("m00", "m01", kind)
            found = AllPairs(sample.paired, language_effect=kind).pair("m00", "m01")
            assert (found.difference, found.se, found.df) == (pair.difference, pair.se, pair.df)
            assert (found.low_alone, found.high_alone) == pair.interval()


SMALL = [
    Shape(languages=8, examples=40),
    Shape(methods=3, seeds=(2,), languages=6, examples=30),
    Shape(questions=5, languages=6, examples=60, changed=check.PASSAGES),
    Shape(languages=12, examples=40, families=(4, 2, 2, 2, 1, 1), changed=(("method x family", 0.4),)),
    Shape(seeds=(3, 1), languages=6, examples=40),
    Shape(scores="beta", languages=6, examples=60),
    Shape(tails=3.0, languages=8, examples=40),
]


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: describe(shape.named()))
def test_false_differences_are_rare_and_true_ones_found(shape: Shape) -> None:
    found = check.check(shape, "random", TIMES)
    assert found["family"]["low"] <= 0.065
    assert found["supported"]["low"] <= 0.025
    assert found["coverage"]["high"] >= 0.93
    assert found["mean"]["high"] >= 0.93
    assert likely(found["power"], 0.8) or 0.7 < found["power"]["share"] < 0.93


@pytest.mark.parametrize(("examples", "refused"), [(30, 1.0), (200, 0.0)])
def test_what_has_too_few_answers_is_not_tested(examples: int, refused: float) -> None:
    found = check.check(Shape(examples=examples, level=0.02), "fixed", 30)
    assert found["refused"]["share"] == pytest.approx(refused, abs=0.15)
    assert (found["family"] is None) == (refused == 1.0)


def test_wins_and_losses_by_language_are_rarely_false() -> None:
    for shape in (
        replace(check.LANGUAGE_SHAPES[4], languages=8),
        replace(check.LANGUAGE_SHAPES[0], languages=8),
    ):
        found = check.check_languages(shape, TIMES)
        assert found["any"]["low"] <= 0.05
        assert found["one"] < 0.07


def test_what_is_claimed_of_more_than_means_holds() -> None:
    shape = replace(check.WITH_SOURCE, examples=40)
    for name in check.ESTIMANDS:
        assert check.check_estimand(name, shape, TIMES)["false"]["low"] <= 0.06
    assert check.check_equivalence(Shape(languages=8, examples=60), TIMES)["false"]["low"] <= 0.06
    picked = check.check_selection(Shape(languages=5, examples=20), 40, 4)["supported"]
    assert picked["by a seed that is not tested"]["low"] <= 0.025


def test_few_languages_are_no_sample_of_others() -> None:
    assert frame(Shape(languages=5)).sample.possible("random") == "fixed"
    assert frame(Shape(languages=8, families=(4, 1, 1, 1, 1))).sample.possible("random") == "fixed"
    assert frame(Shape(languages=6)).sample.possible("random") == "random"


def test_the_page_shows_the_stored_results() -> None:
    stored = json.loads(check.RESULTS.read_text(encoding="utf-8"))
    page = check.DOCS.read_text(encoding="utf-8")
    assert fill(page, tables(stored)) == page


@pytest.mark.parametrize("truth", ["better in half of the languages", "better in all families but one"])
def test_false_claims_are_rarely_supported(truth: str) -> None:
    found = check.check_claims(truth, 25)["supported"]
    assert all(hits["low"] <= 0.025 for hits in found.values()), found
