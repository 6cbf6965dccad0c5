"""The keys and values that an attention module itself makes of hidden states, whatever it is made of.

The module runs on the states as texts of one token at position 0, where a rotation turns nothing, and the
hook hands over what reaches it: projections fused or apart, norms, clipping and scales are the module's own.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crosstune.errors import UserError

OTHERS = "key_value_states"
"""Argument of an attention module for the states, not its own, that it attends to."""


class Captured(BaseException):
    """Keys and values have reached the hook: what the module would do behind it is not wanted.

    Not an `Exception`: no module may take it for one of its own failures.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values


capturing: ContextVar[Literal["keys", "calls"] | None] = ContextVar("crosstune_capturing", default=None)
"""What the hook does in place of attending: raise `Captured`, or give zeros so that every layer is called."""


def calls_of(
    read: Callable[..., object], attentions: Sequence[nn.Module], token: Tensor
) -> list[dict[str, Any]]:
    """What each attention module is called with when one token ``[1, 1]`` at position 0 is read.

    ``read`` takes it as ``input_ids``. Hidden states are left out.
    """
    calls: dict[int, dict[str, Any]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Positional arguments behind the hidden states keep their places.
        rest = args if "hidden_states" in kwargs else args[1:]
        calls[id(module)] = {"args": rest, **{k: v for k, v in kwargs.items() if k != "hidden_states"}}

    with torch.no_grad(), ExitStack() as hooks:
        for module in attentions:
            hooks.enter_context(module.register_forward_pre_hook(keep, with_kwargs=True))
        hooks.callback(capturing.reset, capturing.set("calls"))  # nothing attends, no prompt is asked for
        read(input_ids=token)
    for module in attentions:
        if id(module) not in calls:
            raise UserError(f"{type(module).__name__} is called by nothing")
    return [calls[id(module)] for module in attentions]


def keys_values(module: nn.Module, states: Tensor, call: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Keys, not rotated, and values ``[kv_heads, n, size]`` that a module makes of states ``[n, hidden]``.

    The sizes of keys and values may differ. Where a module attends to other states than its own, these are
    what it makes them of.
    """
    rest = {key: value for key, value in call.items() if key != "args"}
    if rest.get(OTHERS) is not None:
        rest[OTHERS] = states[:, None]
    reset = capturing.set("keys")
    try:
        # The class's own, also while something stands in for the module's forward.
        type(module).forward(module, states[:, None], *call["args"], **rest)
    except Captured as found:
        return found.keys[:, :, 0].transpose(0, 1), found.values[:, :, 0].transpose(0, 1)
    finally:
        capturing.reset(reset)
    raise UserError(f"{type(module).__name__} attends without crosstune; choose another model or report it")
