"""Encoders with a method of PEFT's, given the same weights: in one padded batch, in one line, and alone."""

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence

from crosstune.models.attention.choose import BatchForm, lay_out
from tiny_encoders import encoder_model, make_encoder
from tiny_models import attach, near

TEXTS = [[3 + (7 * i * i + 5 * i + n) % 250 for i in range(n)] for n in (26, 23, 7)]
# Keys, values and what the MLP's last projection reads; attention's queries, keys and values may be one.
NAMES = {
    "bert": ("attention.self.key", "attention.self.value", "output.dense"),
    "xlm-roberta": ("attention.self.key", "attention.self.value", "output.dense"),
    "modernbert": ("attn.Wqkv", "attn.Wqkv", "mlp.Wo"),
}


def read(lm, form: BatchForm) -> list[torch.Tensor]:
    form = BatchForm.PADDED if lm.adaptation.front else form
    placed = lay_out(form, TEXTS, lm.pad_id, lm.device, balance=1e9, two_way=True)
    states = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
    return [states[start : start + len(text)] for start, text in zip(placed.starts, TEXTS, strict=True)]


def peft_reads(model, texts, front: int = 0) -> list[torch.Tensor]:
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    states = model(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state
    return [row[front : front + len(text)] for row, text in zip(states, texts, strict=True)]


def peft_model(case, method, family, model):
    """The model of PEFT, without the masked language model's head, with a method's weights."""
    p, base = method.parameters(), model.base_model
    if case == "soft-prompt":
        config = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=len(p["prompt"]))
        theirs = get_peft_model(base, config)
        theirs.prompt_encoder["default"].embedding.weight.copy_(p["prompt"])
        return theirs
    stem = f"{model.base_model_prefix}."
    if case == "lora":
        modules = sorted({name.rpartition(".")[0].removeprefix(stem) for name in p})
        config = LoraConfig(
            r=method.config.rank,
            lora_alpha=method.config.alpha,
            target_modules=modules,
            task_type="FEATURE_EXTRACTION",
        )
        theirs = get_peft_model(base, config)
        for name, value in p.items():
            module, _, matrix = name.removeprefix(stem).rpartition(".")
            at = theirs.get_submodule(f"base_model.model.{module}")
            getattr(at, f"lora_{matrix}")["default"].weight.copy_(value)
        return theirs
    key, value, inner = NAMES[family]
    layers = "layers" if family == "modernbert" else "encoder.layer"
    places = {end: [f"{layers}.{i}.{end}" for i in range(2)] for end in (key, value, inner)}
    config = IA3Config(
        task_type="FEATURE_EXTRACTION",
        target_modules=[name for names in places.values() for name in names],
        feedforward_modules=places[inner],
    )
    theirs = get_peft_model(base, config)
    for i in range(2):
        vectors = {end: p[f"layers.{i}.{end}"] for end in ("key", "value", "inner")}
        if key == value:
            queries = torch.ones_like(vectors["key"])
            fused = torch.cat([queries, vectors["key"], vectors["value"]])
            scales = {key: fused, inner: vectors["inner"]}
        else:
            scales = {key: vectors["key"], value: vectors["value"], inner: vectors["inner"]}
        for end, vector in scales.items():
            at = theirs.get_submodule(f"base_model.model.{layers}.{i}.{end}").ia3_l["default"]
            at.copy_(vector.view_as(at))
    return theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("case", ["lora", "ia3", "soft-prompt"])
def test_methods_of_peft(case, family, dtype):
    lm = make_encoder(family, dtype)
    method = attach(lm, case, **({"layers": None} if case == "ia3" else {}))
    with torch.no_grad():
        theirs = peft_model(case, method, family, encoder_model(family, dtype, "eager")).eval()
        front = lm.adaptation.front
        alone = [peft_reads(theirs, [text], front)[0] for text in TEXTS]
        near_enough = 1e-5 if dtype == torch.float32 else 0.1
        for expected in (alone, peft_reads(theirs, TEXTS, front)):
            for form in (BatchForm.PADDED, BatchForm.PADDING_FREE):
                for ours, wanted in zip(read(lm, form), expected, strict=True):
                    near(f"{case} of PEFT on an encoder, {dtype}", ours, wanted, near_enough)
