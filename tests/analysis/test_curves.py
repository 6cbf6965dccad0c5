"""Curves over a swept setting: means over targets, seeds averaged, untuned runs beside them."""

from typing import Any

import polars as pl
import pytest

from crosstune.analysis.curves import curve, swept, value_of
from crosstune.analysis.transfer import language_scores
from crosstune.errors import UserError
from crosstune.report.figures.curves import curves
from crosstune.store.record import RunRecord
from records import as_record


def run(name: str, rate: float | None, seed: int = 0) -> RunRecord:
    run_id = f"{name}-{rate}-{seed}"
    return as_record({
        "id": run_id, "model": "m", "label": name if rate is None else f"{name} lr {rate:g}", "seed": seed,
        "method": {"name": name}, "source_language": "en", "zero_shot": True, "trained_parameters": 1,
        "task": {"name": "words", "version": 1, "metrics": ["exact_match"], "options": {}},
        "train": None if rate is None else {"learning_rate": rate},
        "evaluate": {"choices": "first-token"}, "fingerprints": {"test": {"en": "a", "de": "b", "sw": "c"}},
        "languages": ["en", "de", "sw"],
    })  # fmt: skip


def answers(run_id: str, right: dict[str, list[float]], told: str) -> pl.DataFrame:
    rows = [
        {"run": run_id, "language": code, "example": str(i), "score": score, "answer_language": told}
        for code, scores in right.items()
        for i, score in enumerate(scores)
    ]
    return pl.DataFrame(rows)


@pytest.fixture
def table() -> pl.DataFrame:
    runs = [run("none", None), run("lora", 1e-3), run("lora", 1e-3, 1), run("lora", 1e-2)]
    tables = [
        answers(runs[0].id, {"en": [1, 1], "de": [0, 0], "sw": [0, 0]}, "en"),
        answers(runs[1].id, {"en": [1, 1], "de": [1, 1], "sw": [1, 0]}, "de"),
        answers(runs[2].id, {"en": [1, 1], "de": [1, 0], "sw": [0, 0]}, "de"),
        answers(runs[3].id, {"en": [0, 0], "de": [0, 1], "sw": [0, 0]}, "undecidable"),
    ]
    return curve(runs, language_scores(runs, pl.concat(tables)), "learning_rate")


def test_means_over_targets_then_seeds(table: pl.DataFrame) -> None:
    rows = {(row["method_name"], row["value"]): row for row in table.rows(named=True)}
    assert set(rows) == {("none", None), ("lora", 1e-3), ("lora", 1e-2)}
    low = rows["lora", 1e-3]
    assert (low["seeds"], low["targets"], low["n"]) == (2, 2, 8)
    assert low["score"] == pytest.approx((0.75 + 0.25) / 2)
    assert low["metric.correct_language"] == pytest.approx(0.5)  # German everywhere: right in German alone
    assert rows["none", None]["metric.in_source_language"] == 1.0
    assert rows["lora", 1e-2]["metric.undecidable_language"] == 1.0
    assert rows["lora", 1e-2]["metric.correct_language"] is None


def test_nothing_swept() -> None:
    runs = [run("none", None)]
    scores = language_scores(runs, answers(runs[0].id, {"en": [1], "de": [0]}, "en"))
    with pytest.raises(UserError, match=r"no run has a number for learning_rate"):
        curve(runs, scores, "learning_rate")


def test_the_chart_draws_every_rate(table: pl.DataFrame) -> None:
    chart = curves(table, "learning rate")
    spec = chart.to_dict()
    (row,) = spec["vconcat"]
    titles = [panel["layer"][0]["title"]["text"] for panel in row["hconcat"]]
    assert titles == [
        "exact match", "in the right language", "in the source language", "language not identified"
    ]  # fmt: skip
    values = spec["datasets"][row["hconcat"][0]["layer"][0]["data"]["name"]]
    assert {(value["method"], value["value"], value["percent"]) for value in values} == {
        ("lora", 1e-3, 50.0), ("lora", 1e-2, 25.0)
    }  # fmt: skip


def test_the_chart_becomes_a_picture(table: pl.DataFrame, tmp_path: Any) -> None:
    curves(table, "learning rate").save(tmp_path / "x.svg")
    assert "<svg" in (tmp_path / "x.svg").read_text()


