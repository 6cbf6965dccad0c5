"""Two processes that train together (gloo, on CPUs) do what one does alone."""

import multiprocessing
import os
from datetime import timedelta

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from crosstune.config.environment import CHECKPOINT_SECONDS
from crosstune.errors import UserError
from crosstune.models.fast.shards import Shards
from crosstune.models.memory import measure as fitting
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import Paired, TrainingRow
from crosstune.store import failures
from crosstune.training import parallel
from crosstune.training.checkpoint import Checkpoint
from crosstune.training.loop import train
from crosstune.training.objectives import answer_loss
from crosstune.training.settings import TrainSettings
from crosstune.training.sharding import sharded
from tiny_models import DEVICE, collated, make_lm, make_method, random_ids

# The last of four batches an epoch holds one example: nothing is left for the second process.
ROWS = [TrainingRow(tuple(random_ids(4 + i % 9, seed=i)), 1 + i % 3) for i in range(22)]
SETTINGS = TrainSettings(steps=6, batch_size=7, warmup_steps=1, learning_rate=0.01, evaluate_every=2)
PROJECTIONS = ("self_attn.o_proj", "mlp.up_proj", "input_layernorm")
pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="gloo on CPUs")


class Killed(Exception):  # noqa: N818 - nothing went wrong
    """The process is gone."""


def go(case, settings, small=None, score=0.0, dtype=torch.float32, checkpoint=None, stop_after=None):
    """Curve, scores, weights and padded tokens."""
    lm = make_lm("llama", dtype)
    before = {name: (p, p.detach().clone()) for name, p in lm.model.named_parameters()}
    method = make_method(case)
    method.attach(lm, seed=1)

    def check(module, args, kwargs):
        if small is not None and kwargs["inputs_embeds"].shape[:2].numel() > small:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def tell(progress):
        if settings.shard:  # each process holds half of the layers' weights
            layers = [p for layer in lm.layers for p in layer.parameters() if isinstance(p, DTensor)]
            assert sum(p.to_local().numel() for p in layers) == sum(p.numel() for p in layers) / 2 > 40_000
            assert not any(before[f"model.layers.1.{name}.weight"][0].numel() for name in PROJECTIONS)
        if progress.step == stop_after:
            raise Killed

    lm.decoder.register_forward_pre_hook(check, with_kwargs=True)

    def dev_score():
        if isinstance(score, Exception):
            raise score
        return score

    kept = None if checkpoint is None else Checkpoint(checkpoint, "this", lambda line: None)
    try:
        result = train(method, ROWS, settings, 3, dev_score, tell, None, kept)
    except Killed:
        return None
    except (ValueError, UserError) as error:
        method.detach()
        return str(error), [before[name][0] is p for name, p in lm.model.named_parameters()]
    weights = {name: x.detach().float().numpy().copy() for name, x in method.state().items()}
    method.detach()
    after = dict(lm.model.named_parameters())
    assert all(after[name] is p and p.equal(bits) for name, (p, bits) in before.items())
    return [point["loss"] for point in result.curve], result.dev, weights, result.padded_tokens


def together(tmp_path, *jobs):
    """What each of two processes makes of each job."""
    context = multiprocessing.get_context("fork")
    ends = [context.Pipe(False) for _ in range(2)]

    def work(rank):
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo", f"file://{tmp_path}/meet", timedelta(seconds=120), world_size=2, rank=rank
        )
        ends[rank][1].send([go(*job(rank)) for job in jobs])
        distributed.barrier()
        os._exit(0)

    running = [context.Process(target=work, args=(rank,)) for rank in range(2)]
    for process in running:
        process.start()
    assert all(receive.poll(200) for receive, _ in ends)
    answers = [receive.recv() for receive, _ in ends]
    for process in running:
        process.join()
    return list(zip(*answers, strict=True))


