"""The worked example of docs/add-a-method.md, taken from the page and used as a newcomer would."""

import re
from pathlib import Path

import pytest
import torch

from crosstune.methods import METHODS
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from tiny_models import all_logits, near, random_ids, shake

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"
IDS = random_ids(15)


@pytest.fixture
def ia3(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    space = {"__name__": "ia3"}
    exec(compile(code, str(PAGE), "exec"), space)
    monkeypatch.setitem(METHODS, "ia3", space["Ia3"])
    return METHODS["ia3"]


def test_the_example(tiny_lm, family, ia3):
    lm = tiny_lm(family)
    plain, modules = all_logits(lm, IDS), [id(module) for module in lm.model.modules()]
    method = ia3(ia3.Config(layers=2))
    method.attach(lm)
    assert torch.equal(all_logits(lm, IDS), plain), "scales are 1"
    assert sum(p.numel() for p in method.parameters().values()) == ia3.count(method.config, lm.geometry)
    rows = [TrainingRow(tuple(random_ids(9, seed=i)), 2) for i in range(4)]
    trained = train(method, rows, TrainSettings(steps=6, batch_size=4, warmup_steps=0, learning_rate=0.05))
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]
    shake(method)
    scaled = all_logits(lm, IDS)
    # The equation, on the weights themselves.
    with torch.no_grad():
        weights = {}
        for i in method.layers:
            at = lm.layers[i]
            for module, name in ((at.self_attn.k_proj, "key"), (at.self_attn.v_proj, "value")):
                weights[module] = method.scales[f"layers.{i}.{name}"][:, None] * module.weight
            weights[at.mlp.down_proj] = method.scales[f"layers.{i}.inner"] * at.mlp.down_proj.weight
        with method.evaluating():
            assert all(torch.equal(module.weight, weight) for module, weight in weights.items())
            near("(IA)3 folded = hooked", all_logits(lm, IDS), scaled)
    state = {name: tensor.clone() for name, tensor in method.state().items()}
    method.detach()
    assert torch.equal(all_logits(lm, IDS), plain)
    assert [id(module) for module in lm.model.modules()] == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
    fresh = ia3(ia3.Config(layers=2))
    fresh.attach(lm)
    fresh.load_state(state)
    assert torch.equal(all_logits(lm, IDS), scaled)