def of(name: str, settings: dict[str, Any], train: dict[str, Any] | None, **changes: Any) -> RunRecord:
    """A run with settings of its method; a hash of everything stands for its id."""
    method = {"name": name, **settings}
    facts = run(name, None).entries() | {"method": method, "train": train, "label": f"{name} {settings}"}
    facts = {key: value for key, value in facts.items() if key not in ("record_version", "method_facts")}
    return as_record(facts | changes | {"id": f"{hash(str(facts | changes)) & 0xFFFFFFFF:x}"})


def scored(runs: list[RunRecord]) -> pl.DataFrame:
    tables = [
        answers(record.id, {"en": [1, 1], "de": [1, i % 2], "sw": [0, i % 2]}, "de")
        for i, record in enumerate(runs)
    ]
    return language_scores(runs, pl.concat(tables))


def test_every_swept_setting_is_found_and_only_those() -> None:
    fast = {"learning_rate": 1e-2, "steps": 10}
    runs = [
        run("none", None),
        *[of("prefix", {"length": n, "space": "kv"}, fast, seed=s) for n in (5, 10) for s in (0, 1)],
        *[of("lora", {"rank": r, "alpha": 2.0 * r}, fast) for r in (4, 8)],
        # Two setups that differ in two settings are not a sweep of either.
        of("soft-prompt", {"length": 10}, {"learning_rate": 1e-1, "steps": 10}),
        of("soft-prompt", {"length": 20}, {"learning_rate": 1e-2, "steps": 10}),
    ]  # fmt: skip
    assert swept(runs, scored(runs)) == ["length", "rank"]


def test_other_settings_keep_curves_apart() -> None:
    train = {"learning_rate": 1e-2}
    runs = [
        of("prefix", {"length": n, "space": space}, train) for space in ("kv", "hidden") for n in (5, 10)
    ] + [run("none", None), of("lora", {"rank": 4}, train)]
    scores = scored(runs)
    table = curve(runs, scores, "length")
    assert table.filter(pl.col("value").is_not_null()).select("line", "value").rows() == [
        ("prefix, space hidden", 5), ("prefix, space hidden", 10),
        ("prefix, space kv", 5), ("prefix, space kv", 10),
    ]  # fmt: skip
    # Without tuning there is a level to compare with; LoRA has no length and no place here.
    assert table.filter(pl.col("value").is_null())["line"].to_list() == ["none"]


def test_searched_learning_rates_are_results_and_not_settings() -> None:
    runs = [
        of("prefix", {"length": n}, {"learning_rate": rate}, search={"runs": [], "chosen": rate})
        for n, rate in ((5, 1e-2), (10, 1e-3))
    ]
    assert swept(runs, scored(runs)) == ["length"]
    assert curve(runs, scored(runs), "length")["line"].unique().to_list() == ["prefix"]


def test_layers_are_counted() -> None:
    whole = of("prefix", {"layers": None}, {}, model_layers=18)
    assert value_of(whole, "layers") == 18
    assert value_of(of("prefix", {"layers": None}, {}), "layers") is None
    assert value_of(of("prefix", {"layers": [0, 3]}, {}), "layers") == 2
    assert value_of(of("prefix", {"layers": 7}, {}), "layers") == 7


def test_a_curve_through_models() -> None:
    train = {"learning_rate": 1e-2}
    small, large = {"model": "x-270m", "model_parameters": 268_098_176}, {"model": "org/X-1B-base"}
    runs = [
        of(name, {}, entry, **model)
        for model in (small, large)
        for name, entry in (("none", None), ("lora", train))
    ]
    scores = scored(runs)
    assert swept(runs, scores) == ["model_parameters"]
    table = curve(runs, scores, "model_parameters")
    assert table["model"].to_list() == [None] * 4
    assert table.select("line", "value").rows() == [
        ("lora", 268_098_176), ("lora", 1e9), ("none", 268_098_176), ("none", 1e9)
    ]  # fmt: skip


def test_data_size_is_what_was_drawn() -> None:
    runs = [
        of("lora", {}, {"limit": limit, "epochs": 1, "steps": n // 10}, data={"train_examples": n})
        for limit, n in ((100, 100), (0.5, 480), (None, 960))
    ]
    scores = scored(runs)
    assert swept(runs, scores) == ["train_examples"]
    assert curve(runs, scores, "train_examples").select("line", "value").rows() == [
        ("lora", 100), ("lora", 480), ("lora", 960)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "size"),
    [("meta-llama/Llama-3.1-8B", 8e9), ("demo:gemma-3-270m", 270e6), ("Qwen3-0.6B", 0.6e9), ("mine", None)],
)
def test_the_size_in_a_name(model: str, size: float | None) -> None:
    assert value_of(of("lora", {}, {}, model=model), "model_parameters") == size
