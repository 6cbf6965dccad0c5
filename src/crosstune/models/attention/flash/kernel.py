"""PyTorch's flash kernel for texts of many lengths, as evaluation calls it: without gradients.

Before its first use it is compared with the plain computation in fp32, on small random numbers in the shape
of the model's heads (`crosstune.models.proof`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from crosstune.models.proof import FastWay

IN_PLACE = FastWay(
    fast="in place",
    plain="steps of writing read keys and values with a mask",
    tolerance=0.05,
    because="16 bits and another order of sums; a wrong mask differs by as much as the numbers themselves",
    part="graphs",
)


def flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ends: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scaling: float,
    window: tuple[int, int],
    used: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """PyTorch's flash kernel; 16 bits, on a GPU.

    The operation beneath `torch.nn.attention.varlen`: every PyTorch that has the kernel gives the log-sum-exp
    there, groups heads and takes ``used``, where the public function does from 2.13 on. Its page tables
    (``block_table``) are not used: with them PyTorch 2.13 splits keys wrongly (pytorch/pytorch#194167).

    Args:
        q: ``[queries, heads, head_dim]`` of all texts, text behind text.
        k: ``[keys, kv_heads, head_dim]``.
        v: As ``k``.
        ends: ``[texts + 1]`` int32 each: where each text's queries and keys begin, and the last one's end.
        longest: The most queries and keys of a text.
        scaling: Factor of the scores before the softmax.
        window: Keys seen to either side of a query's own place, where the last query stands at the last key;
            -1 for all.
        used: ``[texts]`` int32: how many of its keys each text has; None for all.

    Returns:
        As ``q``; and log-sum-exps of the scores, ``[queries, heads]`` in fp32.
    """
    run: Any = torch.ops.aten._flash_attention_forward
    out, scores, *_ = run(
        q,
        k,
        v,
        *ends,
        *longest,
        0.0,
        window == (-1, 0),
        False,
        scale=scaling,
        window_size_left=window[0],
        window_size_right=window[1],
        seqused_k=used,
    )
    return out, scores.T


def attend_in_place(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    ends: Tensor,
    firsts: Tensor,
    used: Tensor,
    longest: int,
    scaling: float,
    window: int | None,
    shared: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Attention of one token of each of many texts to what a cache holds of it, read where it stands.

    Grouped heads are not repeated and no mask is made.

    Args:
        query: ``[texts, heads, head_dim]``.
        keys: ``[tokens, kv_heads, head_dim]`` of all texts.
        values: As ``keys``.
        ends: ``[texts + 1]`` int32: 0, 1, and so on.
        firsts: ``[texts + 1]`` int32: where each text begins among the tokens, and the last one ends.
        used: ``[texts]`` int32: how many of its tokens each has, the newest among them.
        longest: No text has more.
        scaling: Factor of the scores before the softmax.
        window: Tokens that are seen, the newest among them; None for all.
        shared: Keys and values that all texts see besides, ``[n, kv_heads, head_dim]``, and where queries and
            these begin and end, ``[2]`` int32 each.

    Returns:
        As ``query``.
    """
    # With no window at all there is no order either, and heads that share keys are read together.
    sides = (-1, -1) if window is None else (window - 1, 0)
    out, scores = flash(query, keys, values, (ends, firsts), (1, longest), scaling, sides, used)
    if shared is None:
        return out
    front_k, front_v, around = shared
    more, of_more = flash(query, front_k, front_v, around, (len(query), len(front_k)), scaling, (-1, -1))
    # One softmax over both: their shares are as their sums of exponentials.
    share = torch.sigmoid(scores - of_more)[..., None]
    return torch.lerp(more.float(), out.float(), share).to(out.dtype)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a step's tokens stand in a layer's memory; what several layers ask for is made once."""

    firsts: Tensor  # ``[rows + 1]``: where each row begins, and the last one ends
    lengths: Tensor  # ``[rows]``: tokens that each holds, a prefix left out
    _known: dict[tuple[str, int], Any] = field(default_factory=dict)

    def newest(self, n: int) -> Tensor:
        """``[rows]``: where the newest tokens go, behind a prefix of ``n``."""
        if ("newest", n) not in self._known:
            self._known["newest", n] = self.firsts[:-1] + self.lengths + n
        return cast(Tensor, self._known["newest", n])

    def for_kernel(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """int32: ends of the queries, beginnings of the rows, ``[rows + 1]`` each, and tokens in them."""
        if ("kernel", n) not in self._known:
            ends = torch.arange(len(self.firsts), dtype=torch.int32, device=self.firsts.device)
            used = (self.lengths + (n + 1)).to(torch.int32)
            self._known["kernel", n] = ends, self.firsts.to(torch.int32), used
        return cast(tuple[Tensor, Tensor, Tensor], self._known["kernel", n])

    def around(self, n: int) -> tuple[Tensor, Tensor]:
        """``[2]`` int32 each: where all queries begin and end, and ``n`` keys that they share."""
        if ("around", n) not in self._known:
            ends = torch.arange(2, dtype=torch.int32, device=self.firsts.device)
            self._known["around", n] = ends * len(self.lengths), ends * n
        return cast(tuple[Tensor, Tensor], self._known["around", n])


def compared_in_place(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, windows: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """`attend_in_place` on small random numbers, each with the plain computation's in fp32."""
    draw = torch.Generator().manual_seed(0)
    width, scaling = 300, head_dim**-0.5
    lengths = torch.tensor([1, 130, 300, 64, 17])
    texts = len(lengths)
    query = torch.randn(texts, heads, head_dim, generator=draw)
    keys, values = (torch.randn(texts * width, kv_heads, head_dim, generator=draw) for _ in range(2))
    numbers = [x.to(device, dtype) for x in (query, keys, values)]
    counts = (torch.arange(texts + 1), torch.arange(texts + 1) * width, lengths)
    ends, firsts, used = (x.to(device, torch.int32) for x in counts)
    q, k, v = (x.float().cpu() for x in numbers)
    k, v = (x.view(texts, width, kv_heads, head_dim).transpose(1, 2) for x in (k, v))
    scores = q.view(texts, kv_heads, heads // kv_heads, head_dim) @ k.transpose(2, 3) * scaling
    column = torch.arange(width)
    # The first text's first keys as a prefix that all share.
    around = Places(firsts, used).around(10)
    shared = numbers[1][:10], numbers[2][:10], around
    prefix = q.view(texts, kv_heads, -1, head_dim) @ k[0, :, :10].mT * scaling
    with_prefix = torch.cat([v[:1, :, :10].expand(texts, -1, -1, -1), v], 2)
    for window in (None, 20) if windows else (None,):
        seen = (column < lengths[:, None]) & (column >= lengths[:, None] - (window or width))
        own = scores.masked_fill(~seen[:, None, None], -torch.inf)
        for front, all_scores, all_v in ((None, own, v), (shared, torch.cat([prefix, own], -1), with_prefix)):
            where = ends, firsts, used, 512, scaling, window, front
            fast = attend_in_place(numbers[0], numbers[1], numbers[2], *where)
            yield fast.cpu(), (all_scores.softmax(-1) @ all_v).flatten(1, 2)
