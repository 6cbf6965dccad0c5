"""Optimizers that need little memory: their numbers, what rounding loses, resuming to the same bits."""

import importlib.util

import pytest
import torch

from crosstune.config.environment import CHECKPOINT_SECONDS
from crosstune.errors import UserError
from crosstune.outputs.rows import TrainingRow
from crosstune.training.checkpoint import Checkpoint
from crosstune.training.loop import train
from crosstune.training.optimizers import Optimizer, round_stochastically
from crosstune.training.settings import TrainSettings
from tiny_models import make_method, near, random_ids

ROWS = [TrainingRow(tuple(random_ids(4 + i % 9, seed=i)), 1 + i % 3) for i in range(22)]
FIVE = TrainSettings(steps=5, batch_size=8, warmup_steps=1, learning_rate=0.01, weight_decay=0.1)
NEEDS_BITSANDBYTES = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
SMALL = ["adafactor", pytest.param("adamw-8bit", marks=NEEDS_BITSANDBYTES)]


def go(lm, settings, checkpoint=None, stop_after=None, case="full"):
    """Train; the method's weights and the curve."""
    method = make_method(case)
    method.attach(lm, seed=1)

    def tell(progress):
        if stop_after is not None and progress.step == stop_after + 1:
            raise KeyboardInterrupt

    try:
        result = train(method, ROWS, settings, 3, None, tell, None, checkpoint)
        return {name: x.detach().clone() for name, x in method.state().items()}, result.curve
    finally:
        method.detach()


def test_rounding_is_right_on_average_and_leaves_what_needs_none():
    values = torch.tensor([1.0, -1.0, 0.0, 3e38, float("inf"), 1.0 + 2**-9, -1.0 - 2**-10, 1e-39])
    rounded = torch.empty(4000, len(values), dtype=torch.bfloat16)
    round_stochastically(values.expand(4000, -1).clone(), rounded, torch.Generator().manual_seed(0))
    exact = values.bfloat16().float() == values
    assert (rounded.float()[:, exact] == values[exact]).all()
    near("mean of stochastic rounding", rounded[:, 5:7].double().mean(0), values[5:7].double(), 3e-4)
    assert rounded[:, 5].unique().numel() == rounded[:, 6].unique().numel() == 2
    nan = rounded[0].clone()
    round_stochastically(torch.full_like(values, torch.nan), nan, torch.Generator())
    assert nan.isnan().all()


@pytest.mark.parametrize("optimizer", SMALL)
def test_steps_far_below_the_rounding_add_up(tiny_lm, optimizer):
    """Steps of 1e-5 on bf16 weights of size 1, rounded by up to 4e-3: few weights move, as they should."""
    lm, method = tiny_lm("llama", torch.bfloat16), make_method("full")
    method.attach(lm)
    before = {name: w.detach().clone() for name, w in method.weights.items()}
    train(method, ROWS, FIVE.model_copy(update={"learning_rate": 1e-5, "optimizer": optimizer}))
    assert method.parameters() is method.weights
    assert not method.masters
    moved = [(method.weights[name] != w).float().mean() for name, w in before.items() if "proj" in name]
    assert all(0 < share < 0.2 for share in moved)
    method.detach()
    assert all(torch.equal(w, before[name]) for name, w in lm.model.named_parameters() if name in before)


@pytest.mark.parametrize("optimizer", SMALL)
def test_losses_are_those_of_fp32_copies(tiny_lm, optimizer):
    """Llama in bf16, ten steps: AdamW over fp32 copies, and the same in little memory."""
    lm = tiny_lm("llama", torch.bfloat16)
    settings = FIVE.model_copy(update={"steps": 10, "learning_rate": 5e-4, "weight_decay": 0.0})
    copies = [point["loss"] for point in go(lm, settings)[1]]
    small = [point["loss"] for point in go(lm, settings.model_copy(update={"optimizer": optimizer}))[1]]
    assert copies[-1] < 0.95 * copies[0]
    assert small == pytest.approx(copies, rel=0.02 if optimizer == "adamw-8bit" else 0.15)


