"""Two processes that train together (gloo, on CPUs) do what one does alone."""

import multiprocessing
import os
from datetime import timedelta

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from crosstune.config.environment import CHECKPOINT_SECONDS
from crosstune.errors import UserError
from crosstune.outputs.rows import Paired, TrainingRow
from crosstune.training import parallel
from crosstune.training.checkpoint import Checkpoint
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from crosstune.training.sharding import sharded
from tiny_models import DEVICE, make_lm, make_method, random_ids

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


def test_two_processes_train_as_one_does(tmp_path):
    """LoRA in fp32; full fine-tuning of bf16 weights; memory that runs out in the first process alone."""
    small = SETTINGS.model_copy(update={"optimizer": "adafactor", "learning_rate": 1e-3, "clip": 0.0})
    plain = [go("lora", SETTINGS), go("full", small, dtype=torch.bfloat16)]
    lora, full, split = together(
        tmp_path,
        lambda rank: ("lora", SETTINGS, None, rank / 2),
        lambda rank: ("full", small, None, 0.0, torch.bfloat16),
        lambda rank: ("lora", SETTINGS, 20 if rank == 0 else None),
    )
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


def test_a_score_that_fails_in_the_first_process_fails_in_both(tmp_path):
    """Neither waits for the other, sharded weights are whole again, and the next training goes well."""
    fails, one = ValueError("no such column\nand more"), SETTINGS.model_copy(update={"steps": 2})
    *failed, after = together(
        tmp_path,
        lambda rank: ("lora", one, None, fails),
        lambda rank: ("full", one.model_copy(update={"shard": True}), None, fails),
        lambda rank: ("lora", one),
    )
    for (first, own), (second, theirs) in failed:
        assert first == str(fails)
        assert second == "scoring development data failed in the first process: no such column"
        assert all([*own, *theirs])
    assert after[0][0] == after[1][0]


@pytest.mark.parametrize(
    ("processes", "case", "why"), [(1, "lora", "torchrun"), (2, "sparse", "sparse trains")]
)
def test_what_cannot_be_sharded_is_refused(monkeypatch, processes, case, why):
    monkeypatch.setattr(parallel, "processes", lambda: processes)
    method = make_method(case)
    method.attach(make_lm("llama"), seed=1)
    with pytest.raises(UserError, match=why), sharded(method):
        pass
    with pytest.raises(ValueError, match="shard goes with optimizer: adamw"):
        TrainSettings(shard=True, optimizer="adafactor")


def test_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    row = TrainingRow((3, 4), labels=(((0,), 0),), pair=Paired((5, 6), (0,)))
    with pytest.raises(UserError, match="train it in one process"):
        parallel.share([row])
