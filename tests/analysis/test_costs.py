"""What runs cost, summed."""

from typing import Any

import pytest

from crosstune.analysis.costs import costs, total
from crosstune.store.record import RunRecord
from records import as_record


def run(label: str = "lora", kind: str = "result", **cost: Any) -> RunRecord:
    return as_record({"id": "x", "task": {"name": "t"}, "label": label, "kind": kind, "cost": cost})


def test_runs_of_a_method_are_summed() -> None:
    runs = [
        run(kind="search", train_seconds=5.0, train_tokens=50),
        run(train_seconds=1.0, evaluate_seconds=2.0, train_tokens=10, test_tokens=7, peak_memory_bytes=5),
        run(train_seconds=2.0, evaluate_seconds=2.5, train_tokens=20, peak_memory_bytes=9, resumed=2),
        run("none", evaluate_seconds=1.0, load_seconds=3.0, halvings=1),
    ]
    rows = {(row["method"], row["kind"]): row for row in costs(runs).rows(named=True)}
    assert list(rows) == [("lora", "search"), ("lora", "result"), ("none", "result")]
    lora = rows["lora", "result"]
    assert (lora["runs"], lora["train_seconds"], lora["evaluate_seconds"]) == (2, 3.0, 4.5)
    assert (lora["train_tokens"], lora["test_tokens"], lora["peak_memory_bytes"]) == (30, 7, 9)
    assert (lora["resumed"], lora["halvings"]) == (2, 0)
    assert rows["none", "result"]["train_seconds"] is None
    everything = total(costs(runs))
    assert (everything["runs"], everything["train_seconds"], everything["train_tokens"]) == (4, 8.0, 80)
    assert (everything["load_seconds"], everything["halvings"], everything["resumed"]) == (3.0, 1, 2)


def test_energy_nobody_told_is_not_nought() -> None:
    assert costs([run(energy_joules=None), run()])["energy_joules"].to_list() == [None]
    assert costs([run(energy_joules=2.5), run()])["energy_joules"].to_list() == [2.5]


def test_training_taken_over_from_a_search_counts_once() -> None:
    runs = [
        run(kind="search", train_seconds=5.0, train_tokens=50),
        run(train_seconds=5.0, train_tokens=50, train_from="0123456789abcdef", evaluate_seconds=1.0),
    ]
    assert total(costs(runs))["train_seconds"] == pytest.approx(5.0)
    assert total(costs(runs))["train_tokens"] == 50
