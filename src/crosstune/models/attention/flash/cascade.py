"""Trees of texts in a line, for a GPU's flash kernel: what several texts follow is attended to once for all.

Each run of tokens without branches attends to itself, and what follows a run attends to it, a call for each
depth. The parts of a token's softmax are put together by their log-sum-exp. Keys and values in front of all
texts are one more such run. Where a window is shorter than the texts, which the kernel counts from a text's
end, the keys that a run follows are put in front of its own instead.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.models.attention.flash import kernel
from crosstune.models.attention.trees import runs_of


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the kernel: pairs of tokens that see and tokens that are seen."""

    rows: Tensor | None  # ``[rows]``: places of those that see, pair behind pair; None for all of the line
    columns: Tensor | None  # the same of those that are seen
    ends: tuple[Tensor, Tensor]  # ``[pairs + 1]`` int32 each: where each pair's begin among them
    longest: tuple[int, int]

    @classmethod
    def of(
        cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device, line: bool = False
    ) -> "Call":
        """Of pairs; ``line``: those that see are the whole line in its order."""
        sides = list(zip(*pairs, strict=True))
        ends = [torch.tensor([0, *itertools.accumulate(map(len, side))], dtype=torch.int32) for side in sides]
        rows, columns = (torch.tensor(list(itertools.chain(*side)), device=device) for side in sides)
        longest = max(map(len, sides[0])), max(map(len, sides[1]))
        return cls(None if line else rows, columns, (ends[0].to(device), ends[1].to(device)), longest)

    def run(
        self, q: Tensor, k: Tensor, v: Tensor, scaling: float, window: tuple[int, int] = (-1, -1)
    ) -> tuple[Tensor, Tensor]:
        """What the rows see, ``[rows, heads, d]``, and log-sum-exps, ``[rows, heads]`` (`kernel.flash`)."""
        q = q if self.rows is None else q[self.rows]
        k, v = (x if self.columns is None else x[self.columns] for x in (k, v))
        return kernel.flash(q, k, v, self.ends, self.longest, scaling, window)


def calls_of(ends: Sequence[int], windows: bool, device: torch.device) -> list[Call]:
    """The calls that a line needs: its runs with themselves, then each depth with what it follows.

    Args:
        ends: Of each token the last place in the line that sees it.
        windows: A window is shorter than the texts: one call, with the keys of all that a run follows.
        device: Of the line.
    """
    runs = runs_of(ends)
    deepest = max(depth for *_, depth in runs)
    if windows:
        pairs: list[tuple[Sequence[int], Sequence[int]]] = []
        path = [range(0)] * (deepest + 1)
        for first, last, depth in runs:
            path[depth] = range(first, last)
            pairs.append((path[depth], [*itertools.chain(*path[: depth + 1])]))
        return [Call.of(pairs, device, line=True)]
    calls = [Call.of([(range(a, b), range(a, b)) for a, b, _ in runs], device, line=True)]
    for level in range(deepest):
        below = [(range(b, ends[b - 1] + 1), range(a, b)) for a, b, depth in runs if depth == level]
        calls.append(Call.of([pair for pair in below if pair[0]], device))
    return calls


def attend(
    calls: Sequence[Call],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scaling: float,
    front: tuple[Tensor, Tensor] | None,
    window: int | None,
) -> Tensor:
    """Attention of a line of trees.

    Args:
        calls: As `calls_of` gives them; with ``windows`` exactly where there is a window.
        q: ``[line, heads, d]``.
        k: ``[line, kv_heads, d]``.
        v: As ``k``.
        scaling: Factor of the scores.
        front: Keys and values that every token sees, ``[n, kv_heads, d]``; not with a window.
        window: Tokens that each sees, itself included.

    Returns:
        As ``q``.
    """
    out, scores = calls[0].run(q, k, v, scaling, (-1 if window is None else window - 1, 0))
    parts = [(call.rows, *call.run(q, k, v, scaling)) for call in calls[1:]]
    if front is not None:
        sizes = len(q), len(front[0])
        ends = [torch.tensor([0, size], dtype=torch.int32, device=q.device) for size in sizes]
        parts.append((None, *Call(None, None, (ends[0], ends[1]), sizes).run(q, *front, scaling)))
    if not parts:
        return out
    mixed = out.float()
    for rows, more, of_more in parts:
        at = slice(None) if rows is None else rows
        mixed[at], scores[at] = merged(mixed[at], scores[at], more.float(), of_more)
    return mixed.to(q.dtype)


def merged(one: Tensor, of_one: Tensor, other: Tensor, of_other: Tensor) -> tuple[Tensor, Tensor]:
    """One softmax over what two were over: mixed values ``[..., d]`` and log-sum-exps of scores ``[...]``."""
    both = torch.logaddexp(of_one, of_other)
    shares = [(x - both).exp()[..., None] for x in (of_one, of_other)]
    return one * shares[0] + other * shares[1], both
