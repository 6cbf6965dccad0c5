"""benchmarks/gpu.py on a tiny shape on the CPU: every row runs, and both sides give the same answers."""

import importlib
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers.models.llama import modeling_llama as llama

from crosstune.models.attention import gpu_line
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.fast import kernels, remade
from crosstune.models.proof import FastWay

BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
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
    if not BITSANDBYTES:
        assert "needs bitsandbytes" in results.pop("train-full-8bit")["not_installed"]
    for name, result in results.items():
        assert result["passed"], name
        if not name.startswith("decode"):  # two times, one taken off the other: tiny ones say nothing
            assert min(result["tokens_per_second"].values()) > 0
            assert 0 < result["share_of_floor"] < 1
        assert result["machine"]["versions"]["torch"] == importlib.metadata.version("torch")
    assert results["decode-graphs"]["work"]["recorded"] is False
    assert results["decode-cache"]["work"] == {"tokens": 80, "cache": 16384, "cache_as_set": 16384}
    assert results["score-passages"]["work"]["tokens"] > 4 * 24 * 5 / 2
    compared = [n for n, r in results.items() if r["answers"]["figures"]]
    assert set(compared) >= {"train-soft-prompt", "train-prefix-kv", "train-llama-adapter", "train-lora"}
    assert results["decode-8"]["answers"]["text"].startswith("2 of 2 answers the same")


@pytest.mark.filterwarnings("ignore")
def test_checkpointing_in_16_bits(gpu, tmp_path):
    run, _ = gpu
    code, results = run(
        tmp_path, "train-prefix-kv", "train-lora", "decode-8", "--checkpointing", "--dtype", "bfloat16"
    )
    assert code == 0
    decoding = {"decode-8", "decode-8-static", "decode-8-2048"}
    assert set(results) == decoding | {"train-prefix-kv", "train-lora", "train-lora-packed"}
    assert "PEFT refuses it" in results["train-prefix-kv"]["title"]


def test_a_wrong_answer_fails(gpu, tmp_path, monkeypatch):
    """A side that computes something else is noticed, and so is a row that does not exist."""
    run, _ = gpu
    rows = importlib.import_module("gpu_evaluation")
    monkeypatch.setattr(
        rows, "score_choices", lambda lm, items, settings, passes: [[-1.4] * 4 for _ in items]
    )
    code, results = run(tmp_path, "score", "--dtype", "float32")
    assert code == 1
    assert not results["score"]["passed"]
    assert run(tmp_path, "scores")[0] == 2


def test_one_row_that_fails_is_not_the_end(gpu, tmp_path, monkeypatch):
    """One that raises, one out of memory, one that cannot fit: each says why, and the next one runs."""
    run, module = gpu

    def raises(error):
        def build(bench):
            raise error

        return build

    monkeypatch.setitem(module.ROWS, "train-full", raises(AssertionError("was tried")))
    monkeypatch.setitem(module.ROWS, "prefix-mask", raises(ValueError("no such kernel\nand more")))
    monkeypatch.setitem(module.ROWS, "packing", raises(torch.OutOfMemoryError("CUDA out of memory. Tried")))
    monkeypatch.setattr(
        module.gpu_memory, "does_not_fit", lambda need, total: need.optimiser and "needs too much"
    )
    rows = ("train-full", "prefix-mask", "packing", "score")
    code, results = run(tmp_path, *rows, "--dtype", "float32")
    assert code == 1
    assert list(results["train-full"]["does_not_fit"].values()) == ["needs too much"] * 2
    assert "ValueError: no such kernel" in results["prefix-mask"]["error"]
    assert results["packing"]["out_of_memory"] == "CUDA out of memory. Tried"
    assert [results[row]["passed"] for row in rows] == [True, False, True, True]
    assert results["score"]["ratio"] > 0


def test_nothing_is_begun_when_time_is_over(gpu, tmp_path, capsys):
    run, _ = gpu
    code, results = run(tmp_path, "score", "grid", "--minutes", "0")
    assert (code, results) == (0, {})
    assert "grid: not begun, 0 minutes are over" in capsys.readouterr().out


def test_every_variant_is_a_process_of_its_own(gpu, tmp_path, monkeypatch):
    run, module = gpu
    commands = []

    def note(command, check):
        commands.append(command[2:])
        return module.subprocess.CompletedProcess(command, len(commands) == 2)

    monkeypatch.setattr(module.subprocess, "run", note)
    assert run(tmp_path, "--all", "--minutes", "10")[0] == 1
    assert len(commands) == 5
    assert not any("--all" in command for command in commands)
    assert commands[1][:4] == ["train-lora", "train-prefix-kv", "--quantize", "4bit"]
    # The last --minutes counts: 6 of 10, and what is left of them, for nothing took time here.
    assert [command[-2:] for command in commands[:2]] == [["--minutes", "6.00"], ["--minutes", "3.00"]]
    assert commands[4][-1] == "10.00"


