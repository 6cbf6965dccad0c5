"""Models spread over two GPUs, and models in 4 or 8 bits: every method fits, trains and is taken off."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.geometry import geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.load import load
from crosstune.outputs.rows import TrainingRow
from crosstune.running.predict import predict
from crosstune.running.runner import run_study
from crosstune.store.store import read_runs
from crosstune.study.runs import expand
from crosstune.study.spec import Study, read_study
from crosstune.training.loop import train
from crosstune.training.objectives import answer_loss
from crosstune.training.settings import TrainSettings
from saved_model import save_model, study_of, write_study
from tiny_models import CASES, CONFIGS, TRAINED, collated, make_method, random_ids, tokenizer

HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
GPUS = torch.cuda.device_count()
needs_bitsandbytes = pytest.mark.skipif(not HAS_BITSANDBYTES, reason="needs the extra quantize")
ROWS = [TrainingRow(tuple(random_ids(7 + i, seed=i)), 2) for i in range(8)]


# --- spread over GPUs -------------------------------------------------------------------------------


def spread_lm(family: str) -> LanguageModel:
    """A model on two devices that are not there: PyTorch's fake tensors have shapes and devices, no numbers.

    Operations on tensors of two devices fail on them as they do on real ones. accelerate's own hooks move
    what goes from module to module; only its moving of the weights is done here, which it cannot do on fakes.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    class Hook(AlignDevicesHook):
        def init_hook(self, module: torch.nn.Module) -> torch.nn.Module:
            for part in module.modules():
                for name, tensor in part._parameters.items():
                    if tensor is not None:
                        part._parameters[name] = torch.nn.Parameter(tensor.to(self.execution_device), False)
                for name, tensor in part._buffers.items():
                    part._buffers[name] = None if tensor is None else tensor.to(self.execution_device)
            return module

    config = CONFIGS[family]()
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION)
    model.requires_grad_(False).eval()
    decoder, tied = model.model, config.tie_word_embeddings
    places = {
        decoder.embed_tokens: 0,
        decoder.rotary_emb: 0,
        decoder.norm: 1,
        model.lm_head: 0 if tied else 1,
    }
    for module, gpu in [*places.items(), *zip(decoder.layers, (0, 1, 1), strict=True)]:
        add_hook_to_module(module, Hook(execution_device=("cpu", "cpu:1")[gpu]))
    if tied:
        model.lm_head.weight = decoder.embed_tokens.weight
    return LanguageModel(
        model=model,
        tokenizer=tokenizer(),
        name=f"spread-{family}",
        revision="0",
        geometry=geometry_of(config),
    )


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (name, settings) in CASES.items()
        if METHODS[name].stacking != "once" and "stack" not in settings
    ],
)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_every_method_on_two_gpus(family: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But PEFT's, which puts tensors on each layer's own device in a way that fakes do not take."""
    # Fakes hold no numbers: what merging would lose cannot be measured.
    monkeypatch.setattr("crosstune.methods.adapters.ia3.lost", lambda weight, change: 1.0)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        lm = spread_lm(family)
        assert {str(lm.layer_device(i)) for i in range(3)} == {"cpu", "cpu:1"}
        # A cache's empty start is made on the wrong one of the fakes.
        method = make_method(case, **({"init": "random"} if CASES[case][1].get("space") == "kv" else {}))
        method.attach(lm, seed=3)
        batch = collated(ROWS[:3], lm.device, 1.0)
        assert str(answer_loss(lm, batch).device) == "cpu"
        with method.evaluating():
            ids = torch.ones(2, 5, dtype=torch.long, device=lm.device)
            hidden = lm.hidden(ids)
            assert str(hidden.device) == "cpu"
            assert str(lm.logits(hidden[0]).device) == "cpu"
            assert str(lm.logits(hidden[0], torch.tensor([3, 4], device="cpu")).device) == "cpu"
        method.detach()


def test_a_prompt_on_the_wrong_gpu_is_noticed() -> None:
    """The fake GPUs can fail: a prompt of layer 2 on the first GPU."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        lm = spread_lm("llama")
        method: Any = make_method("prefix-kv", init="random")
        method.attach(lm, seed=3)
        method.prompts[2] = torch.nn.Parameter(method.prompts[2].to("cpu"))
        with pytest.raises(Exception, match=r"same device|found two different devices"):
            lm.hidden(torch.ones(2, 5, dtype=torch.long, device=lm.device))


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
def test_two_gpus_give_what_one_gives(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "m"))
    lms = [
        load(folder, device="cuda", dtype="float32", device_map=device_map)
        for device_map in (None, "balanced")
    ]
    assert len({lms[1].layer_device(i) for i in range(2)}) == 2
    losses = []
    for lm in lms:
        method = make_method("prefix-hidden", layers=None)
        method.attach(lm, seed=3)
        losses.append([point["loss"] for point in train(method, ROWS, TrainSettings(steps=3)).curve])
        method.detach()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_map_of_one_device_changes_nothing(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "m"))
    ids = torch.arange(5)[None]
    plain, mapped = (
        load(folder, device="cpu", dtype="float32", device_map=device_map)
        for device_map in (None, {"": "cpu"})
    )
    assert torch.equal(plain.hidden(ids), mapped.hidden(ids))


