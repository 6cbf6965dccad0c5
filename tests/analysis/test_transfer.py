import statistics
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstune.analysis.answer_language import CORRECT
from crosstune.analysis.curves import curve
from crosstune.analysis.groups import language_rates
from crosstune.analysis.transfer import comparable, language_scores, seed_means, transfer
from crosstune.errors import UserError
from crosstune.metrics.language_id import UNDECIDABLE
from crosstune.store.record import RunRecord
from records import as_record

Scores = dict[str, Sequence[float]]


def run(run_id: str, label: str, scores: Scores, seed: int = 0, **changes: Any) -> RunRecord:
    """A record; ``scores`` only decides which languages have test data."""
    task = {"name": "toy", "version": 1, "metrics": ["accuracy"], "options": {"limit": None}}
    facts = {
        "id": run_id,
        "model": "m",
        "method": {"name": label.partition(" ")[0]},
        "label": label,
        "task": task | changes.pop("task", {}),
        "source_language": "en",
        "seed": seed,
        "train": {"learning_rate": 0.01, "seed": seed},
        "trained_parameters": 100,
        "zero_shot": True,
        "dtype": "float32",
        "fingerprints": {"train": "t", "test": {code: f"data-{code}" for code in scores}},
    } | changes
    return as_record(facts)


def rows(run_id: str, scores: Scores) -> list[dict[str, Any]]:
    return [
        {"run": run_id, "language": code, "example": str(i), "score": float(score)}
        for code, values in scores.items()
        for i, score in enumerate(values)
    ]


def table(*parts: tuple[RunRecord, Scores]) -> tuple[list[RunRecord], pl.DataFrame]:
    return [entry for entry, _ in parts], pl.DataFrame(
        [row for entry, s in parts for row in rows(entry.id, s)]
    )


def test_scores_and_standard_errors_are_the_plain_ones() -> None:
    scores = {"en": [1, 1, 0, 1], "de": [0.25, 0.5, 1, 0], "sw": [1]}
    out = language_scores(*table((run("a", "lora", scores), scores)))
    for row in out.rows(named=True):
        values = scores[row["language"]]
        assert row["n"] == len(values)
        assert row["score"] == pytest.approx(statistics.fmean(values))
        if len(values) == 1:
            assert row["se"] is None
        else:
            assert row["se"] == pytest.approx(statistics.stdev(values) / len(values) ** 0.5)
        assert row["is_source"] == (row["language"] == "en")


def test_transfer_averages_common_targets_then_seeds() -> None:
    lora0 = {"en": [1, 1], "de": [1, 0], "sw": [0, 0], "th": [1, 1]}
    lora1 = {"en": [1, 0], "de": [1, 1], "sw": [1, 0], "th": [1, 1]}
    none = {"en": [0, 1], "de": [0, 1], "sw": [0, 0]}  # never saw Thai: Thai counts for nobody
    runs, predictions = table(
        (run("a", "lora", lora0, 0), lora0),
        (run("b", "lora", lora1, 1), lora1),
        (run("c", "none", none), none),
    )
    out = transfer(language_scores(runs, predictions))
    assert out["method"].to_list() == ["lora", "none"]
    lora, base = out.rows(named=True)
    assert (lora["seeds"], base["seeds"]) == (2, 1)
    assert (lora["targets"], lora["targets_seen"]) == (2, 3)
    means = [(0.5 + 0) / 2, (1 + 0.5) / 2]
    assert lora["target_mean"] == pytest.approx(statistics.fmean(means))
    assert lora["target_sd"] == pytest.approx(statistics.stdev(means))
    assert lora["source"] == pytest.approx(0.75)
    assert lora["gap"] == pytest.approx(0.75 - statistics.fmean(means))
    assert lora["relative"] == pytest.approx(statistics.fmean(means) / 0.75)
    assert (lora["best_language"], lora["best_score"]) == ("de", pytest.approx(0.75))
    assert (lora["worst_language"], lora["worst_score"]) == ("sw", pytest.approx(0.25))
    assert base["target_sd"] is None
    assert base["gap"] == pytest.approx(0.5 - 0.25)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["en", "de", "sw", "th", "zh"]),
        st.lists(st.floats(0, 1), min_size=3, max_size=3),
        min_size=1,
    )
)
def test_one_run_equals_plain_python(scores: Scores) -> None:
    row = transfer(language_scores(*table((run("a", "lora", scores), scores)))).row(0, named=True)
    targets = [statistics.fmean(values) for code, values in scores.items() if code != "en"]
    source = statistics.fmean(scores["en"]) if "en" in scores else None
    assert row["targets"] == len(targets)
    assert row["source"] == (None if source is None else pytest.approx(source))
    mean = statistics.fmean(targets) if targets else None
    assert row["target_mean"] == (None if mean is None else pytest.approx(mean))
    if mean is None or source is None:
        assert row["gap"] is None
        assert row["relative"] is None
    else:
        assert row["gap"] == pytest.approx(source - mean)


