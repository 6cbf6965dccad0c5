"""Recorded decoding steps, a tape in place of a CUDA graph: the same answers, or plain steps and a line."""

import functools
from weakref import ref

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from crosstune.config.environment import GPU_OFF
from crosstune.errors import UserError
from crosstune.models.attention.cache import DecodingCache
from crosstune.models.attention.trees import grow
from crosstune.models.fast import graphs, kernels
from crosstune.models.proof import wanted
from crosstune.outputs import generation
from tape import Tape, TapeRecorder
from tiny_models import DEVICE, SCORED, attach, make_lm, random_ids

PROMPTS = [random_ids(n, seed=n) for n in (2, 5, 7, 8, 13, 30, 19, 17, 22)]
TOKENS = 14


def batched(lm):
    return generation._generate(lm, [grow([p]) for p in PROMPTS], TOKENS, (), 10_000)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr("crosstune.models.attention.cache.COLUMNS", 8)
    monkeypatch.setattr(graphs.RECORDED, "verdicts", {})


def decode(lm, monkeypatch, recorder, told=None, rows=4, tokens=TOKENS, late=1):
    """Answers with recorded steps, so many rows at once, and the steps."""
    made = []

    def recorded(lm, slots, note=None):
        slots.rounded = True
        steps = graphs.kept(lm, slots, lambda device: recorder, None if told is None else told.append)
        steps.late = late
        made.append(steps)
        return steps

    with monkeypatch.context() as patch:
        patch.setattr(generation, "stepper", recorded)
        trees = [grow([p]) for p in PROMPTS]
        return generation._generate(lm, trees, tokens, (), rows * (30 + tokens)), made[-1]


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("case", SCORED)
def test_recorded_steps_give_the_same_answers(tiny_lm, monkeypatch, kind, case):
    lm = tiny_lm(kind)
    method = attach(lm, case)
    told, recorder = [], TapeRecorder()
    with method.evaluating():
        wanted = batched(lm)
        answers, steps = decode(lm, monkeypatch, recorder, told)
    assert answers == wanted
    assert told == []
    assert len(steps.recorded) == recorder.recordings == recorder.rehearsals > 2
    assert any(steps.recorded.values())  # some were proved twice,
    assert recorder.replays > 2 * sum(steps.recorded.values())  # and replayed after that


def test_recordings_are_kept_with_the_model(tiny_lm, monkeypatch):
    """Other texts, fewer and shorter, in the same memory: nothing is recorded that was before."""
    lm, recorder = tiny_lm("gemma3"), TapeRecorder()
    wanted = batched(lm)
    _, steps = decode(lm, monkeypatch, recorder)
    _, again = decode(lm, monkeypatch, recorder)  # shapes that were met once are recorded now
    recordings, replays = recorder.recordings, recorder.replays
    answers, third = decode(lm, monkeypatch, recorder)
    assert steps is again is third is lm.steps
    assert answers == wanted
    assert recorder.recordings == recordings
    assert recorder.replays > replays + TOKENS
    fewer, fourth = decode(lm, monkeypatch, recorder, rows=2)
    assert (fewer, fourth is lm.steps) == (wanted, True)
    more, fifth = decode(lm, monkeypatch, recorder, rows=9)
    assert more == wanted
    assert fifth is lm.steps is not fourth


@pytest.mark.parametrize("case", ["lora", "prefix-kv"])
def test_a_recording_of_something_else_is_not_replayed(tiny_lm, monkeypatch, case):
    """The bare model, a method on it, its weights merged, the bare model again: each noticed by itself."""
    lm, recorder = tiny_lm("llama"), TapeRecorder()

    def go():
        wanted = batched(lm)
        before = recorder.recordings
        for _ in range(2):
            assert decode(lm, monkeypatch, recorder)[0] == wanted
        return recorder.recordings - before

    assert go()
    method = attach(lm, case)
    assert go()
    with method.evaluating():
        assert bool(go()) == (case == "lora")  # a prefix stands in the cache either way
    method.detach()
    assert go()


