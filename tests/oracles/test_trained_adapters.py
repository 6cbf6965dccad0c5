"""A trained folder of PEFT's computes here what it computes there; what does not fit is refused in a line."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.models.geometry import geometry_of
from crosstune.study.spec import read_study
from saved_model import save_model
from tiny_models import CONFIGS, WINDOW, all_logits, near, random_ids, row, tiny_model

LINEAR = ["q_proj", "v_proj", "down_proj"]
ALL_LINEAR = [*LINEAR, "k_proj", "o_proj", "gate_proj", "up_proj"]
FOLDERS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=ALL_LINEAR, layers_to_transform=[0, 2]),
    "patterns": lambda: peft.LoraConfig(
        r=3,
        use_rslora=True,
        target_modules=r".*\.[12]\.(self_attn\.[qv]_proj|mlp\.up_proj)",
        rank_pattern={"q_proj": 2},
        alpha_pattern={"v_proj": 7},
    ),
    "dora": lambda: peft.LoraConfig(r=3, use_dora=True, target_modules=LINEAR),
    "vera": lambda: peft.VeraConfig(r=3, target_modules=["q_proj"]),
    "loha": lambda: peft.LoHaConfig(r=3, target_modules=LINEAR),
    "ia3": lambda: peft.IA3Config(target_modules=LINEAR, feedforward_modules=["down_proj"]),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "adalora": lambda: peft.AdaLoraConfig(init_r=3, target_r=2, total_step=10, target_modules=LINEAR),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3),
    "p-tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3),
    "projected": lambda: peft.PrefixTuningConfig(
        num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8
    ),
    "adaption": lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2),
}
IDS = random_ids(WINDOW - 3)  # PEFT's own cache forgets a prefix past a sliding window


def saved(kind: str, family: str, folder: Path) -> Any:
    """PEFT's model with weights that matter, and its folder."""
    config = FOLDERS[kind]()
    config.task_type = "CAUSAL_LM"
    model: Any = peft.get_peft_model(tiny_model(family, torch.float32, 0, "sdpa"), config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
                parameter.add_(0.3 * noise)
    model.save_pretrained(folder)
    return model


def adapter(folder: Path, **settings: Any) -> Any:
    return METHODS["adapter"](METHODS["adapter"].Config(path=str(folder), **settings))


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_the_logits_are_peft_s(tiny_lm, tmp_path, family, kind):
    if kind == "adaption" and family != "llama":
        pytest.skip("PEFT has it for Llama, and for heads of hidden / heads")
    wanted = saved(kind, family, tmp_path)(
        input_ids=row(IDS), attention_mask=torch.ones_like(row(IDS))
    ).logits[0, -len(IDS) :]
    lm = tiny_lm(family)
    plain = all_logits(lm, IDS)
    method = adapter(tmp_path)
    method.attach(lm)
    near(f"PEFT folder, {kind}", all_logits(lm, IDS), wanted)
    assert (all_logits(lm, IDS) - plain).abs().max() > 0.01
    with method.evaluating():
        near(f"PEFT folder, {kind}, evaluated", all_logits(lm, IDS), wanted)
    assert not method.trains
    assert ("leaves sliding layers" in method.remark) == (
        kind in ("prefix", "projected") and family == "gemma3"
    )
    tensors = load_file(tmp_path / "adapter_model.safetensors").values()
    assert method.trained_parameters() == sum(x.numel() for x in tensors)
    method.detach()
    assert torch.equal(all_logits(lm, IDS), plain)


@pytest.mark.parametrize(
    ("kind", "model", "wrong"),
    [
        ("lora", {"num_hidden_layers": 2}, "belongs to no layer of this model's"),
        ("dora", {"num_hidden_layers": 4}, "and this model has such a layer"),
        ("lora", {"intermediate_size": 80}, "copying a param with shape"),
        ("prefix", {"num_hidden_layers": 2}, "192 numbers a token, the model has 128"),
        ("prompt", {"hidden_size": 32}, "prompt is (3, 64), this model wants (3, 32)"),
    ],
)
def test_an_adapter_of_another_model(tiny_lm, tmp_path, kind, model, wrong):
    saved(kind, "llama", tmp_path)
    lm = tiny_lm("llama", **model)
    plain = all_logits(lm, IDS)
    with pytest.raises(UserError) as error:
        adapter(tmp_path).attach(lm)
    assert wrong in str(error.value)
    assert "\n" not in str(error.value)
    assert lm.adaptation.parts == []
    assert torch.equal(all_logits(lm, IDS), plain)


@pytest.mark.parametrize(
    ("kind", "model", "wrong"),
    [
        ("lora", {"num_hidden_layers": 2}, "and this model 2 layers"),
        ("lora", {"intermediate_size": 80}, "mlp.down_proj.lora_A.weight is 96 wide, and this model's 80"),
        ("lora", {"num_key_value_heads": 4}, "k_proj.lora_B.weight is 32 wide, and this model's 64"),
        ("prefix", {"num_hidden_layers": 2}, "prompt_embeddings is 192 wide, and this model's 128"),
        ("prompt", {"hidden_size": 32}, "prompt_embeddings is 64 wide, and this model's 32"),
        ("adaption", {"hidden_size": 32}, "adaption_prompt is 64 wide, and this model's 32"),
        ("lora", {}, ""),
        ("adaption", {}, ""),
    ],
)
def test_it_is_told_before_a_model_is_loaded(tmp_path, kind, model, wrong):
    saved(kind, "llama", tmp_path)
    geometry = geometry_of(CONFIGS["llama"](**model))
    config = METHODS["adapter"].Config(path=str(tmp_path))
    if wrong:
        with pytest.raises(UserError, match=f"is of another model: .*{wrong}|{wrong}"):
            METHODS["adapter"].count(config, geometry)
    else:
        assert METHODS["adapter"].count(config, geometry) > 0


@pytest.mark.parametrize(("path", "wrong"), [("theirs", "and this model 2 layers"), ("x", "is no folder")])
def test_a_study_names_the_line(tmp_path, monkeypatch, path, wrong):
    monkeypatch.chdir(tmp_path)
    saved("lora", "llama", tmp_path / "theirs")
    save_model(tmp_path / "model")  # with two layers
    study = tmp_path / "s.yaml"
    adapter = f"methods:\n  - lora\n  - {{name: adapter, path: {path}}}\n"
    study.write_text(f"name: s\nmodel: model\ntasks: [cldr-names]\n{adapter}")
    with pytest.raises(UserError, match=rf"^s\.yaml:6: .*{wrong}"):
        read_study("s.yaml")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"modules_to_save": ["lm_head"]}, "it holds whole modules (modules_to_save)"),
        ({"bias": "all"}, "it holds biases"),
        ({"init_lora_weights": "pissa"}, "changes the model's own weights"),
        ({"peft_type": "XLORA"}, "peft_type XLORA is not taken"),
        ({"peft_type": None}, "peft_type None is not taken"),
        ({"from_tomorrow": 3}, "the setting from_tomorrow: 3, which this version of peft lacks"),
        ({"target_modules": ["nothing"]}, "not found in the base model"),
        ({"target_modules": "(("}, "does not fit"),
        ({"r": "four"}, "does not fit"),
    ],
)
def test_folders_that_are_not_taken(tiny_lm, tmp_path, change, wrong):
    saved("dora", "llama", tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError) as error:
        adapter(tmp_path).attach(tiny_lm("llama"))
    assert wrong in str(error.value)
    assert "\n" not in str(error.value)


def test_files(tmp_path):
    for path, wrong in (
        ("", "give path"),
        (str(tmp_path / "x"), "is no folder"),
        (str(tmp_path), "has no adapter_"),
    ):
        with pytest.raises(UserError, match=wrong):
            METHODS["adapter"].Config(path=path).source  # noqa: B018
    saved("lora", "llama", tmp_path)
    first = METHODS["adapter"].Config(path=str(tmp_path))
    record = first.model_dump(mode="json")
    assert METHODS["adapter"].Config.model_validate(record).content == first.content
    weights = tmp_path / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[0] += 1
    save_file(tensors, weights)
    assert METHODS["adapter"].Config(path=str(tmp_path)).content != first.content
    with pytest.raises(UserError, match="has changed since"):
        METHODS["adapter"].Config.model_validate(record)
    next(iter(tensors.values()))[0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(UserError, match="holds NaN or infinite numbers"):
        METHODS["adapter"].Config(path=str(tmp_path)).source.tensors()
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        METHODS["adapter"].Config(path=str(tmp_path)).content  # noqa: B018
    assert set(CONFIGS) >= {"llama", "gemma3", "qwen3"}
