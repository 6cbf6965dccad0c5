"""Texts, or trees of texts, behind one another in one line: no padding, and attention of each with itself.

Everything but attention looks at tokens one at a time, so a batch is one line of all its texts, and
projections and MLPs compute nothing for padding. Attention takes texts of like length together
(`crosstune.models.attention.cpu_groups`), as plain matrix products with all heads of a group in one: for the
lengths of training examples several times as fast on a CPU as PyTorch's fused kernel in bf16
(benchmarks/NOTES.md), at the price of keeping the probabilities for the backward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from crosstune.models.attention.cpu_groups import Block, GroupPlan, plan
from crosstune.models.attention.layout import ridden

# Probabilities of a text this long are 8 MB a head in bf16; beyond, the fused kernel is the better one.
LONGEST = 2048


@dataclass(frozen=True, slots=True)
class PaddingFreeBatch:
    """A line of texts, of which each token sees those before it in its own text and in the shared prefix.

    Where `places` and `ends` are given, a text is a tree in depth-first order, as in `attention.Layout`: a
    token sees only those that it follows.
    """

    prompts_inside: ClassVar[bool] = False
    two_way: ClassVar[bool] = False

    lengths: tuple[int, ...]  # of the texts, in line
    shared_prefix: int = 0  # tokens at the beginning of the line that all texts follow
    device: torch.device | str = "cpu"  # where the model's input is
    # ``[line]``, the shared prefix left out: of each token in its text; None for its order.
    places: Tensor | None = None
    # As long: last token of its tree that sees this one, counted from the tree's first.
    ends: Tensor | None = None
    window: int | None = None  # how many tokens each sees, itself included; None for all before it
    apart: bool = False  # each text attends by itself, so that its bits depend on no other's length
    # EntryStates on by `replace`, so that all layers of a forward find the blocks of the first.
    _plans: dict[tuple[Any, ...], GroupPlan] = field(default_factory=dict, repr=False, compare=False)

    def plan(self, front: int, heads: int, group: int, dtype: torch.dtype) -> GroupPlan:
        """The blocks that attend at once (`crosstune.models.attention.cpu_groups.plan`), made once."""
        key = (self.shared_prefix, self.window, front, heads, group, dtype)
        if key not in self._plans:
            self._plans[key] = plan(self, front, heads, group, dtype)
        return self._plans[key]

    @property
    def positions(self) -> Tensor:
        """``[1, line]``: place of each token in its own text, the shared prefix counted in."""
        if self.places is not None:
            shared_prefix = torch.arange(self.shared_prefix, device=self.device)
            return torch.cat([shared_prefix, self.places + self.shared_prefix])[None]
        texts = [torch.arange(seen, seen + n) for _, n, seen in self.pieces()]
        return torch.cat(texts)[None].to(self.device)

    def behind(self, n: int) -> "PaddingFreeBatch":
        """The same with ``n`` tokens in front that all texts follow."""
        return replace(self, shared_prefix=self.shared_prefix + n)

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """First token, length and prefix tokens seen, of the shared prefix (if any) and each text."""
        if self.shared_prefix:
            yield 0, self.shared_prefix, 0
        start = self.shared_prefix
        for n in self.lengths:
            yield start, n, self.shared_prefix
            start += n

    def mask(self, window: int | None) -> Tensor:
        """A number that the layout rides on, with the layer's window (`layout.ridden`): no mask is made."""
        mask = torch.zeros(1, 1, 1, 1, device=self.device)
        if window is not None and window >= self.shared_prefix + max(self.lengths, default=0):
            window = None
        return ridden(mask, replace(self, window=window))


@dataclass(frozen=True, slots=True)
class TwoWayLine(PaddingFreeBatch):
    """A line of an encoder's texts, of which each token sees all of its own text."""

    two_way: ClassVar[bool] = True


