"""A score that is no mean over examples, from predictions to intervals, against slow loops over sentences."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from crosstune.analysis.statistics.bootstrap import bootstrap_means
from crosstune.analysis.statistics.differences import AllPairs, by_language
from crosstune.analysis.statistics.pairing import PairedPredictions, pair_predictions
from crosstune.analysis.statistics.variance import Sample
from crosstune.analysis.transfer import language_scores, transfer
from crosstune.data.forms import FORMS, AnswerForm
from crosstune.metrics.statistic import MEAN, Statistic
from crosstune.report.lm_eval import _results
from crosstune.store.record import RunRecord
from records import as_record

COUNTS = ("correct_spans", "predicted_spans", "gold_spans")
TAGS = AnswerForm(
    "tags",
    dict.fromkeys(COUNTS, pl.Int64),
    statistic=Statistic(COUNTS, lambda sums, _: 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])),
)
LANGUAGES = ("en", "de", "sw")
SENTENCES = 150


def f1(sentences: Any) -> float:
    """The plain way, from (correct, predicted, gold) of each sentence."""
    correct = sum(int(sentence[0]) for sentence in sentences)
    precision = correct / sum(int(sentence[1]) for sentence in sentences)
    recall = correct / sum(int(sentence[2]) for sentence in sentences)
    return 2 * precision * recall / (precision + recall)


@pytest.fixture
def counts() -> dict[tuple[str, str], np.ndarray]:
    """Run and language to [sentences, 3]; long sentences are answered worse."""
    rng = np.random.default_rng(5)
    gold = {code: rng.choice([1, 2, 3, 30], SENTENCES) for code in LANGUAGES}
    created = {}
    for place, run in enumerate(("a", "b")):
        for code in LANGUAGES:
            chance = np.where(gold[code] > 10, 0.3 + 0.15 * place, 0.8)
            correct = rng.binomial(gold[code], chance)
            created[run, code] = np.stack(
                [correct, correct + rng.poisson(1.0, SENTENCES), gold[code]], axis=1
            )
    return created


@pytest.fixture
def study(
    counts: dict[tuple[str, str], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[RunRecord], pl.DataFrame]:
    monkeypatch.setitem(FORMS, "tags", TAGS)
    facts = {
        "model": "m",
        "source_language": "en",
        "seed": 0,
        "train": None,
        "trained_parameters": 1,
        "zero_shot": True,
        "dtype": "float32",
        "task": {"name": "ner", "version": 1, "kind": "tags", "metrics": ["f1"]},
        "fingerprints": {"train": "t", "test": dict.fromkeys(LANGUAGES, "d")},
    }
    runs = [as_record(facts | {"id": run, "label": f"m{run}", "method": {"name": f"m{run}"}}) for run in "ab"]
    rows = [
        {"run": run, "language": code, "example": f"s{i:03}", "score": 0.5 if i % 2 else 1.0}
        | dict(zip(COUNTS, map(int, sentence), strict=True))
        for (run, code), sentences in counts.items()
        for i, sentence in enumerate(sentences)
    ]
    return runs, pl.DataFrame(rows)


@pytest.fixture
def paired(study: tuple[list[RunRecord], pl.DataFrame]) -> PairedPredictions:
    (pairs,) = pair_predictions(language_scores(*study), study[1].sample(fraction=1.0, shuffle=True, seed=3))
    return pairs


def test_a_language_is_scored_by_its_sums(
    study: tuple[list[RunRecord], pl.DataFrame], counts: dict[tuple[str, str], np.ndarray]
) -> None:
    scores = language_scores(*study)
    for row in scores.rows(named=True):
        sentences = counts[row["run"], row["language"]]
        assert row["score"] == pytest.approx(f1(sentences), rel=1e-12)
        without = [f1(np.delete(sentences, i, axis=0)) for i in range(SENTENCES)]
        jackknife = np.sqrt((SENTENCES - 1) / SENTENCES * np.sum((without - np.mean(without)) ** 2))
        assert row["se"] == pytest.approx(jackknife, rel=0.05)
        assert abs(row["score"] - 0.75) > 0.05, "not the mean of the examples' scores"
    table = transfer(scores)
    expected = {run: np.mean([f1(counts[run, code]) for code in ("de", "sw")]) for run in ("a", "b")}
    for row in table.rows(named=True):
        assert row["target_mean"] == pytest.approx(expected[row["method"][1:]], rel=1e-12)


@pytest.mark.filterwarnings("error")
def test_one_sentence_has_no_standard_error(study: tuple[list[RunRecord], pl.DataFrame]) -> None:
    runs, rows = study
    first = rows.unique(["run", "language"], keep="first", maintain_order=True)
    assert language_scores(runs, first)["se"].to_list() == [None] * first.height


def test_a_difference_and_its_interval(
    paired: PairedPredictions, counts: dict[tuple[str, str], np.ndarray]
) -> None:
    estimate = AllPairs(paired, language_effect="fixed", draws=4000).pair("ma", "mb")

    def plain(kept: np.ndarray) -> float:
        """Sentences are parallel: the same are kept in every language."""
        return float(np.mean([f1(counts["a", c][kept]) - f1(counts["b", c][kept]) for c in ("de", "sw")]))

    every = np.arange(SENTENCES)
    assert estimate.difference == pytest.approx(plain(every), abs=1e-6)
    without = np.array([plain(np.delete(every, i)) for i in every])
    jackknife = (SENTENCES - 1) / SENTENCES * np.sum((without - without.mean()) ** 2)
    assert estimate.se == pytest.approx(np.sqrt(jackknife + 2 / (2 * SENTENCES) ** 2), rel=0.05)
    rng = np.random.default_rng(9)
    slow = [plain(rng.integers(0, SENTENCES, SENTENCES)) for _ in range(1500)]
    low, high = np.quantile(slow, [0.025, 0.975])
    width = high - low
    assert estimate.bootstrap_low == pytest.approx(low, abs=0.12 * width)
    assert estimate.bootstrap_high == pytest.approx(high, abs=0.12 * width)
    table = by_language(paired, "ma", "mb")
    assert table["test"].unique().to_list() == ["t"]
    for row in table.rows(named=True):
        code = row["language"]
        assert row["difference"] == pytest.approx(f1(counts["a", code]) - f1(counts["b", code]), abs=1e-6)


def test_sums_are_drawn_again_and_not_scores(
    paired: PairedPredictions, counts: dict[tuple[str, str], np.ndarray]
) -> None:
    """Draw by draw: bootstrap scores are those of the sentences drawn, copies counted as their own."""
    sample = Sample(paired, ["de"])
    drawn = bootstrap_means(sample, ["ma"], ["examples"], draws=30, seed=4)[:, 0]
    picked = np.random.default_rng(4).integers(0, SENTENCES, (30, SENTENCES))
    np.testing.assert_allclose(drawn, [f1(counts["a", "de"][draw]) for draw in picked], rtol=1e-5)


def test_a_mean_has_the_examples_own_scores() -> None:
    scores = np.random.default_rng(0).random((3, 40, 1))
    np.testing.assert_allclose(MEAN.per_example(scores), scores[..., 0], atol=1e-9)


def test_what_other_programs_are_given_is_that_score(study: tuple[list[RunRecord], pl.DataFrame]) -> None:
    runs, predictions = study
    scores = language_scores(runs, predictions).filter(run="b")
    parts = {f"ner_{code}": predictions.filter(run="b", language=code) for code in LANGUAGES}
    results = _results(runs[1], parts, scores)["results"]
    for row in scores.rows(named=True):
        shown = results[f"ner_{row['language']}"]
        assert (shown["f1,none"], shown["f1_stderr,none"]) == (row["score"], row["se"])