def test_two_processes_train_as_one_does(tmp_path, monkeypatch):
    """LoRA in fp32; full tuning of bf16 weights; memory that runs out in one; dropout, stopped or not."""
    monkeypatch.setenv(CHECKPOINT_SECONDS, "0")
    (tmp_path / "kept").mkdir()
    dropout = "lora-dropout", SETTINGS, None, 0.0, torch.float32
    small = SETTINGS.model_copy(update={"optimizer": "adafactor", "learning_rate": 1e-3, "clip": 0.0})
    plain = [go("lora", SETTINGS), go("full", small, dtype=torch.bfloat16)]
    lora, full, split, whole, _, resumed = together(
        tmp_path,
        lambda rank: ("lora", SETTINGS, None, rank / 2),
        lambda rank: ("full", small, None, 0.0, torch.bfloat16),
        lambda rank: ("lora", SETTINGS, 20 if rank == 0 else None),
        lambda rank: dropout,
        *[lambda rank, at=at: (*dropout, None if rank else tmp_path / "kept", at) for at in (3, None)],
    )
    for one, other in zip(whole, resumed, strict=True):
        assert one[0] == other[0]
        assert all((one[2][name] == other[2][name]).all() for name in one[2])
    for one, (first, second), noise in (
        (plain[0], lora, 1e-4),
        (plain[1], full, 0.02),
        (plain[0], split, 1e-4),
    ):
        assert first[0] == second[0] == pytest.approx(one[0], rel=noise)
        assert all((first[2][name] == second[2][name]).all() for name in one[2])
        assert all(abs(first[2][name] - x).max() <= 20 * noise * abs(x).max() for name, x in one[2].items())
    # The first process's score counts in both; the second would have had another.
    assert [point["score"] for point in lora[0][1]] == [point["score"] for point in lora[1][1]] == [0.0] * 3
    # Each computes a share, and both say what all computed.
    assert lora[0][3] == lora[1][3] == pytest.approx(plain[0][3], rel=0.3)


def test_sharded_weights_train_as_whole_ones_do(tmp_path, monkeypatch):
    """LoRA over frozen shards, unlike numbers of passes, checkpointing; full tuning, stopped and taken up."""
    monkeypatch.setenv(CHECKPOINT_SECONDS, "0")
    shard = {"shard": True}
    passes = SETTINGS.model_copy(update={"gradient_checkpointing": True, "tokens_per_pass": 16})
    plain = [go("lora", passes), go("full", SETTINGS), go("full", SETTINGS, dtype=torch.bfloat16)]
    (tmp_path / "kept").mkdir()

    def full(rank, stop_after=None):
        folder = tmp_path / "kept" if rank == 0 else None
        return "full", SETTINGS.model_copy(update=shard), None, 0.0, torch.float32, folder, stop_after

    lora, _, whole, narrow = together(
        tmp_path,
        lambda rank: ("lora", passes.model_copy(update=shard)),
        lambda rank: full(rank, 3),
        full,
        lambda rank: ("full", SETTINGS.model_copy(update=shard), None, 0.0, torch.bfloat16),
    )
    for one, (first, second), noise in zip(plain, (lora, whole, narrow), (1e-4, 1e-4, 0.02), strict=True):
        assert first[0] == second[0] == pytest.approx(one[0], rel=noise)
        assert all((first[2][name] == second[2][name]).all() for name in one[2])
        assert all(abs(first[2][name] - x).max() <= 20 * noise * abs(x).max() for name, x in one[2].items())


def test_what_fails_in_one_process_fails_in_both(tmp_path):
    """Neither waits for the other, sharded weights are whole again, and the next training goes well."""
    fails, one = ValueError("no such column\nand more"), SETTINGS.model_copy(update={"steps": 2})
    memory, *failed, after = together(
        tmp_path,
        lambda rank: ("lora", one, 4 if rank == 1 else None),
        lambda rank: ("lora", one, None, fails),
        lambda rank: ("full", one.model_copy(update={"shard": True}), None, fails),
        lambda rank: ("lora", one),
    )
    for (first, own), (second, theirs) in failed:
        assert first == str(fails)
        assert second == "no such column (process 1 of 2)"
        assert all([*own, *theirs])
    assert memory[0][0] == f"{memory[1][0]} (process 2 of 2)"
    assert "ran out in training on one example" in memory[0][0]
    assert after[0][0] == after[1][0]