def test_what_fits_a_card(gpu, tmp_path, capsys):
    """8B: LoRA fits 80 GB; full fine-tuning over fp32 does not, in 8 bits it does, and 4 bits fit 24 GB."""
    run, module = gpu
    options = module.Options(False, 8, 512, 3, 5)
    shape = module.SHAPES["8b"]
    rows = ("lora", "full", "full-8bit", "full-adafactor")
    lora, full, *small = (module.needs(f"train-{name}", options, shape, 2, None) for name in rows)
    assert all(need.whole < 80e9 for need in lora.values())
    assert lora["ours"].activations < lora["theirs"].activations
    assert "before any activation" in module.gpu_memory.does_not_fit(full["ours"], 80e9)
    assert full["theirs"].whole > 80e9
    # Weights, their gradients, moments in 8 bits or none; activations in bf16, once for every product.
    assert [need["ours"].least for need in small] == [shape.parameters * size for size in (2 + 2 + 2, 2 + 2)]
    assert all(need["ours"].whole < 0.95 * 80e9 for need in small)
    # Weights, fp32 masters, two moments and a gradient of them, and the model's own gradient.
    assert full["ours"].least == shape.parameters * (2 + 4 + 8 + 4 + 2)
    quantized = module.needs("train-lora", module.Options(True, 8, 512, 3, 5), shape, 2, "4bit")
    assert quantized["ours"].whole < 24e9 < lora["ours"].whole
    assert run(tmp_path, "--plan")[0] == 0
    assert "lora" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["prefix", "lora", "full"])
@pytest.mark.parametrize("fused", [True, False])
def test_activations_of_8b_are_those_that_its_layer_keeps(gpu, monkeypatch, method, fused):
    """Counted on the meta device: a layer of 8B's own modules, 4,096 tokens, a flash kernel."""
    _, module = gpu
    config = importlib.import_module("random_model").llama_config("8b")
    config._attn_implementation = IMPLEMENTATION
    monkeypatch.setattr(kernels, "compiled", lambda function: function)
    monkeypatch.setattr(FastWay, "trusted", lambda *args: fused)
    sizes = {}
    with torch.device("meta"), importlib.import_module("gpu_passes").uncounted_attention():
        mask = gpu_line.VarlenBatch((4096,), device=torch.device("meta")).mask(None)
        layer = llama.LlamaDecoderLayer(config, 0).bfloat16().requires_grad_(method == "full")
        x, cos, sin = (torch.empty(1, 4096, n, dtype=torch.bfloat16) for n in (4096, 128, 128))
        x.requires_grad_()
        alive = [x, cos, sin, *layer.parameters()]
        ours = {p.untyped_storage()._cdata for p in alive[1:]}

        def keep(saved):
            packed = remade._pack(saved)
            for one in [packed[0]] if isinstance(packed[0], torch.Tensor) else packed[0].args:
                if isinstance(one, torch.Tensor):
                    alive.append(one)
                    sizes[one.untyped_storage()._cdata] = one.untyped_storage().nbytes()
            return packed

        def note(module, args):
            keep(args[0])

        for name in ("q_proj", "v_proj") if method == "lora" else ():
            # What LoRA keeps of a projection: its input, and an inner product that is small.
            getattr(layer.self_attn, name).register_forward_pre_hook(note)
        layer.device = x.device
        with (
            kernels.fused_kernels(layer, torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(keep, remade._unpack),
        ):
            layer(x, attention_mask=mask, position_embeddings=(cos, sin))
    counted = sum(size for storage, size in sizes.items() if storage not in ours)
    shape = module.SHAPES["8b"]
    need = module.gpu_memory.training(
        shape,
        method,
        "ours",
        tokens=4096,
        answers=0,
        itemsize=2,
        quantize=None,
        checkpointing=False,
        fused=fused,
    )
    assert counted * shape.layers == pytest.approx(need.activations, rel=1e-3)


def test_passes_over_memory_of_8b(gpu):
    """As docs name them: with LoRA, and what LoRA adds; nothing is copied or cast but small numbers."""
    module = importlib.import_module("gpu_passes")
    (forward, backward), plain = module.passes(), module.passes(lora=False)
    assert [round(side.total() / 1000) for side in (forward, backward)] == [226, 374]
    assert [round(side.total() / 1000) for side in plain] == [189, 288]
    assert max(side[name] for side in (forward, backward) for name in ("aten._to_copy", "aten.clone")) < 100
