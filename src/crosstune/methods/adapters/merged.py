"""Trained changes merged into the weights for evaluation, and the weights' very bits put back after."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from crosstune.methods.base import Merge
from crosstune.methods.deferred import Tensor, torch

T = TypeVar("T")
MOST_LOST = 0.1
"""Share of a change that may be lost when it is merged. bf16 rounds a weight by up to 0.4% of itself: of
changes of a few percent little is lost, of changes below that nearly everything."""


def lost(weight: Tensor, change: Tensor) -> float:
    """What rounding to the weight's dtype takes of a change that is added: ``|kept - change| / |change|``."""
    before, change = weight.float(), change.float()
    merged_change = (before + change).to(weight.dtype).float() - before
    size = change.norm()
    return float((merged_change - change).norm() / size) if size > 0 else 0.0


def worth_merging(loss: Mapping[T, float], tensors: int, most: float = MOST_LOST) -> tuple[list[T], Merge]:
    """Whose change is merged: no more than ``most`` of it is lost then.

    Args:
        loss: By what can be merged, the share that would be lost.
        tensors: How many were changed, those that cannot be merged among them.
        most: Share of a change that may be lost.
    """
    chosen = [place for place, share in loss.items() if share <= most]
    return chosen, Merge(
        tensors=tensors,
        merged=len(chosen),
        lost=max((share for share in loss.values() if share <= most), default=None),
        avoided=max((share for share in loss.values() if share > most), default=None),
    )


@contextmanager
def merged(weights: Sequence[Tensor], merge: Callable[[], None]) -> Iterator[None]:
    """Inside, weights hold what ``merge`` makes of them.

    Args:
        weights: Every tensor that ``merge`` writes to; copies of them are kept.
        merge: Called without gradients.
    """
    copies = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            merge()
        yield
    finally:
        with torch.no_grad():
            for weight, bits in zip(weights, copies, strict=True):
                weight.copy_(bits)


@contextmanager
def merged_layers(layers: Mapping[str, Any], tensors: int, most: float = MOST_LOST) -> Iterator[Merge]:
    """Inside, layers of PEFT are merged into their base layers, computed in fp32 and rounded once.

    Args:
        layers: Those that PEFT can merge, by name.
        tensors: All that the method has.
        most: A layer of whose update rounding would take a larger share stays beside its weight.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    loss: dict[str, float] = {}
    whole: list[Any] = []
    try:
        with torch.no_grad():
            for name, layer in layers.items():
                before = [(p, p.data) for p in layer.get_base_layer().parameters()]
                for p, bits in before:
                    p.data = bits.float().clone()
                try:
                    layer.merge()
                    after = [p.data for p, _ in before]
                finally:
                    for p, bits in before:
                        p.data = bits
                pairs = list(zip(before, after, strict=True))
                loss[name] = max(lost(bits, new - bits.float()) for (_, bits), new in pairs)
                if loss[name] > most:
                    layer.merged_adapters = []
                    continue
                kept += [(p, bits.clone()) for p, bits in before]
                for (p, _), new in pairs:
                    p.copy_(new)
                if vars(layer.get_base_layer()).pop("weight_is_read", False):
                    whole.append(layer.get_base_layer())
        yield worth_merging(loss, tensors, most)[1]
    finally:
        with torch.no_grad():
            for p, bits in kept:
                p.copy_(bits)
        for base in whole:
            base.weight_is_read = True
        for layer in layers.values():
            layer.merged_adapters = []
