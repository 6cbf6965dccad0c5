"""Results that a backward pass makes again in place of keeping them.

A product keeps its input for the gradient of its weight. Where that input is what a norm or a gate returned,
its own inputs are kept anyway, and one pass over memory gives the same bits again: of 8B's activations 8%
with LoRA on q and v, 30% where all weights are trained.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

_RECIPE = "recipe"
Recipe = partial[Tensor]
# The newest result: several products in a row ask for the same one.
_newest: dict[Recipe, Tensor] = {}


def made_by(y: Tensor, recipe: Recipe) -> None:
    """``recipe`` gives ``y`` again. It is kept on its memory, until that is let go or written to."""
    if not y.is_inference():  # which is kept for no backward pass, and counts no writes
        setattr(y.untyped_storage(), _RECIPE, (recipe, _versions([y, *recipe.args])))


@contextmanager
def made_again() -> Iterator[None]:
    """Inside, of tensors kept for a backward pass those that were `made_by` something are let go.

    What is kept must not be written to, as always: PyTorch itself looks for that only outside.
    """
    try:
        with torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
            yield
    finally:
        _newest.clear()


def _versions(tensors: Iterable[Any]) -> list[int]:
    """How often each was written to."""
    return [x._version for x in tensors if isinstance(x, Tensor)]


def _pack(x: Tensor) -> Any:
    _newest.clear()
    recipe, versions = getattr(x.untyped_storage(), _RECIPE, (None, []))
    if recipe is None or _versions([x, *recipe.args]) != versions:
        return x, _versions([x])
    return recipe, versions[1:], x.shape, x.stride(), x.storage_offset()


def _unpack(kept: Any) -> Tensor:
    source, versions, *place = kept
    tensor = isinstance(source, Tensor)
    if _versions([source] if tensor else source.args) != versions:
        raise RuntimeError("what a gradient is computed from was modified by an inplace operation")
    if tensor:
        return source  # type: ignore[no-any-return]
    if source not in _newest:
        _newest.clear()
        _newest[source] = source()
    return _newest[source].as_strided(*place)
