"""Data parallel training: each of several processes computes a share of every batch; gradients are summed.

All hold the same model, method, rows and seed (`torch.distributed` is set up before), draw the same batches,
and take the same step with the same summed gradients: losses and weights are those of one process, to
rounding. A batch's examples are dealt out in turn, longest first, so that shares are of like size. Dropout
draws other numbers in each process.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from crosstune.errors import UserError, first_line
from crosstune.outputs.rows import TrainingRow

# Numbers in one message: small gradients go together, and no second copy of a large model's is made.
_AT_ONCE = 2**25
EVERYWHERE = "training stopped in all processes"
"""Noted on an error behind which no process waits for another."""


def join() -> None:
    """Join the processes that torchrun has started, one a GPU; nothing in a process of its own."""
    if not distributed.is_torchelastic_launched() or distributed.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The others wait as long as the first evaluates.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(days=30))


def processes() -> int:
    """How many train together; 1 for a process of its own."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


def share(batch: Sequence[TrainingRow]) -> list[TrainingRow]:
    """The examples of a batch that this process computes; none where there are fewer than processes.

    Raises:
        UserError: The batch is of pairs: its loss compares all of them, and is no sum over examples.
    """
    if processes() == 1:
        return list(batch)
    if batch[0].pair is not None:
        raise UserError("retrieval compares the texts of a whole batch; train it in one process")
    return sorted(batch, key=lambda row: row.size, reverse=True)[rank() :: processes()]


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
    """Give every process the sum of all processes' gradients; without one, as if it were 0."""
    if processes() == 1:
        return
    together: list[nn.Parameter] = []
    for parameter in parameters:
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
        UserError: It failed there; the first process raises that error itself, with `EVERYWHERE` noted on it.
    """
    if processes() == 1:
        return score()
    failed: Exception | None = None
    outcome = 0.0, ""
    if rank() == 0:
        try:
            outcome = score(), ""
        except Exception as error:  # of any class: the others would wait for this process's next message
            error.add_note(EVERYWHERE)
            failed, outcome = error, (0.0, first_line(error))
    value, why = from_the_first(outcome)
    if failed is not None:
        raise failed
    if why:
        raise UserError(f"scoring development data failed in the first process: {why}")
    return float(value)


def from_the_first(content: Any = None) -> Any:
    """What the first process has, in all of them."""
    box = [content]
    if processes() > 1:
        distributed.broadcast_object_list(box, 0)
    return box[0]
