"""Texts, or trees of texts, behind one another in one line: no padding, and attention text by text.

Everything but attention looks at tokens one at a time, so a batch is one line of all its texts, and
projections and MLPs compute nothing for padding. Attention takes the texts one after the other, as plain
matrix products with all heads of a group in one: for the lengths of training examples two to three times
as fast on a CPU as PyTorch's fused kernel in bf16 (benchmarks/NOTES.md), at the price of keeping the
probabilities for the backward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

# Probabilities of a text this long are 8 MB a head in bf16; beyond, the fused kernel is the better one.
LONGEST = 2048
RIDER = "crosstune_ragged"
"""Attribute of a mask that holds the layout it is of."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """A line of texts, of which each token sees those before it in its own text and in the trunk.

    Where `places` and `ends` are given, a text is a tree in depth-first order, as in `attention.Layout`: a
    token sees only those that it follows.

    Attributes:
        lengths: Of the texts, in line.
        trunk: Tokens at the beginning of the line that all texts follow.
        device: Where the model's input is.
        places: ``[line, trunk left out]``: of each token in its own text; None for one behind the other.
        ends: As long: last token of its tree that sees this one, counted from the tree's first.
    """

    prompts_inside: ClassVar[bool] = False

    lengths: tuple[int, ...]
    trunk: int = 0
    device: torch.device | str = "cpu"
    places: Tensor | None = None
    ends: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """``[1, line]``: place of each token in its own text, the trunk counted in."""
        if self.places is not None:
            trunk = torch.arange(self.trunk, device=self.device)
            return torch.cat([trunk, self.places + self.trunk])[None]
        texts = [torch.arange(seen, seen + n) for _, n, seen in self.pieces()]
        return torch.cat(texts)[None].to(self.device)

    def behind(self, n: int) -> "Ragged":
        """The same with ``n`` tokens in front that all texts follow."""
        return replace(self, trunk=self.trunk + n)

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """Of the trunk (if there is one) and each text: first token, length, tokens of the trunk it sees."""
        if self.trunk:
            yield 0, self.trunk, 0
        start = self.trunk
        for n in self.lengths:
            yield start, n, self.trunk
            start += n

    def mask(self, window: int | None) -> Tensor:
        """``[1, 1, line, trunk + longest]``, to be added to scores: 0 where a row sees a column, else -inf.

        Columns are the trunk's and then those of the row's own text; a row of the trunk has that alone.
        The layout rides on it, for `of_mask`: a checkpointed layer runs again in the backward pass, when only
        its arguments are left.
        """
        line, longest = self.trunk + sum(self.lengths), max(self.lengths, default=0)
        mask = torch.full((line, self.trunk + longest), -torch.inf, device=self.device)
        place = self.positions[0]
        for start, n, seen in self.pieces():
            own = torch.arange(n, device=self.device)
            follows = own[:, None] >= own
            if self.ends is not None and start >= self.trunk:
                follows &= own[:, None] <= self.ends[start - self.trunk : start - self.trunk + n]
            sees = torch.nn.functional.pad(follows, (seen, 0), value=True)
            if window is not None:
                columns = torch.cat([place[:seen], place[start : start + n]])
                sees &= place[start : start + n, None] - columns < window
            mask[start : start + n, : seen + n].masked_fill_(sees, 0.0)
        mask = mask[None, None]
        setattr(mask, RIDER, self)
        return mask

    @staticmethod
    def of_mask(mask: Tensor | None) -> "Ragged | None":
        """The layout that a mask is of, if it is of one."""
        return getattr(mask, RIDER, None)


def attend(
    layout: Ragged,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None = None,
    front: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``softmax(scaling * Q K') V`` of every text with itself, the trunk, and keys and values in front.

    Args:
        layout: Of the line.
        query: ``[1, heads, line, head_dim]``.
        key: ``[1, kv_heads, line, head_dim]``.
        value: As ``key``.
        mask: Of `Ragged.mask`.
        scaling: Factor of the scores; None for ``head_dim ** -0.5``.
        front: Keys and values, each ``[kv_heads, n, head_dim]``, that every token sees.

    Returns:
        ``[1, line, heads, head_dim]``.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    # [line, heads, d] as [line, kv_heads, group, d]: the heads that share keys stand side by side.
    q = q.unflatten(1, (k.shape[1], -1))
    front_k, front_v = (x[:0] for x in (k, v)) if front is None else (x.transpose(0, 1) for x in front)
    run: Any = _Attend.apply
    out: Tensor = run(q, k, v, front_k, front_v, layout, mask[0, 0], scaling)
    return out.flatten(1, 2)[None]


def _rows(line: Tensor, start: int, n: int) -> Tensor:
    """``[line, kv_heads, group, d]`` of one text as ``[kv_heads, n * group, d]``."""
    return line[start : start + n].transpose(0, 1).flatten(1, 2)


def _columns(line: Tensor, front: Tensor, start: int, n: int, seen: int) -> Tensor:
    """What a text sees of ``[line, kv_heads, d]``: front, trunk and itself, as ``[kv_heads, columns, d]``."""
    own = line[start : start + n]
    if len(front) or seen:
        own = torch.cat([front, line[:seen], own])
    return own.transpose(0, 1)


class _Attend(torch.autograd.Function):
    """Attention of a line, gradients written out.

    Shapes: ``[line, kv_heads, group, d]`` of queries and results, ``[line, kv_heads, d]`` of keys and values,
    ``[front, kv_heads, d]`` of those in front.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        front_k: Tensor,
        front_v: Tensor,
        layout: Ragged,
        mask: Tensor,
        scaling: float,
    ) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        kept, kv_heads, group = [], *q.shape[1:3]
        mask = torch.nn.functional.pad(mask, (len(front_k), 0))[:, None]
        for start, n, seen in layout.pieces():
            columns = _columns(k, front_k, start, n, seen)
            scores = (_rows(q, start, n) @ columns.transpose(1, 2)).float().view(kv_heads, n, group, -1)
            scores = torch.add(mask[start : start + n, :, : scores.shape[-1]], scores, alpha=scaling)
            probabilities = torch.softmax(scores, dim=-1).to(q.dtype).flatten(1, 2)
            mixed = probabilities @ _columns(v, front_v, start, n, seen)
            out[start : start + n] = mixed.unflatten(1, (n, group)).transpose(0, 1)
            kept.append(probabilities)
        ctx.save_for_backward(q, k, v, front_k, front_v, *kept)
        ctx.layout, ctx.scaling = layout, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, front_k, front_v, *kept = ctx.saved_tensors
        group, n_front, n_trunk = q.shape[2], len(front_k), ctx.layout.trunk
        grad_q, grad_k, grad_v = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)
        )
        # What several texts see: summed in fp32, text by text.
        shared = [k.new_zeros(n_front + n_trunk, *k.shape[1:], dtype=torch.float32) for _ in "kv"]
        for (start, n, seen), p in zip(ctx.layout.pieces(), kept, strict=True):
            above = _rows(grad, start, n)
            grad_p = above @ _columns(v, front_v, start, n, seen).transpose(1, 2)
            grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            below = grad_s @ _columns(k, front_k, start, n, seen)
            grad_q[start : start + n] = below.unflatten(1, (n, group)).transpose(0, 1)
            of_k = grad_s.transpose(1, 2) @ _rows(q, start, n)
            of_v = p.transpose(1, 2) @ above
            for line, common, of in ((grad_k, shared[0], of_k), (grad_v, shared[1], of_v)):
                own = of.transpose(0, 1)
                if n_front + seen:
                    common[: n_front + seen] += own[: n_front + seen]
                line[start : start + n] = own[n_front + seen :]
        for line, common in zip((grad_k, grad_v), shared, strict=True):
            if n_trunk:
                line[:n_trunk] += common[n_front:].to(line.dtype)
        scale, dtype = ctx.scaling, k.dtype
        front_grads = (shared[0][:n_front].mul(scale).to(dtype), shared[1][:n_front].to(dtype))
        return grad_q.mul_(scale), grad_k.mul_(scale), grad_v, *front_grads, None, None, None
