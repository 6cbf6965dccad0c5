"""Runs of a study and their ids: equal exactly when the result would be."""

from pathlib import Path
from typing import Any

import pytest

from crosstune.study import runs as grid
from crosstune.study.entries import labels
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from saved_model import study_of


def ids(folder: Path, **changes: Any) -> dict[str, str]:
    """Run ids by label."""
    return {run.label: run.id for run in expand(Study(**(study_of(folder, Path("s")) | changes)))}


def test_untrained_methods_come_first(model: Path) -> None:
    assert list(ids(model)) == ["none", "few-shot k 2", "lora"]


def test_ids_do_not_move_between_processes_and_versions() -> None:
    """If this fails, every finished run of every user will be made again: only ever on purpose."""
    changes = {"model": "demo:gemma-3-270m", "methods": ["none", {"name": "few-shot", "k": 4}]}
    assert ids(Path(), **changes) == {"none": "41aa0f60d2fed186", "few-shot": "b1f0f1983cdc4150"}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"store": "elsewhere"},
        {"languages": ["ru", "de", "en"]},
        {"methods": ["lora", {"name": "few-shot", "k": 2}, "none", "prefix"]},
        {"train": {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}},  # LoRA's own default
    ],
    ids=str,
)
def test_what_decides_nothing_is_not_in_the_id(model: Path, changes: dict[str, Any]) -> None:
    assert ids(model).items() <= ids(model, **changes).items()


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"train": {"steps": 4, "batch_size": 4}}, ["lora"]),
        ({"seeds": [1]}, ["lora", "few-shot k 2"]),
        ({"evaluate": {"limit": 5, "max_answer_tokens": 4}}, ["lora", "few-shot k 2", "none"]),
        ({"languages": ["de"]}, ["lora", "few-shot k 2", "none"]),
        ({"dtype": "bfloat16"}, ["lora", "few-shot k 2", "none"]),
        ({"model": "demo:gemma-3-270m"}, ["lora", "few-shot k 2", "none"]),
    ],
    ids=str,
)
def test_what_decides_the_result_is_in_the_id(model: Path, changes: dict[str, Any], moved: list[str]) -> None:
    before, after = ids(model), ids(model, **changes)
    assert {label for label in before if before[label] != after[label]} == set(moved)


def test_another_version_of_results_has_other_ids(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids(model)
    monkeypatch.setattr(grid, "RESULT_VERSION", grid.RESULT_VERSION + 1)
    assert not set(before.values()) & set(ids(model).values())


def test_a_method_that_draws_nothing_runs_once(model: Path) -> None:
    runs = expand(Study(**study_of(model, Path("s"), seeds=[3, 4])))
    assert [(run.label, run.seed) for run in runs] == [
        ("none", 3),
        ("few-shot k 2", 3),
        ("few-shot k 2", 4),
        ("lora", 3),
        ("lora", 4),
    ]


def test_labels_say_what_differs_and_are_unique() -> None:
    study = Study(
        name="x",
        model="demo:gemma-3-270m",
        tasks=["cldr-names"],
        methods=[
            "prefix",
            {"name": "prefix", "space": "kv"},
            {"name": "prefix", "layers": [0, 1], "init": "random"},
            {"name": "lora", "rank": 8, "train": {"learning_rate": 3e-3}},
            {"name": "lora", "train": {"learning_rate": 1e-3}},
            {"name": "bottleneck", "invertible": True},
            {"name": "prefix", "init_text": "a long beginning, the same in both"},
            {"name": "prefix", "init_text": "a long beginning, the same in the two"},
        ],
    )
    assert labels(study.methods) == [
        "prefix",
        "prefix kv",
        "prefix layers 0,1 random",
        "lora rank 8 lr 0.003",
        "lora",
        "bottleneck invertible",
        "prefix init text a long beginning, the... (1)",
        "prefix init text a long beginning, the... (2)",
    ]
