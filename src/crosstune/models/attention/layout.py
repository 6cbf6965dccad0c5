"""Who sees whom in a forward."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    two_way: ClassVar[bool] = False

    ends: Tensor  # ``[batch, length]``: column of the last token that sees this one; -1 for padding
    positions: Tensor  # ``[batch, length]``: place of each token in its own text
    by_rotation: bool = False  # rows may be rotated otherwise where they are long: read by themselves

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
            self.by_rotation,
        )

    def apart(self, run: "Callable[[Tensor, Layout | None], Tensor]", rows: Tensor, most: int) -> Tensor:
        """What a model makes of the rows, those whose longest text is over ``most`` tokens by themselves.

        Args:
            run: Rows ``[n, width, hidden]`` and their layout, None for plain causal order, to as much.
            rows: ``[batch, length, hidden]``.
            most: Tokens.
        """
        filled = self.ends >= 0
        long = torch.where(filled, self.positions + 1, 0).amax(1) > most
        sides, states = [(long == side).nonzero()[:, 0] for side in (False, True)], []
        for side in filter(len, sides):
            width = int(filled[side].sum(1).amax())
            ends, positions = self.ends[side, :width], self.positions[side, :width]
            in_order = positions == torch.arange(width, device=positions.device)
            layout = None if bool((in_order | (ends < 0)).all()) else Layout(ends, positions)
            states.append(pad(run(rows[side, :width], layout), (0, 0, 0, rows.shape[1] - width)))
        return torch.cat(states)[torch.cat(sides).argsort()]


@dataclass(frozen=True, slots=True)
class TwoWayLayout:
    """Lines that hold texts, each token of which sees all tokens of its own text: an encoder's."""

    prompts_inside: ClassVar[bool] = False
    two_way: ClassVar[bool] = True

    texts: Tensor  # ``[batch, length]``: number of each token's text in its line; -1 for padding
    positions: Tensor  # ``[batch, length]``: place of each token in its own text

    def mask(self, window: int | None) -> Tensor:
        """As `Layout.mask`; a window is counted to either side. Padding sees padding."""
        seen = self.texts[:, :, None] == self.texts[:, None, :]
        if window is not None:
            seen &= (self.positions[:, :, None] - self.positions[:, None, :]).abs() < window
        return ridden(seen[:, None], self)

    def behind(self, n: int) -> "TwoWayLayout":
        """The same with ``n`` tokens in front of the one text that each line holds: they see it too."""
        if n == 0:
            return self
        assert int(self.texts.max()) == 0, "a soft prompt sees its text, so that no other can share it"
        front = torch.arange(n, device=self.texts.device).expand(len(self.texts), -1)
        return TwoWayLayout(
            torch.cat([torch.zeros_like(front), self.texts], dim=1),
            torch.cat([front, self.positions + n], dim=1),
        )


class Attended(Protocol):
    """What says who sees whom in a forward.

    Attributes:
        prompts_inside: Whether the keys and values that the model hands over hold joint prompts already.
        two_way: Whether tokens see those behind them too: for modules that are not causal, and no others.
    """

    two_way: ClassVar[bool]

    @property
    def prompts_inside(self) -> bool:
        """See above."""

    @property
    def positions(self) -> Tensor:
        """``[1 or batch, columns]``: of each token in its own text."""

    def mask(self, window: int | None) -> Tensor:
        """Who sees whom, no prompts: boolean ``[batch, 1, rows, columns]``, or `PaddingFreeBatch.mask`."""


def ridden(mask: Tensor, pattern: object) -> Tensor:
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