def test_an_error_of_one_process_ends_it_and_is_no_failure_of_the_run(monkeypatch):
    """The others are killed by torchrun, or lose the connection; the same command resumes."""
    with pytest.raises(RuntimeError), parallel.ended_together():
        raise RuntimeError("Connection reset by peer")
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    why = "one of them has ended: Connection reset by peer; the same command"
    with pytest.raises(SystemExit, match=why), parallel.ended_together():
        raise RuntimeError("Connection reset by peer")
    with pytest.raises(UserError, match="diverged"), parallel.ended_together():
        raise UserError("diverged")


def test_dropout_is_drawn_by_step_and_process(monkeypatch):
    def drawn(step, rank, processes=2):
        monkeypatch.setattr(parallel, "processes", lambda: processes)
        monkeypatch.setattr(parallel, "rank", lambda: rank)
        parallel.begin_step(5, step)
        return float(torch.rand(()))

    with torch.random.fork_rng(devices=[]):
        first = drawn(1, 0)
        assert len({first, drawn(1, 1), drawn(2, 0), drawn(2, 1)}) == 4
        assert first == drawn(1, 0) != drawn(1, 0, processes=1)


@pytest.fixture
def one_as_two(monkeypatch, tmp_path):
    """One process that takes itself for the first of two: what is summed over both is its own."""
    distributed.init_process_group("gloo", f"file://{tmp_path}/alone", world_size=1, rank=0)
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    yield
    distributed.destroy_process_group()


def test_what_no_process_has_a_gradient_of_has_none(one_as_two):
    """A zero would let weight decay move it."""
    seen, unseen = (nn.Parameter(torch.ones(3)) for _ in range(2))
    (2 * seen).sum().backward()
    parallel.sum_gradients([unseen, seen])
    assert seen.grad.tolist() == [2.0] * 3
    assert unseen.grad is None
    lm = make_lm("llama")
    method = make_method("full")
    method.attach(lm, seed=1)
    shards = Shards(lm, method.parameters() | {"unseen": unseen}, ())
    lm.model.train()
    answer_loss(lm, collated(ROWS[:2])).backward()
    shards.after_backward()
    assert [name for name, row in shards.collect().items() if row.grad is None] == ["unseen"]
    shards.close()


def test_memory_is_measured_of_what_one_process_computes(one_as_two, monkeypatch):
    """A trial's tokens all go through this process: with half of them twice as many would seem to fit."""
    passes, trials = TokenLimit(8192, "cpu", "training"), []
    computed = []
    passes.watch = lambda passes, rows, size: computed.append(size)

    def fit(passes, tokens, trial, *_):
        trials.extend(trial(n) for n in (tokens // 2, tokens))

    monkeypatch.setattr(fitting, "measures", lambda lm: not trials)
    monkeypatch.setattr(fitting, "fit", fit)
    monkeypatch.setattr(fitting, "peak", lambda device, work: work() and 0)
    method = make_method("lora")
    method.attach(make_lm("llama"), seed=1)
    train(method, ROWS, SETTINGS.model_copy(update={"steps": 1, "batch_size": 8}), passes=passes)
    assert [trial.size for trial in trials] == computed[:2]
    assert computed[2] == computed[1]


@pytest.mark.parametrize(
    ("processes", "case", "why"), [(1, "lora", "torchrun"), (2, "sparse", "sparse trains")]
)
def test_what_cannot_be_sharded_is_refused(tmp_path, monkeypatch, processes, case, why):
    """What other processes could do is no failure that is kept: they try it by themselves."""
    monkeypatch.setattr(parallel, "processes", lambda: processes)
    method = make_method(case)
    method.attach(make_lm("llama"), seed=1)
    with pytest.raises(UserError, match=why) as refused, sharded(method):
        pass
    failures.keep(tmp_path, "0" * 16, "a run", refused.value)
    assert len(failures.read(tmp_path)) == processes - 1
    with pytest.raises(ValueError, match="shard goes with optimizer: adamw"):
        TrainSettings(shard=True, optimizer="adafactor")


def test_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    row = TrainingRow((3, 4), labels=(((0,), 0),), pair=Paired((5, 6), (0,)))
    with pytest.raises(UserError, match="train it in one process"):
        parallel.share([row])