def test_a_device_map_needs_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(save_model(tmp_path / "m"))
    with pytest.raises(UserError, match=r"device_map: auto spreads a model over GPUs, and device is cpu"):
        load(folder, device="cpu", device_map="auto")
    with pytest.raises(UserError, match=r'device_map: "balance"; did you mean "balanced"\?'):
        load(folder, device="cpu", device_map="balance")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'device_map needs accelerate: pip install "crosstune\[spread\]"'):
        load(folder, device="cpu", device_map="auto")


# --- 4 and 8 bits -----------------------------------------------------------------------------------


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", ["4bit", pytest.param("8bit", marks=pytest.mark.slow)])
def test_every_method_trains_on_packed_weights(bits: str, tmp_path: Path) -> None:
    lm = load(str(save_model(tmp_path / "m")), device="cpu", dtype="float32", quantize=bits)
    assert lm.quantized
    ids = torch.tensor([random_ids(9)])
    with torch.no_grad():
        before = lm.hidden(ids)
    rows = [TrainingRow(tuple(random_ids(7 + i, seed=i)), 2) for i in range(4)]
    refused: dict[str, bool] = {}
    for case in TRAINED:
        changes = {"layers": None} if "layers" in CASES[case][1] else {}
        method = make_method(case, **changes)
        try:
            method.attach(lm, seed=3)
        except UserError as error:
            refused[case] = str(error).startswith(f"{method.name}: quantised weights")
            continue
        assert not method.trains_weights
        assert all(p.dtype == torch.float32 for p in method.parameters().values()), case
        assert sum(p.numel() for p in method.parameters().values()) == method.count(
            method.config, lm.geometry
        )
        curve = train(method, rows, TrainSettings(steps=8, batch_size=4, learning_rate=1e-2)).curve
        assert curve[-1]["loss"] < curve[0]["loss"], case
        method.detach()
        # The same from the start, activations computed anew in the backward pass.
        method.attach(lm, seed=3)
        settings = TrainSettings(steps=8, batch_size=4, learning_rate=1e-2, gradient_checkpointing=True)
        again = train(method, rows, settings).curve
        assert [p["loss"] for p in again] == pytest.approx([p["loss"] for p in curve], rel=1e-4), case
        with torch.no_grad():
            plain = lm.hidden(ids)
            with method.evaluating():
                # Not merged: rounding to a few bits again would lose what was trained.
                torch.testing.assert_close(lm.hidden(ids), plain)
        method.detach()
        with torch.no_grad():
            assert torch.equal(lm.hidden(ids), before), case
    assert all(refused.values())
    assert len(refused) < len(TRAINED) / 2


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_packed_weights_are_near_the_plain_ones(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "m"))
    ids = torch.tensor([random_ids(9)])
    with torch.no_grad():
        plain = load(folder, device="cpu", dtype="float32").hidden(ids)
        gaps = [
            float(
                (load(folder, device="cpu", dtype="float32", quantize=bits).hidden(ids) - plain).norm()
                / plain.norm()
            )
            for bits in ("8bit", "4bit")
        ]
    assert 0 < gaps[0] < gaps[1] < 0.2


def test_without_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(save_model(tmp_path / "m"))
    with pytest.raises(UserError, match=r'quantize: "4"; known: 4bit, 8bit'):
        load(folder, device="cpu", quantize="4")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(
        UserError, match=r'quantize: 4bit needs bitsandbytes: pip install "crosstune\[quantize\]"'
    ):
        load(folder, device="cpu", quantize="4bit")


# --- in a study -------------------------------------------------------------------------------------


def test_bits_make_another_run_and_places_do_not(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m")

    def ids(**changes: Any) -> list[str]:
        return [run.id for run in expand(Study(**study_of(model, tmp_path / "s", **changes)))]

    assert ids() == ids(device_map="auto")
    assert len({*ids(), *ids(quantize="4bit"), *ids(quantize="8bit")}) == 9
    full = study_of(model, tmp_path / "s", methods=["lora", "full"], quantize="4bit")
    with pytest.raises(UserError, match=r"study.yaml:\d+: full cannot train quantised weights"):
        read_study(write_study(tmp_path / "study.yaml", full))


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_a_study_in_4_bits(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m")
    spec = study_of(model, tmp_path / "s", tasks=["number-words"], methods=["lora"], quantize="4bit")
    run_study(Study(**spec), console=Console(file=io.StringIO()))
    run = read_runs(tmp_path / "s")[0]
    assert (run.quantize, run.device_map) == ("4bit", None)
    assert predict(tmp_path / "s" / run.id, "17", device="cpu").prompt
