"""Predictions lined up: against dictionaries, in any order of rows."""

import random
from typing import Any

import numpy as np
import polars as pl
import pytest

from crosstune.analysis.statistics.pairing import PairedPredictions, pair_predictions
from crosstune.analysis.transfer import language_scores
from crosstune.store.record import RunRecord
from records import as_record


def run(run_id: str, label: str, seed: int, languages: list[str], **changes: Any) -> RunRecord:
    facts = {
        "id": run_id,
        "model": "m",
        "label": label,
        "seed": seed,
        "method": {"name": label},
        "task": {"name": "toy", "version": 1, "metrics": ["accuracy"], "options": {}},
        "source_language": "en",
        "train": None,
        "trained_parameters": 1,
        "zero_shot": True,
        "dtype": "float32",
        "fingerprints": {"train": "t", "test": dict.fromkeys(languages, "d")},
    } | changes
    return as_record(facts)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rng = random.Random(0)
    collected = []
    for run_id, languages in {
        "r1": ["en", "de", "sw"],
        "r2": ["en", "de", "sw", "th"],
        "r3": ["de", "en", "sw"],
    }.items():
        for code in languages:
            for i in range(12):
                collected.append({"run": run_id, "language": code, "example": f"x{i}", "score": rng.random()})
    rng.shuffle(collected)
    return collected


def paired(rows: list[dict[str, Any]]) -> PairedPredictions:
    runs = [
        run("r1", "lora", 1, ["en", "de", "sw"]),
        run("r2", "lora", 0, ["en", "de", "sw", "th"]),
        run("r3", "none", 0, ["en", "de", "sw"]),
    ]
    table = pl.DataFrame(rows)
    (pairs,) = pair_predictions(language_scores(runs, table), table)
    return pairs


def test_every_score_is_at_its_place(rows: list[dict[str, Any]]) -> None:
    measured = paired(rows)
    value = {(r["run"], r["language"], r["example"]): r["score"] for r in rows}
    assert measured.languages == ["de", "en", "sw"]  # Thai was not asked of every run
    assert measured.targets == ["de", "sw"]
    assert measured.methods == ["lora", "none"]
    assert measured.seeds == {"lora": (0, 1), "none": (0,)}
    assert measured.seedless == {"none"}
    order = {"lora": ["r2", "r1"], "none": ["r3"]}
    for method, ids in order.items():
        for i, code in enumerate(measured.languages):
            for column in range(measured.offsets[i], measured.offsets[i + 1]):
                for row, run_id in enumerate(ids):
                    expected = value[run_id, code, measured.examples[column]]
                    assert measured.scores[method][row, column] == np.float32(expected)


def test_the_order_of_rows_does_not_matter(rows: list[dict[str, Any]]) -> None:
    one, other = paired(rows), paired(sorted(rows, key=str))
    np.testing.assert_array_equal(one.examples, other.examples)
    for method in one.methods:
        np.testing.assert_array_equal(one.scores[method], other.scores[method])


def test_only_examples_that_every_run_has(rows: list[dict[str, Any]]) -> None:
    # Same counts and no fingerprint that says otherwise, but not the same examples.
    changed = [
        row | {"example": "y"} if (row["run"], row["language"], row["example"]) == ("r1", "sw", "x3") else row
        for row in rows
    ]
    measured = paired(changed)
    swahili = measured.examples[measured.offsets[2] : measured.offsets[3]].tolist()
    assert "x3" not in swahili
    assert "y" not in swahili
    assert len(swahili) == 11


def test_comparisons_are_kept_apart(rows: list[dict[str, Any]]) -> None:
    runs = [
        run("r1", "lora", 1, ["en", "de", "sw"]),
        run("r2", "lora", 0, ["en", "de", "sw", "th"], model="n"),
        run("r3", "none", 0, ["en", "de", "sw"]),
    ]
    table = pl.DataFrame(rows)
    pairs = pair_predictions(language_scores(runs, table), table)
    assert [(entry.model, entry.methods) for entry in pairs] == [("m", ["lora", "none"]), ("n", ["lora"])]
    assert pairs[1].languages == ["de", "en", "sw", "th"]
