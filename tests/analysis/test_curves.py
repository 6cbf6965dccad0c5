"""Curves over a swept setting: means over targets, seeds averaged, untuned runs beside them."""

from typing import Any

import polars as pl
import pytest

from crosstune.analysis.curves import curve
from crosstune.analysis.transfer import language_scores
from crosstune.errors import UserError
from crosstune.report.curves import curves


def run(name: str, rate: float | None, seed: int = 0) -> dict[str, Any]:
    run_id = f"{name}-{rate}-{seed}"
    return {
        "id": run_id, "model": "m", "label": name if rate is None else f"{name} lr {rate:g}", "seed": seed,
        "method": {"name": name}, "source_language": "en", "zero_shot": True, "trained_parameters": 1,
        "task": {"name": "words", "version": 1, "metrics": ["exact_match"], "options": {}},
        "train": None if rate is None else {"learning_rate": rate},
        "evaluate": {"choices": "first-token"}, "fingerprints": {"test": {"en": "a", "de": "b", "sw": "c"}},
        "languages": ["en", "de", "sw"],
    }  # fmt: skip


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
        answers(runs[0]["id"], {"en": [1, 1], "de": [0, 0], "sw": [0, 0]}, "en"),
        answers(runs[1]["id"], {"en": [1, 1], "de": [1, 1], "sw": [1, 0]}, "de"),
        answers(runs[2]["id"], {"en": [1, 1], "de": [1, 0], "sw": [0, 0]}, "de"),
        answers(runs[3]["id"], {"en": [0, 0], "de": [0, 1], "sw": [0, 0]}, "undecidable"),
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
    scores = language_scores(runs, answers(runs[0]["id"], {"en": [1], "de": [0]}, "en"))
    with pytest.raises(UserError, match=r"no run has a number for train\.learning_rate"):
        curve(runs, scores, "learning_rate")


def test_the_chart_draws_every_rate(table: pl.DataFrame) -> None:
    chart = curves(table, "learning rate")
    spec = chart.to_dict()
    (row,) = spec["vconcat"]
    titles = [panel["layer"][0]["title"]["text"] for panel in row["hconcat"]]
    assert titles == [
        "exact match", "in the right language", "in the source language", "language cannot be told"
    ]  # fmt: skip
    values = spec["datasets"][row["hconcat"][0]["layer"][0]["data"]["name"]]
    assert {(each["method"], each["value"], each["percent"]) for each in values} == {
        ("lora", 1e-3, 50.0), ("lora", 1e-2, 25.0)
    }  # fmt: skip


def test_the_chart_becomes_a_picture(table: pl.DataFrame, tmp_path: Any) -> None:
    curves(table, "learning rate").save(tmp_path / "x.svg")
    assert "<svg" in (tmp_path / "x.svg").read_text()