def attend(
    layout: PaddingFreeBatch,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None = None,
    front: tuple[Tensor, Tensor] | None = None,
    cap: float | None = None,
) -> Tensor:
    """``softmax(scaling * Q K') V`` of every text with itself, the shared prefix, and what stands in front.

    Args:
        layout: Of the line, with the layer's window.
        query: ``[1, heads, line, head_dim]``.
        key: ``[1, kv_heads, line, head_dim]``.
        value: As ``key``, of any size.
        scaling: Factor of the scores; None for ``head_dim ** -0.5``.
        front: Keys and values, each ``[kv_heads, n, head_dim]``, that every token sees.
        cap: Scores become ``cap * tanh(score / cap)``; None leaves them.

    Returns:
        ``[1, line, heads, head_dim]``, of the values' size.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    # [line, heads, d] as [line, kv_heads, group, d]: the heads that share keys stand side by side.
    q = q.unflatten(1, (k.shape[1], -1))
    # New, as a piece of `k` would have a gradient of its size.
    nothing = [x.new_empty(0, *x.shape[1:]) for x in (k, v)]
    front_k, front_v = nothing if front is None else (x.transpose(0, 1) for x in front)
    run: Any = _Attend.apply
    where = layout.plan(len(front_k), q.shape[1], q.shape[2], q.dtype)
    out: Tensor = run(q, k, v, front_k, front_v, where, layout.shared_prefix, scaling, cap)
    return out.flatten(1, 2)[None]


def _columns(blocks: Tensor, common: Tensor, block: Block) -> Tensor:
    """What a block's texts see, ``[texts, columns, d]``, of keys or values ``[filled, d]``.

    ``common``: those in front and the shared prefix's, ``[kv_heads, front + shared_prefix, d]``.
    """
    text = block.of(blocks)
    if not block.shared:
        return text
    shared = common[:, : block.shared]
    return torch.cat([shared.repeat(block.texts // len(shared), 1, 1), text], dim=1)


def _tanh(rows: Tensor, columns: Tensor, factor: float) -> Tensor:
    """Scores that are capped, as shares of the cap."""
    return torch.tanh((rows @ columns.transpose(1, 2)).mul_(factor))


class _Attend(torch.autograd.Function):
    """Attention of a line, gradients written out.

    Shapes: ``[line, kv_heads, group, d]`` of queries and results, ``[line, kv_heads, d]`` of keys and values,
    ``[front, kv_heads, d]`` of those in front. A block's texts are counted times the key heads.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        front_k: Tensor,
        front_v: Tensor,
        where: GroupPlan,
        shared_prefix: int,
        scaling: float,
        cap: float | None,
    ) -> Tensor:
        heads = q.shape[1]
        common_k, common_v = (
            torch.cat([front, line[:shared_prefix]]).transpose(0, 1)
            for front, line in ((front_k, k), (front_v, v))
        )
        q, k, v = (where.gather(x).contiguous() for x in (q, k, v))
        mixed, saved = q.new_empty(*q.shape[:-1], v.shape[-1]), []
        for block in where.blocks:
            rows = block.of(q).flatten(1, 2)
            columns = _columns(k, common_k, block)
            if cap is None:
                scores = torch.baddbmm(block.mask, rows, columns.transpose(1, 2), alpha=scaling)
            else:
                scores = _tanh(rows, columns, scaling / cap).mul_(cap) + block.mask
            # In bf16 too: the kernel computes in fp32 and rounds once.
            probabilities = torch.softmax(scores, dim=-1)
            torch.bmm(probabilities, _columns(v, common_v, block), out=block.of(mixed).flatten(1, 2))
            saved.append(probabilities)
        ctx.save_for_backward(q, k, v, common_k, common_v, *saved)
        ctx.where, ctx.shared_prefix, ctx.scaling, ctx.cap = where, shared_prefix, scaling, cap
        return where.scatter(mixed, heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, common_k, common_v, *saved = ctx.saved_tensors
        where: GroupPlan = ctx.where
        heads, n_front = len(common_k), common_k.shape[1] - ctx.shared_prefix
        grad = where.gather(grad).contiguous()
        if len(where.filling):
            # Rows that fill up have no gradient, and so hand none on.
            grad.index_fill_(0, where.filling, 0.0)
        of_q, of_k, of_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # What several texts see: summed in fp32, block by block.
        shared = [torch.zeros_like(x, dtype=torch.float32) for x in (common_k, common_v)]
        for block, p in zip(where.blocks, saved, strict=True):
            rows, above = block.of(q).flatten(1, 2), block.of(grad).flatten(1, 2)
            grad_p = above @ _columns(v, common_v, block).transpose(1, 2)
            grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(ctx.scaling)
            columns_k = _columns(k, common_k, block)
            if ctx.cap is not None:
                grad_s *= 1 - _tanh(rows, columns_k, ctx.scaling / ctx.cap).square_()
            torch.bmm(grad_s, columns_k, out=block.of(of_q).flatten(1, 2))
            for line, common, left, right in (
                (of_k, shared[0], grad_s, rows),
                (of_v, shared[1], p, above),
            ):
                if not block.shared:
                    torch.bmm(left.transpose(1, 2), right, out=block.of(line))
                    continue
                columns = left.transpose(1, 2) @ right
                block.of(line).copy_(columns[:, block.shared :])
                texts = columns[:, : block.shared].unflatten(0, (-1, heads))
                common[:, : block.shared] += texts.sum(0, dtype=torch.float32)
        grads, fronts = [where.scatter(x, heads) for x in (of_q, of_k, of_v)], []
        for line, common in zip(grads[1:], shared, strict=True):
            if ctx.shared_prefix:
                line[: ctx.shared_prefix] += common[:, n_front:].transpose(0, 1).to(line.dtype)
            fronts.append(common[:, :n_front].transpose(0, 1).to(line.dtype))
        return *grads, *fronts, None, None, None, None
