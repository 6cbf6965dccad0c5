"""Who sees whom in a forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Lines that hold trees of text: a token sees those it follows, from its tree's root down to itself.

    Tokens stand in depth-first order, so the tokens of a subtree are neighbours. A shared prefix with
    branches, a passage with questions that have choices, and several unrelated texts are all written so.

    Attributes:
        ends: ``[batch, length]``: column of the last token that sees this one; -1 for padding.
        positions: ``[batch, length]``: place of each token in its own text.
    """

    prompts_inside: ClassVar[bool] = False

    ends: Tensor
    positions: Tensor

    def mask(self, window: int | None) -> Tensor:
        """Boolean ``[batch, 1, length, length]``, True where row may attend to column."""
        length = self.ends.shape[1]
        index = torch.arange(length, device=self.ends.device)
        seen = (self.ends[:, None, :] >= index[:, None]) & (index[:, None] >= index)
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        # A padding row attends to itself, so that no softmax is over nothing.
        return (seen | torch.eye(length, dtype=torch.bool, device=seen.device))[:, None]

    def behind(self, n: int) -> "Layout":
        """The same with ``n`` tokens in front that all texts of a line follow."""
        if n == 0:
            return self
        batch, length = self.ends.shape
        front = torch.arange(n, device=self.ends.device).expand(batch, -1)
        ends = torch.where(self.ends < 0, self.ends, self.ends + n)
        return Layout(
            torch.cat([torch.full_like(front, n + length - 1), ends], dim=1),
            torch.cat([front, self.positions + n], dim=1),
        )


class Attended(Protocol):
    """What says who sees whom in a forward.

    Attributes:
        prompts_inside: Whether the keys and values that the model hands over hold joint prompts already.
    """

    prompts_inside: ClassVar[bool]

    def mask(self, window: int | None) -> Tensor:
        """Who sees whom, no prompts: boolean ``[batch, 1, rows, columns]``, or `PaddingFreeBatch.mask`."""


@dataclass(slots=True)
class InUse:
    """Who sees whom in a forward, and whether the model has asked for a causal mask, and so got this one."""

    pattern: Attended
    applied: bool = False


_in_use: ContextVar[InUse | None] = ContextVar("crosstune_attention_pattern", default=None)


def in_use() -> InUse | None:
    """What `laid_out` has set, if anything."""
    return _in_use.get()


@contextmanager
def laid_out(layout: Attended | None) -> Iterator[None]:
    """Inside, models attend by ``layout`` instead of plain causal order."""
    token = _in_use.set(None if layout is None else InUse(layout))
    try:
        yield
    finally:
        _in_use.reset(token)
