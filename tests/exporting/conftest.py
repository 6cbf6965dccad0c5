"""A store of trained methods that all tests of this folder write out."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crosstune.running.runner import run_study
from crosstune.store import store as stored
from crosstune.store.record import RunRecord
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from saved_model import save_model, study_of

METHODS: dict[str, Any] = {
    "lora": {"name": "lora", "rank": 3, "alpha": 5.0, "target_modules": "all-linear", "layers": [1]},
    "soft prompt": {"name": "soft-prompt", "length": 3},
    "hidden prefix": {"name": "prefix", "length": 3},
    "kv prefix": {"name": "prefix", "length": 3, "space": "kv"},
    "llama-adapter": {"name": "llama-adapter", "length": 4, "gate": "layer", "layers": 1},
    "ia3": {"name": "ia3"},
    "dora": {"name": "peft", "type": "DORA", "r": 3},
    "vera": {"name": "peft", "type": "VERA", "r": 3},
    "oft": {"name": "peft", "type": "OFT", "r": 0, "oft_block_size": 8},
    "norms": {"name": "peft", "type": "LN_TUNING"},
    "full": {"name": "full"},
    "gate a head": {"name": "llama-adapter", "length": 4},
    "bottleneck": {"name": "bottleneck", "width": 4},
    "invertible": {"name": "bottleneck", "width": 4, "invertible": True},
    "none": {"name": "none"},
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, RunRecord]]:
    """By the names of `METHODS`, a finished run's folder and its record."""
    store = tmp_path_factory.mktemp("exported") / "store"
    train = {"steps": 2, "batch_size": 4, "learning_rate": 0.05, "warmup_steps": 0}
    spec = Study(**study_of(model, store, methods=list(METHODS.values()), train=train, languages=["de"]))
    run_study(spec, console=Console(file=io.StringIO()))
    by_id = {run.id: run for run in stored.read_runs(store)}
    # Untrained ones are made first.
    names = sorted(METHODS, key=lambda name: name != "none")
    ordered = [by_id[run.id] for run in expand(spec)]
    return {name: (store / run.id, run) for name, run in zip(names, ordered, strict=True)}
