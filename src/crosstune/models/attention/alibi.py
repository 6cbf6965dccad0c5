"""ALiBi (arXiv 2108.12409): scores fall with the distance of a key, by another slope in each head.

    score(i, j) = scaling * q_i k_j - slope * (p_i - p_j)

A row's own position falls out of the softmax, which leaves ``slope * p_j``: a bias of each column. It goes
into the products, as columns of queries (the slopes) and of keys (their positions), so it is the same for
padded and packed rows, branches and decoding steps, and no kernel needs to know of it.

Distances are those within a text: a token's position is its place in its own text, whatever shares its row.
Prompts count as the text they stand for would: joint keys and values have the positions 0 to n - 1 and the
text goes on at n, as if prompt and text were one plain text. A gated prompt has a softmax of its own, where
all its keys stand at one position, as unrotated keys do: no bias.
"""

import torch
from torch import Tensor

from crosstune.models.attention.layout import Attended

# Two numbers of 8 bits hold a position exactly, three a slope as exactly as fp32: also in 16 bits.
BASE, PARTS = 256, 3
ADDED = 8
"""Columns: two times `PARTS`, filled up to what kernels like."""

Pair = tuple[Tensor, Tensor]


def with_alibi(
    slopes: Tensor, query: Tensor, key: Tensor, front: Pair | None, pattern: Attended | None, scaling: float
) -> tuple[Tensor, Tensor, Pair | None]:
    """Queries and keys, of the text and of the prompt in front, whose products hold the bias.

    Args:
        slopes: ``[heads]``, of scores behind the scaling.
        query: ``[batch, heads, rows, head_dim]``.
        key: ``[batch, kv_heads, columns, head_dim]``.
        front: Keys and values of a joint prompt, ``[kv_heads, n, head_dim]`` each.
        pattern: Who sees whom; None where a column's number is its position.
        scaling: What the products will be multiplied with.

    Returns:
        The same with ``head_dim + ADDED`` columns; values unchanged.
    """
    if pattern is None or pattern.prompts_inside:
        places = torch.arange(key.shape[2], device=key.device)[None]
    else:
        places = pattern.positions.to(key.device)
    n = 0 if front is None else front[0].shape[1]
    query = torch.cat([query, _slopes(slopes / scaling, query)], -1)
    key = torch.cat([key, _places(places + n, key)], -1)
    if front is not None:
        front_places = torch.arange(n, device=key.device)[None]
        front = torch.cat([front[0], _places(front_places, front[0][None])[0]], -1), front[1]
    return query, key, front


def _slopes(slopes: Tensor, query: Tensor) -> Tensor:
    """``[batch, heads, rows, ADDED]``."""
    rest, parts = slopes.float(), []
    for _ in range(PARTS):
        parts.append(rest.to(query.dtype))
        rest = rest - parts[-1].float()
    added = torch.stack([*parts, *parts, *[torch.zeros_like(parts[0])] * (ADDED - 2 * PARTS)], -1)
    return added[None, :, None].expand(query.shape[0], -1, query.shape[2], -1)


def _places(places: Tensor, key: Tensor) -> Tensor:
    """``[batch, kv_heads, columns, ADDED]`` of ``[1 or batch, columns]``."""
    high = places // BASE * BASE
    parts = [high] * PARTS + [places - high] * PARTS + [torch.zeros_like(high)] * (ADDED - 2 * PARTS)
    added = torch.stack(parts, -1).to(key.dtype)
    return added[:, None].expand(key.shape[0], key.shape[1], -1, -1)