DATA = {"en": [1, 0], "de": [1, 1]}


@pytest.mark.parametrize(
    "change",
    [
        {"task": {"version": 2}},
        {"task": {"options": {"limit": 5}}},
        {"task": {"metrics": ["exact"]}},
        {"task": {"file": {"path": "t.yaml", "sha256": "ab"}}},
        {"fingerprints": {"train": "t", "test": {"en": "data-en", "de": "other"}}},
        {"fingerprints": {"train": "t", "test": {"en": "data-en"}}},
        {"source_language": "de"},
        {"evaluate": {"choices": "first-token"}},
        {"evaluate": {"beams": 4}},
        {"evaluate": {"target_language_token": False}},
    ],
)
def test_other_tests_are_never_mixed(change: dict[str, Any]) -> None:
    runs, predictions = table((run("a", "lora", DATA), DATA), (run("b", "lora", DATA, 1, **change), DATA))
    out = transfer(language_scores(runs, predictions))
    assert out.height == 2
    assert out["protocol"].n_unique() == 2
    assert out["seeds"].to_list() == [1, 1]


def test_half_written_language_is_another_test() -> None:
    half = {"en": [1, 0], "de": [1]}
    runs, predictions = table((run("a", "lora", DATA), DATA), (run("b", "prefix", DATA), half))
    assert transfer(language_scores(runs, predictions))["protocol"].n_unique() == 2


def test_runs_with_fewer_languages_stay_comparable() -> None:
    small = {"en": [1, 0]}
    runs, predictions = table((run("a", "lora", DATA), DATA), (run("b", "prefix", small), small))
    scores = language_scores(runs, predictions)
    assert scores["protocol"].n_unique() == 1
    assert set(comparable(scores)["language"]) == {"en"}
    assert transfer(scores)["target_mean"].to_list() == [None, None]


def test_order_of_runs_and_rows_does_not_matter() -> None:
    runs, predictions = table((run("a", "lora", DATA), DATA), (run("b", "prefix", DATA), DATA))
    shuffled = transfer(language_scores(runs[::-1], predictions.reverse()))
    assert shuffled.equals(transfer(language_scores(runs, predictions)))


def test_settings_that_differ_are_rows_with_names_of_their_own() -> None:
    runs, predictions = table(
        (run("a", "lora", DATA), DATA),
        (run("b", "lora", DATA, train={"learning_rate": 0.1, "seed": 0}), DATA),
    )
    out = transfer(language_scores(runs, predictions))
    assert sorted(out["method"]) == ["lora, learning rate 0.01", "lora, learning rate 0.1"]


@pytest.mark.parametrize(
    "change", [{"pooling": "mean"}, {"two_way": [3]}, {"head": False}, {"piece": "last"}]
)
def test_models_read_otherwise_are_no_seeds_of_one_another(change: dict[str, Any]) -> None:
    runs, predictions = table(
        (run("a", "lora", DATA), DATA), (run("b", "lora", DATA, 1, evaluate=change), DATA)
    )
    out = transfer(language_scores(runs, predictions))
    ((key, value),) = change.items()
    assert sorted(out["method"]) == [f"lora, evaluation {key} -", f"lora, evaluation {key} {value}"]
    assert out["protocol"].n_unique() == 1
    assert out["seeds"].to_list() == [1, 1]


