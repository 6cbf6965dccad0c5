"""Results that a backward pass makes again in place of keeping them.

A product keeps its input for the gradient of its weight. Where that input is what a norm or a gate returned,
its own inputs are kept anyway, and one pass over memory gives the same bits again: of 8B's activations 8%
with LoRA on q and v, 30% where all weights are trained.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_RECIPE = "recipe"
# The newest result: several products in a row ask for the same one.
_newest: dict[Callable[[], Tensor], Tensor] = {}


def made_by(y: Tensor, recipe: Callable[[], Tensor]) -> None:
    """``recipe`` gives ``y`` again. It is kept on its memory, until that is let go or written to."""
    if not y.is_inference():  # which is kept for no backward pass, and counts no writes
        setattr(y.untyped_storage(), _RECIPE, (recipe, y._version))


@contextmanager
def made_again() -> Iterator[None]:
    """Inside, of tensors kept for a backward pass those that were `made_by` something are let go."""
    try:
        with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
            yield
    finally:
        _newest.clear()


def _pack(x: Tensor) -> Any:
    _newest.clear()
    recipe, version = getattr(x.untyped_storage(), _RECIPE, (None, 0))
    if recipe is None or x._version != version:
        return x
    return recipe, x.shape, x.stride(), x.storage_offset()


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    recipe, *place = kept
    if recipe not in _newest:
        _newest.clear()
        _newest[recipe] = recipe()
    return _newest[recipe].as_strided(*place)
