"""Who sees whom in a forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

RIDER = "crosstune_pattern"
"""Attribute of a mask that holds the attention pattern it is of.

A checkpointed layer runs again in the backward pass, when only its arguments are left.
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Lines that hold trees of text: a token sees those it follows, from its tree's root down to itself.

    Tokens stand in depth-first order, so the tokens of a subtree are neighbours. A shared prefix with
    branches, a passage with questions that have choices, and several unrelated texts are all written so.
    """

    prompts_inside: ClassVar[bool] = False

    ends: Tensor  # ``[batch, length]``: column of the last token that sees this one; -1 for padding
    positions: Tensor  # ``[batch, length]``: place of each token in its own text

    def mask(self, window: int | None) -> Tensor:
        """Boolean ``[batch, 1, length, length]``, True where row may attend to column."""
        length = self.ends.shape[1]
        index = torch.arange(length, device=self.ends.device)
        seen = (self.ends[:, None, :] >= index[:, None]) & (index[:, None] >= index)
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        # A padding row attends to itself, so that no softmax is over nothing.
        mask = (seen | torch.eye(length, dtype=torch.bool, device=seen.device))[:, None]
        return ridden(mask, self)

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

    @property
    def prompts_inside(self) -> bool:
        """See above."""

    @property
    def positions(self) -> Tensor:
        """``[1 or batch, columns]``: of each token in its own text."""

    def mask(self, window: int | None) -> Tensor:
        """Who sees whom, no prompts: boolean ``[batch, 1, rows, columns]``, or `PaddingFreeBatch.mask`."""


def ridden(mask: Tensor, pattern: Attended) -> Tensor:
    """The mask, with the pattern it is of (`pattern_of`)."""
    setattr(mask, RIDER, pattern)
    return mask


def pattern_of(mask: Tensor | None) -> Attended | None:
    """The pattern that a mask is of, if it is of one."""
    return getattr(mask, RIDER, None)


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