def test_seeds_named_differently_by_two_studies_are_one_row() -> None:
    runs, predictions = table(
        (run("a", "lora", DATA), DATA), (run("b", "lora (2)", DATA, 1, method={"name": "lora"}), DATA)
    )
    scores = language_scores(runs, predictions)
    assert set(scores["method"]) == {"lora"}
    assert transfer(scores)["seeds"].to_list() == [2]


def test_speed_settings_do_not_part_runs() -> None:
    runs, predictions = table(
        (run("a", "lora", DATA, evaluate={"tokens_per_pass": 1}), DATA),
        (run("b", "prefix", DATA, evaluate={"tokens_per_pass": 2}), DATA),
    )
    assert transfer(language_scores(runs, predictions))["protocol"].n_unique() == 1


def test_same_seed_twice_is_not_two_seeds() -> None:
    runs, predictions = table((run("a" * 16, "lora", DATA), DATA), (run("b" * 16, "lora", DATA), DATA))
    out = transfer(language_scores(runs, predictions))
    assert sorted(out["method"]) == ["lora, run aaaaaa", "lora, run bbbbbb"]
    assert out["target_sd"].null_count() == 2


def test_a_run_given_twice_counts_once() -> None:
    runs, predictions = table((run("a", "lora", DATA), DATA))
    assert transfer(language_scores([*runs, *runs], predictions))["seeds"].to_list() == [1]


def test_further_metrics_are_averaged_over_what_is_decided() -> None:
    runs, predictions = table((run("a", "lora", DATA), DATA))
    decided = predictions.with_columns(pl.Series("metric.in_english", [1.0, None, 0.0, float("nan")]))
    scores = language_scores(runs, decided)
    assert dict(scores.select("language", "metric.in_english").iter_rows()) == {"de": 0.0, "en": 1.0}
    assert transfer(scores)["metric.in_english"].to_list() == [0.0]  # targets only
    assert "metric.in_english" in seed_means(scores).columns


def test_what_cannot_be_analysed_is_said_in_one_line() -> None:
    runs, predictions = table((run("a", "lora", DATA), DATA))
    with pytest.raises(UserError, match="no finished runs"):
        language_scores([], predictions)
    with pytest.raises(UserError, match=r"run z .* no predictions"):
        language_scores([*runs, run("z", "prefix", DATA)], predictions)
    with pytest.raises(UserError, match="scored twice"):
        language_scores(runs, pl.concat([predictions, predictions.head(1)]))
    with pytest.raises(UserError, match="no number"):
        language_scores(runs, predictions.with_columns(score=pl.lit(None, dtype=pl.Float64)))


def test_the_best_and_the_worst_language() -> None:
    lora = {"en": [1, 1], "de": [1, 0], "sw": [0, 0], "th": [1, 1], "fr": [1, 0]}
    none = {"en": [0, 1], "de": [0, 0], "sw": [1, 0], "th": [1, 1], "fr": [0, 0]}
    out = transfer(language_scores(*table((run("a", "lora", lora), lora), (run("c", "none", none), none))))
    actual = out.select("method", "best_language", "best_score", "worst_language", "worst_score").rows()
    assert sorted(actual) == [("lora", "th", 1.0, "sw", 0.0), ("none", "th", 1.0, "fr", 0.0)]


def test_rates_are_averaged_in_one_order() -> None:
    """A language in which one seed has no identified answer: seeds first, then languages, in every table."""
    scores = {"en": [1], "de": [1], "sw": [0]}
    labels = {("a", "de"): "de", ("a", "sw"): "sw", ("b", "de"): UNDECIDABLE, ("b", "sw"): "en"}
    written = {"kind": "generation"}
    runs, predictions = table(
        *((run(name, "lora", scores, k, task=written), scores) for k, name in enumerate("ab"))
    )
    answers = [labels.get((row["run"], row["language"]), "en") for row in predictions.rows(named=True)]
    out = language_scores(runs, predictions.with_columns(answer_language=pl.Series(answers)))
    (expected,) = language_rates(out)[CORRECT]
    assert expected == pytest.approx((1 + (1 + 0) / 2) / 2)
    assert transfer(out)[CORRECT].to_list() == [pytest.approx(expected)]
    assert curve(runs, out, "learning_rate")[CORRECT].to_list() == [pytest.approx(expected)]
