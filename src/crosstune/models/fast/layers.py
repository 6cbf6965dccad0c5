"""Leave a decoder at one of its layers, or enter it there with cached activations of the layers below.

Skipped layers return their input, so that every other layer keeps its number, kind of attention, mask and
positions, whatever the architecture does around its layers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class EntryStates:
    """What a layer receives from those below it."""

    layer: int  # its number, 1 or more
    states: Tensor  # ``[lines, width, hidden]``, in the model's dtype


def _hand_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


@contextmanager
def in_place_of(modules: Sequence[Any], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Inside, modules run other forward functions."""
    replaced = [vars(module).get("forward") for module in modules]
    for module, forward in zip(modules, forwards, strict=True):
        module.forward = forward
    try:
        yield
    finally:
        for module, before in zip(modules, replaced, strict=True):
            if before is None:
                del module.forward
            else:
                module.forward = before


@contextmanager
def unhooked(module: Any) -> Iterator[None]:
    """Inside, what hooks on a module's output do is not done once more."""
    hooks = module._forward_hooks
    module._forward_hooks = type(hooks)()
    try:
        yield
    finally:
        module._forward_hooks = hooks


@contextmanager
def left_at(layers: Sequence[Any], layer: int) -> Iterator[list[Tensor]]:
    """Inside, no layer from ``layer`` up runs; its input is appended to the list."""
    reached: list[Tensor] = []

    def take(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        reached.append(hidden_states)
        return hidden_states

    above = layers[layer:]
    with in_place_of(above, [take, *[_hand_on] * (len(above) - 1)]):
        yield reached


@contextmanager
def entered_at(layers: Sequence[Any], entry: EntryStates) -> Iterator[None]:
    """Inside, nothing runs below ``entry.layer``, which receives ``entry.states``, whatever the input."""
    below = layers[: entry.layer]

    def give(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return entry.states

    with in_place_of(below, [*[_hand_on] * (len(below) - 1), give]):
        yield
