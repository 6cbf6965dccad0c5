"""benchmarks/gpu.py on a tiny shape on the CPU: every row runs, and both sides give the same answers."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = ["--shape", "tiny", "--device", "cpu", "--batch", "2", "--length", "24", "--steps", "3"]
TINY += ["--rounds", "1", "--new-tokens", "5"]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("gpu")
    # The machine's rates are still measured, on sizes that take no time.
    machine = importlib.import_module("machine")
    monkeypatch.setattr(machine, "SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(machine, "COPIED", 2**20)

    def run(out, *options):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *options, *TINY, "--out", str(out)])
        code = module.main()
        return code, {r["row"]: r for r in (json.loads(file.read_text()) for file in out.glob("*.json"))}

    return run, module


@pytest.mark.filterwarnings("ignore")
def test_every_row(gpu, tmp_path):
    run, module = gpu
    code, results = run(tmp_path, "--dtype", "float32")
    assert code == 0
    assert set(results) == set(module.NAMES)
    for name, result in results.items():
        assert result["passed"], name
        assert min(result["tokens_per_second"].values()) > 0
        assert 0 < result["share_of_floor"] < 1
        assert result["machine"]["versions"]["torch"] == torch.__version__
    compared = [n for n, r in results.items() if r["answers"]["figures"]]
    assert set(compared) >= {"train-soft-prompt", "train-prefix-kv", "train-llama-adapter", "train-lora"}
    assert results["decode"]["answers"]["text"].startswith("2 of 2 answers the same")


@pytest.mark.filterwarnings("ignore")
def test_checkpointing_in_16_bits(gpu, tmp_path):
    run, _ = gpu
    code, results = run(
        tmp_path, "train-prefix-kv", "train-lora", "decode", "--checkpointing", "--dtype", "bfloat16"
    )
    assert code == 0
    assert set(results) == {"train-prefix-kv", "train-lora", "decode", "decode-static", "decode-graphs"}
    assert "PEFT refuses it" in results["train-prefix-kv"]["title"]


def test_a_wrong_answer_fails(gpu, tmp_path, monkeypatch):
    """A side that computes something else is noticed, and so is a row that does not exist."""
    run, _ = gpu
    rows = importlib.import_module("gpu_evaluation")
    monkeypatch.setattr(rows, "score_choices", lambda lm, items, settings: [[-1.4] * 4 for _ in items])
    code, results = run(tmp_path, "score", "--dtype", "float32")
    assert code == 1
    assert not results["score"]["passed"]
    assert run(tmp_path, "scores")[0] == 2