def test_what_fails_on_the_way_gives_its_memory_back(tiny_lm, monkeypatch):
    lm = tiny_lm("llama")
    decode(lm, monkeypatch, TapeRecorder())

    def fails(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generation, "_read", fails)
    with pytest.raises(torch.OutOfMemoryError):
        decode(lm, monkeypatch, TapeRecorder())
    assert lm.steps is None


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
    answers, steps = decode(lm, monkeypatch, recorder, told)
    assert answers == batched(lm)
    assert (steps.recorded, lm.steps) == ({}, None)
    assert len(told) == 1
    assert f"({why})" in told[0]
    assert recordings is None or recorder.recordings == recordings
    assert graphs.RECORDED.verdicts[ref(lm.model)] == why


@pytest.mark.parametrize("fails", [False, True])
def test_compiled_kernels_are_part_of_recordings(monkeypatch, fails):
    """As PyTorch's, they refuse to run where operations are looked at; recorded without where they fail."""
    ran = set()

    def compile_(function, fullgraph):
        def kernel(*args):
            modes = {type(mode) for mode in _get_current_dispatch_mode_stack()}
            if graphs.Trace in modes:
                raise RuntimeError("found no compiled frames")
            ran.add((function.__name__, Tape in modes))
            return function(*args)

        return kernel

    monkeypatch.setattr(kernels.torch, "compile", compile_)
    monkeypatch.setattr(kernels, "compiled", functools.cache(kernels.compiled.__wrapped__))
    monkeypatch.setattr(kernels.FUSED, "verdicts", {})

    class Recorder(TapeRecorder):
        def record(self, work):
            replay = super().record(work)
            if fails and any(taped for _, taped in ran):
                ran.clear()
                raise RuntimeError("operation not permitted when stream is capturing")
            return replay

    lm, told, recorder = make_lm("llama", torch.bfloat16), [], Recorder()
    with kernels.fused_kernels(lm.model, lm.dtype):
        assert kernels.in_use(lm.model)
        wanted = batched(lm)
        answers, steps = decode(lm, monkeypatch, recorder, told)
    assert not kernels.in_use(lm.model)
    assert answers == wanted
    assert any(steps.recorded.values())
    assert {name for name, taped in ran if taped} == (set() if fails else {"norm", "turn", "gate"})
    assert ["in a recorded step: operation not permitted" in line for line in told] == [True] * fails


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
        answers, steps = decode(lm, monkeypatch, graphs.CudaRecorder(lm.device), told)
    assert (answers, told) == (wanted, [])
    assert any(steps.recorded.values())


def test_where_steps_are_recorded(tiny_lm, monkeypatch):
    """On one GPU, unless it is switched off or did not go; asked without a GPU."""
    lm = tiny_lm("llama")
    slots = DecodingCache(lm, 1, 4)
    assert (graphs.stepper(lm, slots)._recorder is not None) == (lm.device.type == "cuda")
    cuda = torch.device("cuda", 0)
    asked = []
    monkeypatch.setattr(graphs, "kept", lambda *args: asked.append(args) or graphs.Steps)
    monkeypatch.setattr(graphs, "Steps", lambda *args: None)
    monkeypatch.setattr(type(lm), "device", property(lambda self: cuda))
    monkeypatch.setattr(type(lm), "layer_device", lambda self, i: cuda)

    def recorded():
        asked.clear()
        graphs.stepper(lm, slots)
        return len(asked) == 1

    assert recorded()
    monkeypatch.setenv(GPU_OFF, " graphs,")
    assert not recorded()
    monkeypatch.delenv(GPU_OFF)
    monkeypatch.setattr(type(lm), "layer_device", lambda self, i: torch.device("cuda", i % 2))
    assert not recorded()
    monkeypatch.setattr(type(lm), "layer_device", lambda self, i: cuda)
    graphs.RECORDED.verdicts[ref(lm.model)] = "failed"
    assert not recorded()


def test_a_part_that_is_none(monkeypatch):
    monkeypatch.setenv(GPU_OFF, "graph")
    with pytest.raises(UserError, match='did you mean "graphs"'):
        wanted("graphs")
