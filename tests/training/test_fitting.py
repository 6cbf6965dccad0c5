"""Tokens at once from two measured passes: what is found, and that measuring leaves a training as it was."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosstune.config.environment import GPU_OFF
from crosstune.models.memory import measure as fitting
from crosstune.models.memory.measure import SHARE, Trial, measures, need
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from tiny_models import attach, make_lm


@given(
    st.integers(0, 10**9),
    st.integers(1, 10**6),
    st.integers(1, 500),
    st.integers(1, 500),
    st.integers(1, 10**6),
)
def test_a_pass_of_that_size_fits_and_one_more_does_not(fixed, each, tokens, more, room):
    small, large = (Trial(n, fixed + each * n) for n in (tokens, tokens + more))
    estimate = need(small, large)
    assert abs(estimate.fits(fixed + each * room) - room) <= 1  # to rounding of floats
    assert estimate.fits(0) == 1
    assert estimate.of(room) == pytest.approx(fixed + each * room)


@pytest.mark.parametrize("large", [Trial(10, 500), Trial(20, 100)])
def test_trials_that_tell_nothing(large):
    """One row each, or no byte more."""
    assert need(Trial(10, 100), large) is None


def trained(lm, monkeypatch, card=None, checkpointing=False, per_token=10):
    """Losses on a card of so many bytes, where n tokens at once take 1000 + 10 n beside AdamW's moments."""
    method = attach(lm, "lora", dropout=0.2)
    rows = [TrainingRow(tuple(range(3, 3 + 8 + n % 3)), 1) for n in range(16)]
    told, sizes, trials = [], [], []
    passes = TokenLimit(8192, "cpu", "training", told.append)
    passes.watch = lambda passes, rows, size: sizes.append(size)

    def peak(device, work):
        work()
        trials.append(sizes.pop())
        return 1000 + per_token * trials[-1]

    with monkeypatch.context() as patch:
        if card is not None:
            moments = 8 * sum(p.numel() for p in method.parameters().values())
            patch.setattr(fitting, "measures", lambda lm: True)
            patch.setattr(fitting, "WORTH", 50)
            patch.setattr(fitting, "peak", peak)
            patch.setattr(fitting, "free", lambda device: card + moments)
        settings = TrainSettings(steps=4, batch_size=16, gradient_checkpointing=checkpointing)
        curve = [point["loss"] for point in train(method, rows, settings, passes=passes).curve]
    method.detach()
    return curve, sizes, trials, told


def test_measuring_changes_nothing_but_the_size_of_passes(monkeypatch):
    """16 rows of 10 tokens at most. No gradient and no draw of dropout is left by the trials."""
    lm = make_lm("llama")
    plain, sizes, trials, told = trained(lm, monkeypatch)
    assert (len(sizes), trials, told) == (4, [], [])
    large, sizes, trials, told = trained(lm, monkeypatch, card=100_000)
    assert large == plain
    assert (len(sizes), told) == (4, [])
    assert len(trials) == 2
    assert trials[0] < trials[1] < 160
    small, sizes, _, told = trained(lm, monkeypatch, card=2000)
    assert len(sizes) > 4
    assert max(sizes) <= (SHARE * 2000 - 1000) / 10
    assert told == ["  about 80 tokens at once fit in the memory of cpu in training"]
    assert small == pytest.approx(plain, rel=0.2)  # dropout is drawn in other parts


def test_a_trial_that_fails_leaves_it_to_the_step(monkeypatch):
    lm = make_lm("llama")
    wanted = trained(lm, monkeypatch)[0]

    def fails(small, large):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fitting, "need", fails)
    outcome, sizes, trials, told = trained(lm, monkeypatch, card=10)
    assert (outcome, len(sizes), len(trials), len(told)) == (wanted, 4, 2, 1)
    assert "by halving what does not fit, not measured (CUDA out of memory)" in told[0]


def test_a_limit_taken_from_before_is_not_measured():
    """A resumed training goes on with the passes it began with."""
    passes = TokenLimit(100)
    assert not passes.measured
    passes.put_back({"limit": 60, "halvings": 0, "tokens": 0})
    assert passes.measured
    passes.lower_to(70)
    assert passes.limit == 60


def test_no_measuring_without_a_gpu(monkeypatch):
    lm = make_lm("llama")
    if lm.device.type == "cpu":
        assert not measures(lm)
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(type(lm), "device", property(lambda self: cuda))
    monkeypatch.setattr(type(lm), "layer_device", lambda self, i: cuda)
    assert measures(lm)
    monkeypatch.setenv(GPU_OFF, "fitting")
    assert not measures(lm)


@pytest.mark.parametrize(("card", "layers"), [(200_000, 0), (170_000, 1), (160_000, 2), (120_000, 2)])
def test_as_many_layers_are_recomputed_as_memory_asks_for(monkeypatch, card, layers):
    """160 tokens take 161,000 bytes, a third of 1,000 a token for each layer; a recomputed one keeps 256."""
    lm, seen = make_lm("llama"), []
    plain, _, _, _ = trained(lm, monkeypatch)
    for layer in lm.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(module.gradient_checkpointing))
    losses, sizes, _, told = trained(lm, monkeypatch, card=card, checkpointing="auto", per_token=1000)
    assert seen[-3:] == [True] * layers + [False] * (3 - layers)
    said = [f"  activations of {layers} of 3 layers are recomputed"] if layers else []
    assert told[: len(said)] == said
    assert (len(sizes) > 4) == (card == 120_000)  # and smaller passes, where that is not enough
    assert losses == pytest.approx(plain, rel=1e-5 if card > 120_000 else 0.2)
    assert not any(layer.gradient_checkpointing for layer in lm.layers)
