"""The keys and values that an attention module itself makes of hidden states, whatever it is made of.

The module runs on the states as texts of one token at position 0, where a rotation turns nothing, and the
hook hands over what reaches it: projections fused or apart, norms, clipping and scales are the module's own.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

captured: ContextVar[list[tuple[Tensor, Tensor]] | None] = ContextVar("crosstune_captured", default=None)
"""Where the hook puts keys and values in place of attending."""


def calls_of(decoder: Any, attentions: Sequence[nn.Module], token: Tensor) -> list[dict[str, Any]]:
    """What each attention module is called with for one token at position 0, its hidden states left out.

    Args:
        decoder: The model's stack of layers.
        attentions: Its attention modules.
        token: ``[1, 1]``.
    """
    calls: dict[int, dict[str, Any]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Positional arguments behind the hidden states keep their places.
        rest = args if "hidden_states" in kwargs else args[1:]
        calls[id(module)] = {"args": rest, **{k: v for k, v in kwargs.items() if k != "hidden_states"}}

    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in attentions]
    reset = captured.set([])  # nothing attends, and no prompt is asked for
    try:
        with torch.no_grad():
            decoder(input_ids=token, position_ids=torch.zeros_like(token), use_cache=False)
    finally:
        captured.reset(reset)
        for handle in handles:
            handle.remove()
    return [calls[id(module)] for module in attentions]


def keys_values(module: nn.Module, states: Tensor, call: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Keys, not rotated, and values of hidden states.

    Args:
        module: An attention module.
        states: ``[n, hidden]``.
        call: Of `calls_of`.

    Returns:
        ``[kv_heads, n, size]`` each; the sizes of keys and values may differ.
    """
    found: list[tuple[Tensor, Tensor]] = []
    token = captured.set(found)
    try:
        module(states[:, None], *call["args"], **{k: v for k, v in call.items() if k != "args"})
    finally:
        captured.reset(token)
    (keys, values) = found[0]
    return keys[:, :, 0].transpose(0, 1), values[:, :, 0].transpose(0, 1)
