"""Nonsense in a model's own files is one line, before or while the model is loaded."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crosstune.errors import UserError
from crosstune.models.loading.load import load

UP = "model.layers.0.mlp.up_proj.weight"
CONFIGS: list[dict[str, Any]] = [
    {"hidden_size": 0},
    {"num_hidden_layers": -1},
    {"num_attention_heads": 0},
    {"vocab_size": -1},
    {"head_dim": 0},
    {"max_position_embeddings": 0},
    {"intermediate_size": "wide"},
    {"hidden_act": "nonsense"},
    {"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1e4}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 0}},
    {"dtype": 3},
    {"rms_norm_eps": float("nan")},
    {"text_config": 3},
    {"model_type": "\ud800"},
    {"model_type": ["llama"]},
    {"quantization_config": "x"},
]
OTHERS: list[tuple[str, Any]] = [
    ("generation_config.json", {"eos_token_id": "x"}),
    ("generation_config.json", {"eos_token_id": [[1]]}),
    ("generation_config.json", []),
    ("tokenizer_config.json", {"model_max_length": "x"}),
    ("tokenizer_config.json", {"tokenizer_class": 3}),
    ("tokenizer.json", {}),
]
WEIGHTS: list[tuple[Callable[[torch.Tensor], torch.Tensor], str]] = [
    (lambda weight: weight.index_fill(0, torch.tensor([3]), float("nan")), f"{UP} holds NaN or infinite"),
    (lambda weight: weight.index_fill(0, torch.tensor([3]), float("inf")), f"{UP} holds NaN or infinite"),
    (lambda weight: (weight * 100).to(torch.int8), f"{UP} is kept as I8, and config.json has no"),
    (lambda weight: weight.to(torch.float8_e4m3fn), f"{UP} is kept as F8_E4M3, and config.json"),
    (lambda weight: weight[:5].clone(), "cannot be loaded"),
]
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """The model in a folder that may be harmed."""
    return Path(shutil.copytree(model, tmp_path / "victim"))


def refused(folder: Path, says: str = "") -> None:
    """One line; whoever loads a model puts its name in front."""
    with pytest.raises(UserError) as caught:
        load(str(folder), device="cpu", dtype="float32")
    text = str(caught.value)
    assert text.isprintable()
    assert says in text


@pytest.mark.parametrize("change", CONFIGS, ids=str)
def test_a_config(change: dict[str, Any], copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text()) | change
    (copy / "config.json").write_text(json.dumps(content))
    refused(copy)


@pytest.mark.parametrize(("name", "change"), OTHERS, ids=str)
def test_other_settings(name: str, change: Any, copy: Path) -> None:
    before = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(before | change if change else change))
    refused(copy)


@pytest.mark.parametrize(("harm", "says"), WEIGHTS, ids=[says[-20:] for _, says in WEIGHTS])
def test_weights(harm: Callable[[torch.Tensor], torch.Tensor], says: str, copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {UP: harm(tensors[UP])}, copy / "model.safetensors", metadata={"format": "pt"})
    refused(copy, says)


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_among_its_files(name: str, copy: Path) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    refused(copy)
