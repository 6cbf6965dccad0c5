"""Attaching starts at the base model where a method says so; detaching gives back the very bits."""

from typing import Any

import pytest
import torch

from crosstune.methods import METHODS
from crosstune.models.language_model import LanguageModel
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from tiny_models import CASES, TRAINED, WINDOW, all_logits, make_method, near, random_ids

IDS = random_ids(2 * WINDOW + 3)
SETTINGS = TrainSettings(steps=2, batch_size=2, warmup_steps=0, learning_rate=0.05)
# What transformers keeps of gradient checkpointing once it was switched on, whoever did it.
CHECKPOINTING = {
    "_gradient_checkpointing_func",
    "gradient_checkpointing",
    "_require_grads_hook",
    "_require_grads_hooks",
}


def rows(n: int = 6) -> list[TrainingRow]:
    return [TrainingRow(tuple(random_ids(5 + i, seed=i)), 1 + i % 2) for i in range(n)]


def traces(lm: LanguageModel) -> dict[str, Any]:
    """Everything about a model that a method could leave something in."""
    model = lm.model
    return {
        "modules": {name: type(m).__name__ for name, m in model.named_modules()},
        "keys": {name: sorted(set(vars(m)) - CHECKPOINTING) for name, m in model.named_modules()},
        "hooks": {
            name: [
                len(getattr(m, kind)) for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks")
            ]
            for name, m in model.named_modules()
        },
        "training": {name: m.training for name, m in model.named_modules()},
        "embeddings_need_gradients": lm.embedding(
            torch.zeros(1, 1, dtype=torch.long, device=lm.device)
        ).requires_grad,
        "parameters": {
            name: (p.requires_grad, p.dtype, p.grad is None) for name, p in model.named_parameters()
        },
        "identity": {name: id(p) for name, p in model.named_parameters()},
        "config": model.config.to_dict(),
        "adaptation": list(lm.adaptation.parts),
        "module identity": {name: id(m) for name, m in model.named_modules()},
    }


def bits(lm: LanguageModel) -> dict[str, bytes]:
    """Of every weight, trained ones among them."""
    return {name: p.detach().cpu().numpy().tobytes() for name, p in lm.model.named_parameters()}


@pytest.mark.parametrize(
    ("dtype", "checkpointing"),
    [(torch.float32, False), (torch.bfloat16, True)],
    ids=["fp32", "bf16 with gradient checkpointing"],
)
@pytest.mark.parametrize("case", sorted(CASES))
def test_detached_model_is_the_same_bits(tiny_lm, family, case, dtype, checkpointing):
    lm = tiny_lm(family, dtype)
    before, logits = traces(lm), all_logits(lm, IDS)
    method = make_method(case)
    method.attach(lm)
    if case in TRAINED:
        train(method, rows(), SETTINGS.model_copy(update={"gradient_checkpointing": checkpointing}))
        assert not torch.equal(all_logits(lm, IDS), logits)
    with method.evaluating():
        all_logits(lm, IDS)
    method.detach()
    assert torch.equal(all_logits(lm, IDS), logits)
    after = traces(lm)
    for what in before:
        assert after[what] == before[what], what


