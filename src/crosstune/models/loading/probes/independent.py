"""The independent side of the probes: attention written out, a module's keys and values, what is near."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NEAR = 1e-3
"""Of the largest number. Sums in another order come to a few millionths in fp32, a real fault to a tenth."""
PROMPT = 2
"""Keys and values, or embeddings, that are planted in front of a text."""
WRITTEN_OUT = "crosstune_probe"


def near(ours: Tensor, expected: Tensor) -> bool:
    """Whether two tensors differ by no more than rounding."""
    # Not `allclose`: a NaN on either side is a difference.
    return bool((ours - expected).abs().max() <= NEAR * expected.abs().max())


@contextmanager
def written_out(model: Any) -> Iterator[dict[Any, tuple[Tensor, Tensor] | None]]:
    """Inside, a model attends as written here, with the keys and values that are put into the dict.

    Of a module that is there with None, its own come into the dict.
    """
    planted: dict[Any, tuple[Tensor, Tensor] | None] = {}

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        scaling: float,
        position_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        if module in planted:
            if (pair := planted[module]) is None:
                planted[module] = (key, value)
            else:
                front = (x[None].expand(len(key), -1, -1, -1) for x in pair)
                key, value = (torch.cat(both, dim=2) for both in zip(front, (key, value), strict=True))
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * scaling
        rows, columns = scores.shape[2:]
        if position_bias is not None:  # what is planted is at no distance from anything
            scores = scores + pad(position_bias, (columns - position_bias.shape[-1], 0))
        if mask is None and getattr(module, "is_causal", False):
            mask = torch.ones(rows, rows, dtype=torch.bool).tril()[None, None]
        if mask is not None:
            scores = scores.masked_fill(
                ~pad(mask, (key.shape[2] - mask.shape[-1], 0), value=True), -torch.inf
            )
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    AttentionInterface.register(WRITTEN_OUT, attend)
    AttentionMaskInterface.register(WRITTEN_OUT, sdpa_mask)
    # Two stacks have a config each.
    configs = {id(config): config for part in model.modules() if (config := getattr(part, "config", None))}
    before = {at: config._attn_implementation for at, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = WRITTEN_OUT
    try:
        yield planted
    finally:
        for at, config in configs.items():
            config._attn_implementation = before[at]


def keys_of(
    model: Any, modules: Sequence[nn.Module], states: Sequence[Tensor], forward: Callable[[Tensor], object]
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values, ``[kv_heads, n, size]``, that modules make of ``[n, hidden]`` states at position 0.

    Args:
        model: What attends.
        modules: Its attention modules.
        states: What each sees in place of its input.
        forward: Reads token ids ``[n, 1]`` with the model.
    """

    def instead(states_in: Tensor, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if kwargs.get("key_value_states") is not None:
            return args, kwargs | {"key_value_states": states_in[:, None]}
        if "hidden_states" in kwargs:
            return args, kwargs | {"hidden_states": states_in[:, None]}
        return (states_in[:, None], *args[1:]), kwargs

    handles = [
        module.register_forward_pre_hook(functools.partial(instead, states_in), with_kwargs=True)
        for module, states_in in zip(modules, states, strict=True)
    ]
    try:
        with written_out(model) as caught:
            caught.update(dict.fromkeys(modules))
            forward(torch.ones(len(states[0]), 1, dtype=torch.long))
    finally:
        for handle in handles:
            handle.remove()
    pairs = [pair for module in modules if (pair := caught[module]) is not None]
    return [(keys[:, :, 0].transpose(0, 1), values[:, :, 0].transpose(0, 1)) for keys, values in pairs]