@NEEDS_BITSANDBYTES
def test_in_fp32_8_bits_are_adamw_to_a_percent(tiny_lm):
    lm = tiny_lm("llama")
    wanted, _ = go(lm, FIVE)
    weights, _ = go(lm, FIVE.model_copy(update={"optimizer": "adamw-8bit"}))
    start = {name: w.detach().clone() for name, w in lm.model.named_parameters()}
    for name, weight in weights.items():
        change, exact = weight - start[name], wanted[name] - start[name]
        assert torch.nn.functional.cosine_similarity(change.flatten(), exact.flatten(), 0) > 0.98, name


@pytest.mark.parametrize("optimizer", SMALL)
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_stopped_and_resumed(tiny_lm, tmp_path, monkeypatch, optimizer, clip):
    monkeypatch.setenv(CHECKPOINT_SECONDS, "0")
    lm = tiny_lm("gemma3", torch.bfloat16)
    settings = FIVE.model_copy(update={"optimizer": optimizer, "clip": clip})
    wanted, curve = go(lm, settings)
    notes = []
    with pytest.raises(KeyboardInterrupt):
        go(lm, settings, Checkpoint(tmp_path, "x", notes.append), stop_after=3)
    weights, resumed = go(lm, settings, Checkpoint(tmp_path, "x", notes.append))
    assert notes == ["  training resumes after step 3"]
    assert resumed == curve
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("tokens", [8192, 30], ids=["one part", "several"])
def test_gradients_applied_as_they_arise(tiny_lm, tokens, monkeypatch):
    """The same bits as with all gradients kept (a norm that is never reached), and no two of them kept."""
    lm = tiny_lm("llama", torch.bfloat16)
    settings = FIVE.model_copy(update={"optimizer": "adafactor", "tokens_per_pass": tokens})
    wanted, curve = go(lm, settings.model_copy(update={"clip": 1e9}))
    held = []
    step_wide = Optimizer._step_wide

    def watch(self, name):
        held.append(sum(p.grad is not None for p in self._parameters.values()))
        step_wide(self, name)

    monkeypatch.setattr(Optimizer, "_step_wide", watch)
    weights, applied = go(lm, settings.model_copy(update={"clip": 0.0}))
    assert applied == curve
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert max(held) == (1 if tokens > 30 else len(wanted))


def test_memory_that_runs_out_behind_the_first_weight_stops(tiny_lm, monkeypatch):
    lm, calls = tiny_lm("llama", torch.bfloat16), []
    step_wide = Optimizer._step_wide

    def third(self, name):
        calls.append(name)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried")
        step_wide(self, name)

    monkeypatch.setattr(Optimizer, "_step_wide", third)
    with pytest.raises(UserError, match="step 1 moved weights inside its backward pass"):
        go(lm, FIVE.model_copy(update={"optimizer": "adafactor", "clip": 0.0}))


@pytest.mark.parametrize("optimizer", SMALL)
@pytest.mark.parametrize("case", ["lora", "sparse"])
def test_fp32_parameters_of_other_methods(tiny_lm, case, optimizer):
    settings = FIVE.model_copy(update={"steps": 8, "batch_size": 22, "optimizer": optimizer})
    losses = [point["loss"] for point in go(tiny_lm("llama"), settings, case=case)[1]]
    assert losses[-1] < 0.97 * losses[0]


def test_fp16_is_refused(tiny_lm):
    with pytest.raises(UserError, match="set dtype: bfloat16, or adamw"):
        go(tiny_lm("llama", torch.float16), FIVE.model_copy(update={"optimizer": "adafactor"}))


def test_only_another_optimizer_is_in_a_run_s_facts():
    assert "optimizer" not in TrainSettings().identity()
    assert TrainSettings(optimizer="adafactor").facts()["optimizer"] == "adafactor"
