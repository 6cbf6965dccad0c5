"""The same training steps by plain PEFT, with its own forward, loss and calls, give the same weights."""

from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

from crosstune.errors import UserError
from crosstune.methods.adapters.peft_tuner import TYPES, PeftTuner
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import rate, train
from crosstune.training.settings import TrainSettings
from tiny_models import DEVICE, make_lm, near, random_ids, tiny_model

ROWS = [TrainingRow(tuple(random_ids(6 + i, seed=i)), 1 + i % 2) for i in range(4)]
STEPS = TrainSettings(steps=6, batch_size=4, warmup_steps=2, learning_rate=0.02, weight_decay=0.1)
ADALORA = {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 2, "orth_reg_weight": 0.3}


def by_peft(
    family: str, kind: str, settings: dict[str, Any], start: dict[str, torch.Tensor], changes: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """PEFT's model after the steps, from the same start."""
    stock = tiny_model(family, torch.float32, 0, "sdpa", **changes)
    names = ("q_proj", "v_proj")
    if kind == "LN_TUNING":
        names = ("layernorm", "q_norm", "k_norm")
    targets = [name for name, _ in stock.named_modules() if "layers" in name and name.endswith(names)]
    name, fixed = TYPES[kind]
    # By its task PEFT chooses a forward, and the one of no task leaves the term out.
    more = {"total_step": STEPS.steps, "task_type": "CAUSAL_LM"} if kind == "ADALORA" else {}
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)](target_modules=targets, **fixed | settings | more)
    model: Any = peft.get_peft_model(stock, config)
    trained = {n.removeprefix("base_model.model.model."): p for n, p in model.named_parameters()}
    trained = {n: trained[n] for n in start}
    with torch.no_grad():
        for n, parameter in trained.items():
            parameter.copy_(start[n])
    width = max(len(row.ids) for row in ROWS)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in ROWS], device=DEVICE)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(ROWS):
        labels[i, len(row.ids) - row.answer : len(row.ids)] = ids[i, len(row.ids) - row.answer : len(row.ids)]
    optimiser = torch.optim.AdamW(trained.values(), lr=1.0, weight_decay=0.1)
    for step in range(STEPS.total_steps(4)):
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.param_groups[0]["lr"] = rate(STEPS, 0.02, step, STEPS.total_steps(4))
        optimiser.step()
        if kind == "ADALORA":
            model.base_model.update_and_allocate(step + 1)
        optimiser.zero_grad()
    return trained


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("ADALORA", ADALORA), ("LN_TUNING", {}), ("DORA", {"r": 3, "lora_alpha": 5}), ("RSLORA", {"r": 3})],
)
def test_training_equals_peft(family, kind, settings):
    changes = {"attention_bias": True} if family == "llama" else {}
    lm = make_lm(family, **changes)
    method = PeftTuner(PeftTuner.Config(type=kind, **settings))
    method.attach(lm, seed=3)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in method.parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    start = {name: p.detach().clone() for name, p in method.parameters().items()}
    wanted = by_peft(family, kind, settings, start, changes)
    split = STEPS.model_copy(update={"tokens_per_pass": 20})  # in parts: the same term, once a step
    train(method, ROWS, split)
    for name, parameter in method.parameters().items():
        near("training by PEFT", parameter - start[name], wanted[name] - start[name], 2e-3)
    if kind == "ADALORA":
        ranks = torch.cat([p for name, p in method.parameters().items() if "lora_E" in name])
        assert int((ranks != 0).sum()) == 2 * 6  # target_r in each of 6 layers


def test_adalora_needs_steps_to_reduce_ranks_in(tiny_lm):
    method = PeftTuner(PeftTuner.Config(type="ADALORA", tinit=4, tfinal=2))
    method.attach(tiny_lm("llama"))
    with pytest.raises(UserError, match="training has 6; lower tinit or tfinal"):
        train(method, ROWS, STEPS)
