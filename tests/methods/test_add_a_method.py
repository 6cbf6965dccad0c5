"""The worked example of docs/add-a-method.md, taken from the page and used as a newcomer would."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from crosstune.methods import METHODS
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from tiny_models import all_logits, near, random_ids, row, shake

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"
IDS = random_ids(15)


@pytest.fixture
def example(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    space = {"__name__": "mlp_bias"}
    exec(compile(code, str(PAGE), "exec"), space)
    monkeypatch.setitem(METHODS, "mlp-bias", space["MlpBias"])
    return METHODS["mlp-bias"]


def by_hand(lm, method) -> torch.Tensor:
    """The biases in the last projections of a copy."""
    copy = deepcopy(lm.model)
    for module in copy.modules():
        module._forward_hooks.clear()
    for name, bias in method.parameters().items():
        copy.model.layers[int(name.split(".")[1])].mlp.down_proj.bias = torch.nn.Parameter(bias.detach())
    with torch.no_grad():
        return copy(input_ids=row(IDS), use_cache=False).logits[0]


def test_the_example(tiny_lm, family, example):
    lm = tiny_lm(family)
    plain, modules = all_logits(lm, IDS), [id(module) for module in lm.model.modules()]
    method = example(example.Config(layers=2))
    method.attach(lm)
    assert torch.equal(all_logits(lm, IDS), plain), "biases are 0"
    assert sum(p.numel() for p in method.parameters().values()) == example.count(method.config, lm.geometry)
    rows = [TrainingRow(tuple(random_ids(9, seed=i)), 2) for i in range(4)]
    trained = train(method, rows, TrainSettings(steps=6, batch_size=4, warmup_steps=0, learning_rate=0.05))
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]
    shake(method)
    moved = all_logits(lm, IDS)
    near("example = hooks by hand", moved, by_hand(lm, method))
    state = {name: tensor.clone() for name, tensor in method.state().items()}
    method.detach()
    assert torch.equal(all_logits(lm, IDS), plain)
    assert [id(module) for module in lm.model.modules()] == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
    fresh = example(example.Config(layers=2))
    fresh.attach(lm)
    fresh.load_state(state)
    assert torch.equal(all_logits(lm, IDS), moved)
