"""Data parallel training: each of several processes computes a share of every batch; gradients are summed.

All hold the same model, method, rows and seed (`torch.distributed` is set up before), draw the same batches,
and take the same step with the same summed gradients: losses and weights are those of one process, to
rounding. A batch's examples are dealt out in turn, longest first, so that shares are of like size. Dropout
draws other numbers in each process and step.

What goes wrong in one process in a step, or while the first one scores, is raised in all of them. Any other
error that one process has alone, and a process that is killed, ends all: each would wait for the others.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from crosstune.errors import NotHere, UserError, first_line
from crosstune.outputs.rows import TrainingRow

Done = TypeVar("Done")
# Numbers in one message: small gradients go together, and no second copy of a large model's is made.
_AT_ONCE = 2**25
EVERYWHERE = "training stopped in all processes"
"""Noted on an error behind which no process waits for another."""


def join() -> None:
    """Join the processes that torchrun has started, one a GPU; nothing in a process of its own."""
    if not distributed.is_torchelastic_launched() or distributed.is_initialized():
        return
    cuda, local = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    # The others wait as long as the first evaluates.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(days=30))


def processes() -> int:
    """How many train together; 1 for a process of its own."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


def on_this_machine() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes() > 1 else 1


def share(batch: Sequence[TrainingRow]) -> list[TrainingRow]:
    """The examples of a batch that this process computes; none where there are fewer than processes.

    Raises:
        NotHere: The batch is of pairs: its loss compares all of them, and is no sum over examples.
    """
    if processes() == 1:
        return list(batch)
    if batch[0].pair is not None:
        raise NotHere("retrieval compares the texts of a whole batch; train it in one process")
    return sorted(batch, key=lambda row: row.size, reverse=True)[rank() :: processes()]


def begin_step(seed: int, step: int) -> None:
    """Seed this process's dropout for a step: whatever was drawn before, resuming draws the same numbers."""
    if processes() > 1:
        torch.manual_seed(random.Random(f"{seed}:{step}:{rank()}").getrandbits(63))


def summed(numbers: Sequence[float], device: torch.device) -> list[float]:
    """Each number's sum over all processes."""
    if processes() == 1:
        return list(numbers)
    # Apple's GPUs have no fp64, and no processes that train together.
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return [float(x) for x in sums]


def most(number: int, device: torch.device) -> int:
    """The largest of all processes' numbers."""
    largest = torch.tensor(number, device=device)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the sum of all processes' gradients; none where no process has one."""
    every = list(parameters)
    if processes() == 1 or not every:
        return
    have = summed([parameter.grad is not None for parameter in every], every[0].device)
    together: list[nn.Parameter] = []
    for parameter in itertools.compress(every, have):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if together and (
            sum(p.numel() for p in together) + parameter.numel() > _AT_ONCE
            or parameter.dtype != together[0].dtype
            or parameter.device != together[0].device
        ):
            _sum(together)
            together = []
        together.append(parameter)
    if together:
        _sum(together)


def _sum(parameters: Sequence[nn.Parameter]) -> None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def of_the_first(score: Callable[[], float]) -> float:
    """A score that the first process computes and all take.

    Raises:
        Exception: It failed there (`raise_together`).
    """
    value, failed = 0.0, None
    if rank() == 0:
        try:
            value = score()
        except Exception as error:  # of any class: the others would wait for this process's next message
            failed = error
    raise_together(failed)
    return float(from_the_first(value))


def in_all(attempt: Callable[[], Done | None], undo: Callable[[], None], device: torch.device) -> Done:
    """A step's work, done in all processes: again where memory ran out in any (``attempt`` gives None).

    Raises:
        Exception: It failed in any of them (`raise_together`).
    """
    while True:
        done, failed = None, None
        try:
            done = attempt()
        except Exception as error:  # of any class: the others would wait for this process's gradients
            failed = error
        repeated, stopped = summed([done is None, failed is not None], device)
        if stopped:
            raise_together(failed)
        if done is not None and not repeated:
            return done
        if done is not None:
            undo()


def raise_together(failed: Exception | None) -> None:
    """Raise in all processes what failed in any of them.

    Raises:
        Exception: What failed in this process, with `EVERYWHERE` noted on it.
        UserError: It failed in another one.
    """
    reasons: list[str | None] = [None]
    if processes() > 1:
        reasons = [None] * processes()
        distributed.all_gather_object(reasons, None if failed is None else first_line(failed))
    if failed is not None:
        if processes() > 1:
            failed.add_note(EVERYWHERE)
        raise failed
    for number, reason in enumerate(reasons, start=1):
        if reason is not None:
            raise UserError(f"{reason} (process {number} of {processes()})")


def everywhere(error: Exception) -> bool:
    """Whether all processes have this error: the settings', or one that `raise_together` has raised."""
    return isinstance(error, UserError) or EVERYWHERE in getattr(error, "__notes__", ())


@contextmanager
def ended_together() -> Iterator[None]:
    """Inside, an error that other processes do not have ends this one, and a lost connection does.

    Raises:
        SystemExit: In place of such an error, which is none of the run's: nothing of it is to be recorded.
    """
    try:
        yield
    except Exception as error:
        if processes() == 1 or everywhere(error):
            raise
        raise SystemExit(
            f"training in {processes()} processes stopped, or one of them has ended: {first_line(error)}; "
            "the same command resumes"
        ) from error


def from_the_first(content: Any = None) -> Any:
    """What the first process has, in all of them."""
    box = [content]
    if processes() > 1:
        distributed.broadcast_object_list(box, 0)
    return box[0]
