"""Runs of a grid that share the states of frozen layers are the runs that each process makes alone."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from crosstune.running.runner import run_study
from crosstune.store.record import RunRecord
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from saved_model import study_of

TRAIN = {"epochs": 2, "batch_size": 4, "limit": 10}


def go(model: Path, store: Path, **changes: Any) -> dict[tuple[str, int], tuple[RunRecord, bytes]]:
    """Record and weights of each trained run, by label and seed."""
    study = Study(**study_of(model, store, **{"train": TRAIN | {"reuse_frozen_layers": True}} | changes))
    run_study(study, console=Console(file=io.StringIO()))
    created = {}
    for run in expand(study):
        record = RunRecord.read(store / run.id / "run.json")
        if record.trained_parameters:
            weights = (store / run.id / "weights.safetensors").read_bytes()
            created[record.label, record.seed] = record, weights
    return created


def test_runs_of_a_grid_are_those_made_alone(model: Path, tmp_path: Path) -> None:
    top, prompt = {"name": "lora", "layers": 1}, {"name": "prefix", "layers": 1, "length": 3}
    grid = go(model, tmp_path / "grid", methods=["none", top, prompt, "soft-prompt"], seeds=[0, 1])
    assert len(grid) == 6
    for (label, seed), (record, weights) in grid.items():
        reuse = record.cost.reuse
        assert record.train["reuse_frozen_layers"]
        if label == "soft-prompt":
            assert (reuse["layers"], reuse["why_not"]) == (0, "adapted from the lowest layer up")
            continue
        assert (reuse["layers"], reuse["texts_read"]) == (1, 20)
        assert reuse["texts_kept"] >= 10
        assert reuse["bytes"] > 0
        method = top if label.startswith("lora") else prompt
        ((alone, its_weights),) = go(
            model, tmp_path / f"{label}-{seed}", methods=[method], seeds=[seed]
        ).values()
        assert its_weights == weights
        assert alone.id == record.id
        assert alone.curve == record.curve


def test_the_second_method_of_a_seed_reads_nothing_new(model: Path, tmp_path: Path) -> None:
    methods = [{"name": "lora", "layers": 1}, {"name": "llama-adapter", "layers": 1}]
    first, second = (record.cost.reuse for record, _ in go(model, tmp_path, methods=methods).values())
    assert first["texts_kept"] == first["texts_read"] - 10
    assert second["texts_kept"] == second["texts_read"] == 20


def test_without_it_ids_and_records_are_as_they_were(model: Path, tmp_path: Path) -> None:
    methods = [{"name": "lora", "layers": 1}]
    ((plain, _),) = go(model, tmp_path, methods=methods, train=TRAIN).values()
    ((request, _),) = go(model, tmp_path, methods=methods).values()
    assert "reuse_frozen_layers" not in plain.train
    assert plain.cost.reuse is None
    assert plain.id != request.id
