"""The rule of trust: a fast way that is wrong, or raises anything at all, is not used by any of its users."""

import logging
from weakref import ref

import pytest
import torch

from crosstune.models.fast import graphs, layers, norms, weights
from crosstune.models.fast.graphs import Steps
from crosstune.models.fast.norms import fused_parts
from crosstune.models.fast.top_rows import TOP_ROWS
from crosstune.models.memory import measure
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.models.proof import FastWay
from crosstune.outputs import generation
from crosstune.outputs.rows import TrainingRow
from crosstune.training import reuse
from crosstune.training.reuse import Reuse
from tape import TapeRecorder
from tiny_models import DEVICE, attach, make_lm, random_ids


def way(**more):
    return FastWay("fast", "plain", 0.1, "for a test", **more)


ONE, NEAR, FAR = torch.tensor([1.0, -2.0]), torch.tensor([1.1, -2.1]), torch.tensor([1.3, -2.0])


@pytest.mark.parametrize(
    ("fast", "plain", "right"),
    [
        (NEAR, ONE, True),
        (FAR, ONE, False),
        (ONE * torch.nan, ONE, False),
        (ONE * torch.nan, ONE * torch.nan, False),
        (ONE[:1], ONE, False),
        (NEAR.bfloat16(), ONE, True),
    ],
)
def test_what_counts_as_the_same(fast, plain, right):
    assert way().same(fast, plain) == right
    assert FastWay("fast", "plain", 0.0, "bits").same(fast, plain) == torch.equal(fast, plain)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, ImportError, AssertionError])
def test_an_error_of_any_class_is_said_once(error):
    told, tried, one = [], [], way(part="graphs")

    def compare():
        tried.append(1)
        raise error("no such argument\nand more")

    for _ in range(3):
        assert not one.trusted("here", compare, told.append)
    assert (len(tried), told) == (
        1,
        ["  plain, not fast (no such argument); CROSSTUNE_GPU_OFF=graphs does not try"],
    )
    assert one.trusted("elsewhere", lambda: [(NEAR, ONE)], told.append)


def test_a_process_that_is_stopped_is_stopped():
    def compare():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        way().trusted("here", compare)


def test_one_that_fails_later_is_distrusted_once(caplog):
    one = way()
    assert not one.distrust("here", TypeError("later"))
    assert not one.trusted("here", lambda: [])
    assert one.trusted("there", lambda: [])
    with caplog.at_level(logging.INFO, "crosstune"):
        assert one.distrust("there", TypeError("later"))
        assert not one.distrust("there", TypeError("later"))
    assert [record.message for record in caplog.records] == ["plain, not fast (later)"]


def test_switched_off_it_is_not_even_tried(monkeypatch):
    monkeypatch.setenv("CROSSTUNE_GPU_OFF", "graphs")
    assert not way(part="graphs").trusted("here", lambda: [])
    assert way(part="packing").trusted("here", lambda: [])


# --- a wrong one, planted under each user -----------------------------------------------------------


def raises(*args, **kwargs):
    raise TypeError("got an unexpected keyword argument")


@pytest.fixture(params=["wrong", "raises"])
def planted(request):
    """What makes of a fast way one that is wrong, or one that raises."""
    return lambda real: (
        (lambda *a, **k: real(*a, **k).roll(1, -1) + 0.5) if request.param == "wrong" else raises
    )


# Of the GPU's kernel: `test_gpu_line`.


def test_recorded_steps(monkeypatch, planted):
    lm, told = make_lm("llama"), []

    class Wrong(TapeRecorder):
        def record(self, work):
            return planted(super().record(work))

    prompts = [random_ids(n, seed=n) for n in (5, 7, 6)]
    right = generation.generate(lm, prompts, 9, ())

    def stepper(lm, slots, note=None):
        slots.rounded = True
        return Steps(lm, slots, Wrong(), told.append)

    monkeypatch.setattr(generation, "stepper", stepper)
    assert generation.generate(lm, prompts, 9, ()) == right
    assert len(told) == 1
    assert graphs.RECORDED.verdicts[ref(lm.model)]


@pytest.mark.parametrize("what", ["RmsNorm", "Rotate"])
def test_norms_and_rotation(monkeypatch, planted, what):
    lm = make_lm("llama")
    kind = getattr(norms, what)
    ids = torch.tensor([random_ids(6)], device=lm.device)
    right = lm.hidden(ids)
    with fused_parts(lm.model):
        assert torch.equal(lm.hidden(ids), right)
    monkeypatch.setattr(kind, "apply", planted(kind.apply))
    with fused_parts(lm.model):
        assert torch.equal(lm.hidden(ids), right)
        assert any("forward" in vars(m) for m in lm.model.modules()) == (what == "Rotate")


def test_rows_of_the_top_layer(monkeypatch, planted, caplog):
    lm = make_lm("llama")
    lm.check()
    assert lm.skips_unread_rows
    real = layers.in_place_of
    monkeypatch.setattr(
        "crosstune.models.fast.top_rows.in_place_of",
        lambda modules, forwards: real(modules, [planted(forwards[0]), *forwards[1:]]),
    )
    TOP_ROWS._said.clear()
    with caplog.at_level(logging.INFO, "crosstune"):
        lm.check()
    assert not lm.skips_unread_rows
    assert "tiny-llama" in caplog.text


def test_cached_states_of_frozen_layers(monkeypatch, planted):
    lm = make_lm("llama")
    method, row = attach(lm, "lora-all"), TrainingRow(tuple(random_ids(9)), 1)
    lm.model.eval()
    assert Reuse(method, row).layer == 1
    real = lm.entry_states
    monkeypatch.setattr(type(lm), "entry_states", lambda self, *args: planted(real)(*args))
    spoilt = Reuse(method, row)
    assert (spoilt.layer, spoilt.why_not) == (0, "the model cannot start at an upper layer")
    assert reuse.ENTERED.tolerance < 0.5


@pytest.mark.skipif(
    DEVICE != "cpu" or not weights.can_pack(), reason="no bf16 products over blocks on this device"
)
def test_weights_in_blocks(monkeypatch, planted):
    lm = make_lm("llama", torch.bfloat16)
    monkeypatch.setattr(weights.BLOCKS, "verdicts", {})
    with weights.packed_weights(lm):
        assert any("forward" in vars(m) for m in lm.model.modules())
    monkeypatch.setattr(weights.BLOCKS, "verdicts", {})
    monkeypatch.setattr(weights, "product", planted(weights.product))
    with weights.packed_weights(lm):
        assert not any("forward" in vars(m) for m in lm.model.modules())


def test_measured_memory():
    told, passes = [], TokenLimit(5000, note=None)
    passes.say = told.append
    assert measure.fit(passes, 4096, raises, torch.device("cpu")) is None
    assert (passes.limit, passes.measured, len(told)) == (5000, True, 1)
