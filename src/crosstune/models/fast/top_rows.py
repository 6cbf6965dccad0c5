"""Computes the top layer only for the rows that are read.

After attention a layer processes tokens independently, and nothing attends after the top layer. So for a
prompt whose last token is read, the top layer's output projection and MLP compute one row. Keys, values and
queries are still computed for all tokens. In Gemma 3 270M this saves 4.6% of a forward's arithmetic.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from crosstune.models.fast.layers import in_place_of
from crosstune.models.parts import Parts
from crosstune.models.proof import FastWay

TOP_ROWS = FastWay(
    fast="for the rows that are read alone",
    plain="the top layer is computed for all rows",
    tolerance=0.02,
    because="products of fewer rows round otherwise in 16 bits",
)


def take(states: Tensor, rows: Tensor) -> Tensor:
    """Of ``[batch, length, hidden]`` some rows, ``[1, n, hidden]``, that index batch and length flattened."""
    return states.flatten(0, 1).index_select(0, rows.to(states.device))[None]


def means(states: Tensor, pools: Tensor, count: int) -> Tensor:
    """Mean in fp32 of the states ``[n, hidden]`` of each pool, ``[count, hidden]``; ``pools`` is ``[n]``."""
    pools = pools.to(states.device)
    sums = states.new_zeros(count, states.shape[-1], dtype=torch.float32).index_add(0, pools, states.float())
    return sums / torch.bincount(pools, minlength=count)[:, None]


@contextmanager
def top_rows(parts: Parts, rows: Tensor) -> Iterator[None]:
    """Inside, a model (`has_top_rows` of its parts) returns the states of some rows, ``[1, n, hidden]``.

    Rows ``[n]`` index batch and length flattened.
    """
    top = parts.layers[-1]
    layer, attention, norm, output = top.module, top.attention, top.norm_before_attention, top.output
    assert norm is not None
    assert output is not None
    forward: Callable[..., Any] = layer.forward
    attend: Callable[..., Any] = attention.forward
    whole: list[Tensor] = []

    def few(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        whole.append(hidden_states)
        return forward(take(hidden_states, rows), *args, **kwargs)

    def attend_all(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        # It was given the rows that go on; it attends from and to all.
        return attend(norm(whole.pop()), *args, **kwargs)

    def cut(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return take(args[0], rows), *args[1:]

    with output.module.register_forward_pre_hook(cut), in_place_of([layer, attention], [few, attend_all]):
        yield


def has_top_rows(parts: Parts) -> bool:
    """Whether the top layer has the structure that `top_rows` needs."""
    return parts.layers[-1].norm_before_attention is not None and parts.layers[-1].output is not None
