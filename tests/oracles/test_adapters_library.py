"""Same logits as the `adapters` library's own modules, given the same weights: what it computed is stored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from crosstune.exporting.library import reduction_factor, write_library_form
from crosstune.methods import METHODS
from crosstune.methods.adapters import inserted
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.geometry import geometry_of
from crosstune.models.language_model import LanguageModel
from tiny_models import DEVICE, all_logits, near, random_ids, shake

# Made by adapters_library.py, beside it.
FILE = Path(__file__).parent / "adapters_library.safetensors"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "houlsby": ("bottleneck", {"placement": "houlsby", "width": "d/4"}),
    "pfeiffer": ("bottleneck", {"placement": "pfeiffer", "width": 4}),
    "parallel": ("bottleneck", {"placement": "parallel"}),
    "learned": (
        "bottleneck",
        {"placement": "parallel", "width": 4, "scale": "learned", "activation": "gelu"},
    ),
    "compacter": ("compacter", {"placement": "houlsby", "width": "d/4"}),
    "compacter++": ("compacter", {"placement": "pfeiffer", "width": 4}),
}


STACKS = {"mad-x": "pfeiffer", "mad-x-houlsby": "houlsby"}


@pytest.fixture(scope="module")
def stored() -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and facts."""
    with safe_open(FILE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def under(tensors: dict[str, Any], start: str) -> dict[str, Any]:
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}


@pytest.fixture
def lm(stored: Any) -> LanguageModel:
    """The library's Llama."""
    tensors, about = stored
    config = LlamaConfig(**json.loads(about["sizes"]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION).eval()
    model.load_state_dict(under(tensors, "model."))
    model.requires_grad_(False).to(DEVICE)
    return LanguageModel(model, None, "tiny", "0", geometry_of(config))


@pytest.mark.parametrize("case", CASES)
def test_the_library_s_modules(stored, lm, case):
    tensors, about = stored
    name, settings = CASES[case]
    method = METHODS[name](METHODS[name].Config(**settings))
    method.attach(lm)
    state, ids = under(tensors, f"{case}."), json.loads(about["ids"])
    wanted = state.pop("logits")
    assert (all_logits(lm, ids).cpu() - wanted).abs().max() > 0.1
    method.load_state(state)
    near("bottleneck = adapters library", all_logits(lm, ids), wanted)


@pytest.mark.parametrize("case", CASES)
def test_written_as_the_library_writes(stored, lm, tmp_path, case):
    """The same settings, names and values, under another name of the adapter."""
    tensors, about = stored
    name, settings = CASES[case]
    method: Any = METHODS[name](METHODS[name].Config(**settings))
    method.attach(lm)
    state = under(tensors, f"{case}.")
    del state["logits"]
    method.load_state(state)
    write_library_form(method, lm, tmp_path)
    theirs = json.loads(about["written"])[case]
    names = theirs.pop("names")
    ours = json.loads((tmp_path / "adapter_config.json").read_text())
    assert ours.pop("name") == "crosstune"
    assert ours.pop("model_name") == "tiny"
    assert ours == {key: value for key, value in theirs.items() if key not in ("name", "model_name")}
    written = load_file(tmp_path / "adapter.safetensors")
    assert sorted(key.replace(".crosstune.", ".it.").replace(".crosstune", ".it") for key in written) == names
    values = list(state.values())
    for key, x in written.items():
        assert any(x.shape == y.shape and torch.equal(x, y) for y in values), key


def test_every_width_is_the_library_s() -> None:
    for hidden in (64, 640, 2048, 4096):
        assert all(int(hidden // reduction_factor(hidden, width)) == width for width in range(1, hidden + 1))


@pytest.mark.parametrize("case", STACKS)
def test_a_task_adapter_over_a_language_adapter(stored, lm, case):
    """MAD-X, with the invertible adapter and its inverse; the library has this residual alone."""
    tensors, about = stored
    settings = {"placement": STACKS[case], "width": "d/4", "activation": "relu"}
    method: Any = METHODS["mad-x"](METHODS["mad-x"].Config(**settings))
    method.uses, method.weights = {"sw": "sw"}, {"sw": under(tensors, f"{case}.language.")}
    method.attach(lm)
    ids, wanted = json.loads(about["ids"]), tensors[f"{case}.logits"]
    with lm.adaptation.for_language("sw"):
        assert (all_logits(lm, ids).cpu() - wanted).abs().max() > 0.1
        method.load_state(under(tensors, f"{case}.it."))
        near("mad-x = adapters library", all_logits(lm, ids), wanted)
    method.detach()


def test_wide_adapters_in_16_bits(tiny_lm, monkeypatch):
    """In the model's dtype they start at the base model too, and are what fp32 gives but for rounding."""
    lm, ids = tiny_lm("gemma3", torch.bfloat16), random_ids(9)
    plain = all_logits(lm, ids)
    method = METHODS["bottleneck"](METHODS["bottleneck"].Config(width=inserted.NARROW, sublayers="both"))
    method.attach(lm)
    assert torch.equal(all_logits(lm, ids), plain)
    shake(method, scale=0.05)
    wide = all_logits(lm, ids)
    monkeypatch.setattr(inserted, "NARROW", 1000)
    assert not torch.equal(all_logits(lm, ids), wide)
    near("wide adapters in bf16 = in fp32", wide, all_logits(lm, ids), 0.1)