@pytest.mark.parametrize("case", sorted(CASES))
def test_detach_after_an_error_inside_evaluating(tiny_lm, case):
    lm = tiny_lm("gemma3")
    logits = all_logits(lm, IDS)
    method = make_method(case)
    method.attach(lm)
    if case in TRAINED:
        train(method, rows(), SETTINGS)
    trained = all_logits(lm, IDS)
    with pytest.raises(KeyboardInterrupt), method.evaluating():
        raise KeyboardInterrupt
    assert torch.equal(all_logits(lm, IDS), trained)
    method.detach()
    assert torch.equal(all_logits(lm, IDS), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_starts_at_the_base_model_bit_for_bit(tiny_lm, family, case, dtype):
    """Whatever puts nothing in front of the text and nothing into its softmax."""
    lm = tiny_lm(family, dtype)
    ids = torch.tensor([IDS], device=lm.device)
    with torch.no_grad():
        base = lm.hidden(ids)
        method = make_method(case)
        method.attach(lm, seed=5)
        part = method.part
        if part.soft_prompt is not None or any(prompt.gate is None for prompt in part.prompts.values()):
            assert not torch.equal(lm.hidden(ids), base)
            return
        assert torch.equal(lm.hidden(ids), base)
        with method.evaluating():
            assert torch.equal(lm.hidden(ids), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("placement", ["inside", "houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bottleneck", {"width": 4}),
        ("bottleneck", {"width": 4, "invertible": True, "ortho": 0.1}),
        ("compacter", {"width": 8}),
    ],
    ids=["bottleneck", "invertible", "compacter"],
)
def test_every_placement_starts_at_the_base_model_bit_for_bit(
    tiny_lm, family, name, settings, placement, dtype
):
    lm = tiny_lm(family, dtype)
    plain = all_logits(lm, IDS)
    method = METHODS[name](METHODS[name].Config(placement=placement, **settings))
    method.attach(lm, seed=5)
    assert torch.equal(all_logits(lm, IDS), plain)
    with method.evaluating():
        assert torch.equal(all_logits(lm, IDS), plain)


@pytest.mark.parametrize("case", sorted(CASES))
def test_second_attach_starts_afresh(tiny_lm, case):
    """One method object, attached, trained, detached and attached again, starts where it started."""
    lm = tiny_lm("qwen3")
    method = make_method(case)
    method.attach(lm, seed=2)
    first = {name: p.detach().clone() for name, p in method.parameters().items()}
    if case in TRAINED:
        train(method, rows(), SETTINGS)
    method.detach()
    method.attach(lm, seed=2)
    again = method.parameters()
    assert list(again) == list(first)
    assert all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.parametrize("case", TRAINED)
def test_seed_decides_the_start(tiny_lm, case):
    """All of it, where anything is drawn at all: text and zeros are the same for every seed."""
    lm = tiny_lm("llama")

    def start(seed: int) -> torch.Tensor:
        method = make_method(case)
        torch.rand(seed)
        method.attach(lm, seed)
        flat = torch.cat([p.detach().flatten() for p in method.parameters().values()])
        method.detach()
        return flat

    assert torch.equal(start(1), start(1))
    settings = type(make_method(case).config).model_fields
    draws = {"rank", "width", "type", "stack"}
    drawn = "reparameterise" in CASES[case][1] or not settings.keys().isdisjoint(draws)
    if drawn or "init" in settings:  # as text is the start by default
        assert torch.equal(start(1), start(2)) != drawn


@pytest.mark.parametrize("space", ["hidden", "kv"])
def test_reparameterised_prefix_follows_its_equation(tiny_lm, family, space):
    """p_0 + W_2 tanh(W_1 e + b_1) + b_2, written out; at the start it is p_0."""
    lm = tiny_lm(family)
    plain = make_method("prefix-hidden", space=space)
    plain.attach(lm)
    start = {name: p.detach().clone() for name, p in plain.parameters().items()}
    plain.detach()
    method = make_method("prefix-hidden", space=space, reparameterise=5)
    method.attach(lm)
    assert all(torch.equal(method.state()[name], start[name]) for name in start)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in method.parameters().values():
            p.copy_(torch.randn(p.shape, generator=generator))
    p = method.parameters()
    for name, value in method.state().items():
        layer = name.removeprefix("layers.")
        rows_out = []
        for e in p["mlp.input"]:
            inner = torch.tanh(p["mlp.first.weight"] @ e + p["mlp.first.bias"])
            rows_out.append(p[f"mlp.last.{layer}.weight"] @ inner + p[f"mlp.last.{layer}.bias"])
        delta = torch.stack(rows_out)
        if space == "kv":
            delta = torch.stack(delta.chunk(2, dim=1))
        near("reparameterised prefix = its equation", value, start[name] + delta, 1e-5)


@pytest.mark.parametrize("case", TRAINED)
def test_evaluating_computes_the_same(tiny_lm, family, case):
    lm = tiny_lm(family)
    method = make_method(case)
    method.attach(lm)
    train(method, rows(), SETTINGS)
    ours, weights = all_logits(lm, IDS), bits(lm)
    with method.evaluating():
        cheap = all_logits(lm, IDS)
        merged = bits(lm) != weights
    if merged:
        near(f"{method.name} merged = unmerged", cheap, ours, 1e-5)
    else:
        assert torch.equal(cheap, ours)
    assert bits(lm) == weights
    assert torch.equal(all_logits(lm, IDS), ours)


@pytest.mark.parametrize("case", TRAINED)
def test_training_goes_on_after_evaluating(tiny_lm, case):
    """Nothing cached for evaluation keeps gradients from the parameters afterwards."""
    lm = tiny_lm("llama")
    method = make_method(case)
    method.attach(lm)
    with method.evaluating():
        all_logits(lm, IDS)
    start = {name: p.detach().clone() for name, p in method.parameters().items()}
    train(method, rows(), SETTINGS.model_copy(update={"steps": 3}))
    # LoRA's A and an MLP's first layer get their first gradient once what follows them has left zero.
    assert all(not torch.equal(p, start[name]) for name, p in method.parameters().items())
