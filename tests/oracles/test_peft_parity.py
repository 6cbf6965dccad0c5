"""Same logits and same gradients as HF PEFT, given the same weights and a model on stock attention."""

from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from crosstune.models.language_model import LanguageModel
from tiny_models import WINDOW, attach, near, random_ids, row, tiny_model

Grads = dict[str, Tensor]


def loss_of(logits: Tensor) -> Tensor:
    """Something that every row and column of ``[batch, length, vocabulary]`` has a part in."""
    targets = torch.arange(logits[..., 0].numel(), device=logits.device) % logits.shape[-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets)


def ours(lm: LanguageModel, method: Any, ids: Tensor) -> tuple[Tensor, Grads]:
    hidden = lm.hidden(ids)
    logits = lm.logits(hidden.flatten(0, 1)).view(*ids.shape, -1)
    loss_of(logits).backward()
    return logits, {name: p.grad for name, p in method.parameters().items()}


def stock(family: str, **changes: Any) -> Any:
    return tiny_model(family, torch.float32, 0, "sdpa", **changes)


def batch(length: int) -> Tensor:
    return torch.cat([row(random_ids(length, seed)) for seed in (1, 2)])


@pytest.mark.parametrize("case", ["lora", "lora-all"])
def test_lora(tiny_lm, family, case):
    lm, ids = tiny_lm(family), batch(2 * WINDOW)
    method = attach(lm, case)
    logits, grads = ours(lm, method, ids)
    config = method.config
    peft_model = peft.get_peft_model(
        stock(family),
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=list(config.target_modules),
            layers_to_transform=config.chosen(3),
            task_type="CAUSAL_LM",
        ),
    )
    by_name = dict(peft_model.named_parameters())

    def named(name: str) -> Any:
        module, _, letter = name.rpartition(".")
        return by_name[f"base_model.model.{module}.lora_{letter}.default.weight"]

    with torch.no_grad():
        for name, parameter in method.parameters().items():
            named(name).copy_(parameter)
    out = peft_model(input_ids=ids).logits
    loss_of(out).backward()
    near("LoRA logits = PEFT", logits, out, 1e-5)
    assert sum(p.requires_grad for p in by_name.values()) == len(grads)
    for name, grad in grads.items():
        near("LoRA gradients = PEFT", grad, named(name).grad, 1e-5)


def test_ia3(tiny_lm, family):
    """On the paper's places, which PEFT is told: on Gemma 3 and Qwen its defaults are others."""
    lm, ids = tiny_lm(family), batch(2 * WINDOW)
    method = attach(lm, "ia3", layers=None)
    logits, grads = ours(lm, method, ids)
    ends = {"key": "self_attn.k_proj", "value": "self_attn.v_proj", "inner": "mlp.down_proj"}
    config = peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    )
    peft_model = peft.get_peft_model(stock(family), config)
    by_name = dict(peft_model.named_parameters())
    at = {
        name: by_name[
            f"base_model.model.model.{name.rpartition('.')[0]}.{ends[name.rpartition('.')[2]]}.ia3_l.default"
        ]
        for name in grads
    }
    with torch.no_grad():
        for name, parameter in method.parameters().items():
            at[name].copy_(parameter.view_as(at[name]))
    out = peft_model(input_ids=ids).logits
    loss_of(out).backward()
    near("(IA)3 logits = PEFT", logits, out, 1e-5)
    assert sum(p.requires_grad for p in by_name.values()) == len(grads)
    for name, grad in grads.items():
        near("(IA)3 gradients = PEFT", grad, at[name].grad.flatten(), 1e-5)


def test_soft_prompt(tiny_lm, family):
    lm, ids = tiny_lm(family), batch(2 * WINDOW)
    method = attach(lm, "soft-prompt")
    logits, grads = ours(lm, method, ids)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft_model = peft.get_peft_model(stock(family), config)
    table = peft_model.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        table.copy_(method.prompt)
    out = peft_model(input_ids=ids).logits[:, 3:]
    loss_of(out).backward()
    near("soft prompt logits = PEFT", logits, out, 1e-5)
    near("soft prompt gradients = PEFT", grads["prompt"], table.grad, 1e-5)


@pytest.mark.parametrize("kind", ["llama", "mistral", "mistral-full", "gemma3", "qwen3"])
def test_kv_prefix(tiny_lm, kind):
    """Inside the sliding window where there is one: past it PEFT's cache forgets the prefix, ours stays."""
    n = 3
    length = WINDOW - n if kind in ("mistral", "gemma3") else 3 * WINDOW
    lm, ids = tiny_lm(kind), batch(length)
    method = attach(lm, "prefix-kv", length=n, layers=None)
    logits, grads = ours(lm, method, ids)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=n)
    peft_model = peft.get_peft_model(stock(kind), config)
    table = peft_model.prompt_encoder["default"].embedding.weight

    def flat(of: dict[str, Tensor]) -> Tensor:
        """[2, n, width] a layer -> PEFT's [n, layers * 2 * width]."""
        return torch.cat([of[f"layers.{i}"].transpose(0, 1).flatten(1) for i in range(3)], dim=1)

    with torch.no_grad():
        table.copy_(flat(method.parameters()))
    out = peft_model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    loss_of(out).backward()
    near("kv prefix logits = PEFT", logits, out, 1e-5)
    near("kv prefix gradients = PEFT", flat(grads), table.grad, 1e-5)


@pytest.mark.parametrize("layers", [3, 2])
def test_adaption_prompt_on_llama(tiny_lm, layers):
    lm, ids = tiny_lm("llama"), batch(2 * WINDOW)
    method = attach(lm, "llama-adapter-plain", layers=layers)
    logits, grads = ours(lm, method, ids)
    config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=layers)
    peft_model = peft.get_peft_model(stock("llama"), config)
    by_name = dict(peft_model.named_parameters())
    at = {f"layers.{i}": f"base_model.model.model.layers.{i}.self_attn" for i in range(3 - layers, 3)}
    with torch.no_grad():
        for name, yours in at.items():
            by_name[f"{yours}.adaption_prompt"].copy_(method.parameters()[f"{name}.prompt"])
            by_name[f"{yours}.adaption_gate"].copy_(method.parameters()[f"{name}.gate"])
    out = peft_model(input_ids=ids).logits
    loss_of(out).backward()
    near("adaption prompt logits = PEFT", logits, out, 1e-5)
    for name, yours in at.items():
        prompt, gate = by_name[f"{yours}.adaption_prompt"].grad[0], by_name[f"{yours}.adaption_gate"].grad
        near("adaption prompt gradients = PEFT", grads[f"{name}.prompt"], prompt, 1e-5)
        near("adaption gate gradients = PEFT", grads[f"{name}.gate"], gate.reshape(1), 1e-5)


def test_adaption_prompt_where_peft_cannot(tiny_lm):
    """PEFT takes k_proj's in / out for heads / kv_heads, which needs head_dim = hidden / heads; ours runs."""
    config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=3)
    peft_model = peft.get_peft_model(stock("mistral"), config)
    with pytest.raises(RuntimeError):
        peft_model(input_ids=batch(5))
    lm = tiny_lm("mistral")
    attach(lm, "llama-adapter-plain")
    assert lm.hidden(batch(5)).isfinite().all()
