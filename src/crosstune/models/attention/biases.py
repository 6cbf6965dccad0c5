"""Biases of scores that go into the products: every form of a batch has them, and no kernel knows them.

ALiBi (arXiv 2108.12409): scores fall with the distance of a key, by another slope in each head.

    score(i, j) = scaling * q_i k_j - slope * (p_i - p_j)

A row's own position falls out of the softmax, which leaves ``slope * p_j``: columns of queries (the slopes)
and of keys (their positions). Distances are those within a text: a token's position is its place in its own
text, whatever shares its row. Prompts count as the text they stand for would: joint keys and values have the
positions 0 to n - 1 and the text goes on at n, as if prompt and text were one plain text. A gated prompt has
a softmax of its own, where all its keys stand at one position, as unrotated keys do: no bias.

Falcon's ALiBi (falcon-rw) is ``scaling * (q_i k_j + bf16(slope * p_j))``, which rounds far positions. Slopes
in bf16 mean that one.

Attention sinks (gpt-oss): each head has one score more in its softmax, of nothing. It is the score of a key
in front of everything, whose value is zero.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

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
        slopes: ``[heads]``, of scores behind the scaling; in bf16 Falcon's, see above.
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
    if slopes.dtype == torch.bfloat16:
        parts = [torch.ones_like(slopes, dtype=query.dtype)]
    else:
        parts = 2 * _parts(slopes / scaling, query)
    query = _widened(query, parts)
    key = torch.cat([key, _columns(slopes, places + n, key)], -1)
    if front is not None:
        in_front = torch.arange(n, device=key.device)[None]
        front = torch.cat([front[0], _columns(slopes, in_front, front[0][None])[0]], -1), front[1]
    return query, key, front


def with_sinks(
    sinks: Tensor, query: Tensor, key: Tensor, value: Tensor, front: Pair | None, scaling: float
) -> tuple[Tensor, Tensor, Pair]:
    """Queries, keys and what is in front of the text, with a key of the sinks' score and no value.

    ``sinks`` are ``[heads]``, ``value`` is ``[batch, kv_heads, columns, size]``; the others as in
    `with_alibi`.
    """
    heads, size = key.shape[1], key.shape[3]
    sink = key.new_zeros(heads, 1, size + ADDED)
    sink[..., size : size + PARTS] = 1
    keys, values = [sink], [value.new_zeros(heads, 1, value.shape[3])]
    if front is not None:
        keys.append(pad(front[0], (0, ADDED)))
        values.append(front[1])
    query = _widened(query, _parts(sinks / scaling, query))
    return query, pad(key, (0, ADDED)), (torch.cat(keys, 1), torch.cat(values, 1))


def _parts(numbers: Tensor, like: Tensor) -> list[Tensor]:
    """Numbers of the dtype that sum up to some of fp32."""
    rest, parts = numbers.float(), []
    for _ in range(PARTS):
        parts.append(rest.to(like.dtype))
        rest = rest - parts[-1].float()
    return parts


def _widened(query: Tensor, parts: list[Tensor]) -> Tensor:
    """With some numbers a head behind each query, ``[heads]`` each."""
    added = pad(torch.stack(parts, -1), (0, ADDED - len(parts)))[None, :, None]
    return torch.cat([query, added.expand(query.shape[0], -1, query.shape[2], -1)], -1)


def _columns(slopes: Tensor, places: Tensor, key: Tensor) -> Tensor:
    """``[batch, kv_heads, columns, ADDED]`` of ``[1 or batch, columns]`` places."""
    if slopes.dtype == torch.bfloat16:  # the bias itself, which goes with keys of all heads alone
        bias = (slopes[:, None] * places[:, None].to(slopes.dtype)).to(key.dtype)
        return pad(bias.expand(key.shape[0], -1, -1)[..., None], (0, ADDED - 1))
    high = places // BASE * BASE
    parts = torch.stack([high] * PARTS + [places - high] * PARTS, -1).to(key.dtype)
    added = pad(parts, (0, ADDED - 2 * PARTS))[:, None]
    return added.expand(key.shape[0], key.shape[1], -1, -1)
