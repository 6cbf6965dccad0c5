"""Recorded decoding steps, a tape in place of a CUDA graph: the same answers, or plain steps and a line."""

from weakref import ref

import pytest
import torch

from crosstune.config.environment import GPU_OFF
from crosstune.errors import UserError
from crosstune.models.attention.cache import DecodingCache
from crosstune.models.attention.trees import grow
from crosstune.models.fast import graphs
from crosstune.models.proof import wanted
from crosstune.outputs import generation
from tape import TapeRecorder
from tiny_models import DEVICE, SCORED, attach, random_ids

PROMPTS = [random_ids(n, seed=n) for n in (2, 5, 7, 8, 13, 30, 19, 17, 22)]
TOKENS = 14


def batched(lm):
    return generation._generate(lm, [grow([p]) for p in PROMPTS], TOKENS, (), 10_000)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(graphs, "COLUMNS", 8)
    monkeypatch.setattr(graphs.RECORDED, "verdicts", {})


def decode(lm, monkeypatch, recorder, told=None):
    """Answers with recorded steps, four rows at once, and the last stepper's shapes."""
    steppers = []

    def recorded(lm, slots, note=None):
        steppers.append(graphs.FixedStep(lm, slots, recorder, None if told is None else told.append))
        return steppers[-1]

    with monkeypatch.context() as patch:
        patch.setattr(generation, "stepper", recorded)
        trees = [grow([p]) for p in PROMPTS]
        return generation._generate(lm, trees, TOKENS, (), 4 * (30 + TOKENS)), steppers[-1].recorded


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("case", SCORED)
def test_recorded_steps_give_the_same_answers(tiny_lm, monkeypatch, kind, case):
    lm = tiny_lm(kind)
    method = attach(lm, case)
    told, recorder = [], TapeRecorder()
    with method.evaluating():
        wanted = batched(lm)
        answers, shapes = decode(lm, monkeypatch, recorder, told)
    assert answers == wanted
    assert told == []
    assert len(shapes) == recorder.recordings == recorder.rehearsals > 2
    assert any(shapes.values())  # some were proved twice,
    assert recorder.replays > 2 * sum(shapes.values())  # and replayed after that


class Broken(TapeRecorder):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def rehearse(self, work):
        if self.how == "waits":
            return super().rehearse(lambda: work() * (1.0 + 0 * work().sum().item()))
        return super().rehearse(work)

    def record(self, work):
        if self.how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        replay = super().record(work)
        kept = []

        def broken():
            out = replay()
            if self.how == "wrong":
                return out + 1
            if self.how == "no number":
                return out * torch.nan
            # What it gave the first time, ever after.
            kept.append(out.clone())
            return kept[0]

        return broken


@pytest.mark.parametrize(
    ("how", "recordings", "why"),
    [
        ("waits", 0, "called a synchronizing operation: aten.item"),
        ("memory", 0, "CUDA out of memory. Tried to allocate"),
        ("wrong", 1, "it gives other numbers"),
        ("no number", 1, "it gives other numbers"),
        ("stale", None, "it gives other numbers"),
    ],
)
def test_what_cannot_be_recorded_is_said_once_and_computed(tiny_lm, monkeypatch, how, recordings, why):
    lm = tiny_lm("llama")
    told, recorder = [], Broken(how)
    answers, shapes = decode(lm, monkeypatch, recorder, told)
    assert answers == batched(lm)
    assert shapes == {}
    assert len(told) == 1
    assert f"({why})" in told[0]
    assert recordings is None or recorder.recordings == recordings
    assert graphs.RECORDED.verdicts[ref(lm.model)] == why


def test_the_tape_repeats_what_python_did():
    """As a graph would: a test that passed with numbers read from Python would show nothing."""
    x, numbers = torch.zeros(2), [1.0]
    replay = TapeRecorder().record(lambda: x + numbers[0])
    x.fill_(5)
    numbers[0] = 7.0
    assert replay().tolist() == [6, 6]
    with pytest.raises(RuntimeError, match="lift_fresh"):
        TapeRecorder().rehearse(lambda: x + torch.tensor(numbers))


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("case", SCORED)
def test_real_recordings(tiny_lm, monkeypatch, case):
    lm = tiny_lm("gemma3")
    method = attach(lm, case)
    told = []
    with method.evaluating():
        wanted = batched(lm)
        answers, shapes = decode(lm, monkeypatch, graphs.CudaRecorder(lm.device), told)
    assert (answers, told) == (wanted, [])
    assert any(shapes.values())


def test_where_steps_are_recorded(tiny_lm, monkeypatch):
    """On one GPU, unless it is switched off or did not go; asked without a GPU."""
    lm = tiny_lm("llama")
    slots = DecodingCache(lm, 1, 4)

    def recorded():
        return isinstance(graphs.stepper(lm, slots), graphs.FixedStep)

    assert recorded() == (lm.device.type == "cuda")
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(graphs, "CudaRecorder", lambda device: TapeRecorder())
    monkeypatch.setattr(type(lm), "device", property(lambda self: cuda))
    monkeypatch.setattr(type(lm), "layer_device", lambda self, i: cuda)
    monkeypatch.setattr(graphs, "FixedStep", Fake)
    assert isinstance(graphs.stepper(lm, slots), Fake)
    monkeypatch.setenv(GPU_OFF, " graphs,")
    assert not isinstance(graphs.stepper(lm, slots), Fake)
    monkeypatch.delenv(GPU_OFF)
    monkeypatch.setattr(type(lm), "layer_device", lambda self, i: torch.device("cuda", i % 2))
    assert not isinstance(graphs.stepper(lm, slots), Fake)
    monkeypatch.setattr(type(lm), "layer_device", lambda self, i: cuda)
    graphs.RECORDED.verdicts[ref(lm.model)] = "failed"
    assert not isinstance(graphs.stepper(lm, slots), Fake)


class Fake:
    def __init__(self, *args):
        pass


def test_a_part_that_is_none(monkeypatch):
    monkeypatch.setenv(GPU_OFF, "graph")
    with pytest.raises(UserError, match='did you mean "graphs"'):
        wanted("graphs")
