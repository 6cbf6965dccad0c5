"""What is saved is enough to attach the trained method again, and nothing else is taken."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from crosstune.errors import UserError
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from tiny_models import CASES, DEVICE, TRAINED, WINDOW, all_logits, attach, make_method, random_ids

IDS = random_ids(2 * WINDOW)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_state_through_a_file(tiny_lm, family, case, dtype, tmp_path):
    """Onto a freshly loaded model, and onto the same one after something else was on it."""
    lm = tiny_lm(family, dtype)
    method = attach(lm, case)
    with method.evaluating():
        wanted = all_logits(lm, IDS)
    state = {name: t.contiguous().cpu().clone() for name, t in method.state().items()}
    file = tmp_path / "weights.safetensors"
    save_file(state, file)
    method.detach()
    for target in (tiny_lm(family, dtype), lm):
        fresh = make_method(case)
        fresh.attach(target, seed=99)
        fresh.load_state(load_file(file))
        with fresh.evaluating():
            assert torch.equal(all_logits(target, IDS), wanted)
        again = fresh.state()
        assert sorted(again) == sorted(state)
        assert all(torch.equal(again[name].cpu(), state[name]) for name in state)
        fresh.detach()


@pytest.mark.parametrize("case", ["lora-dropout", "peft-adalora"])
def test_dropout_is_for_training_alone(tiny_lm, case):
    """Also of a method that was not trained since it was attached, and is not merged."""
    lm = tiny_lm("llama")
    method = attach(lm, case, **({"lora_dropout": 0.3} if case == "peft-adalora" else {}))
    assert torch.equal(all_logits(lm, IDS), all_logits(lm, IDS))
    method.detach()


@pytest.mark.parametrize("case", TRAINED)
def test_state_is_a_copy_of_its_moment_or_says_nothing_wrong(tiny_lm, case):
    """Training on after loading changes the model, and the loaded tensors stay what they were."""
    lm = tiny_lm("llama")
    method = attach(lm, case)
    state = {name: t.clone() for name, t in method.state().items()}
    kept = {name: t.clone() for name, t in state.items()}
    fresh = make_method(case)
    method.detach()
    fresh.attach(lm)
    fresh.load_state(state)
    before = all_logits(lm, IDS)
    rows = [TrainingRow(tuple(random_ids(9, seed=i)), 2) for i in range(4)]
    train(fresh, rows, TrainSettings(steps=2, warmup_steps=0, learning_rate=0.01))
    assert not torch.equal(all_logits(lm, IDS), before)
    assert all(torch.equal(state[name], kept[name]) for name in state)


@pytest.mark.parametrize("case", TRAINED)
def test_weights_of_another_shape(tiny_lm, case):
    lm = tiny_lm("llama")
    method = attach(lm, case)
    state = {name: t.clone() for name, t in method.state().items()}
    name = next(iter(state))
    narrow = state | {name: state[name][..., :-1]}
    with pytest.raises(UserError, match=f"weights do not fit {method.name}: {name} is"):
        method.load_state(narrow)
    with pytest.raises(UserError, match=f"weights do not fit {method.name}: .* on one side only"):
        method.load_state({k: v for k, v in state.items() if k != name})
    with pytest.raises(UserError, match="more is on one side only"):
        method.load_state(state | {"more": torch.zeros(1)})


def test_weights_of_another_method(tiny_lm):
    lm = tiny_lm("llama")
    state = attach(lm, "soft-prompt").state()
    method = make_method("lora")
    method.attach(lm)
    with pytest.raises(UserError, match="do not fit lora"):
        method.load_state(state)
    with pytest.raises(UserError, match="do not fit none"):
        make_method("none").load_state(state)


def test_refused_weights_change_nothing(tiny_lm):
    """A state whose last tensor does not fit leaves the first ones where they were."""
    lm = tiny_lm("llama")
    method = attach(lm, "prefix-hidden")
    before = {name: p.detach().clone() for name, p in method.parameters().items()}
    state = {name: torch.ones_like(p) for name, p in before.items()}
    state["layers.2"] = torch.ones(1, 1, device=DEVICE)
    with pytest.raises(UserError):
        method.load_state(state)
    assert all(torch.equal(p, before[name]) for name, p in method.parameters().items())
