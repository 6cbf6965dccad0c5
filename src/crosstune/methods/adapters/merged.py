"""Trained changes merged into the weights for evaluation, and the weights' very bits put back after."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from crosstune.methods.deferred import Tensor, torch

MOST_LOST = 0.1
"""Share of a change that may be lost when it is merged. bf16 rounds a weight by up to 0.4% of itself: of
changes of a few percent little is lost, of changes below that nearly everything."""


def lost(weight: Tensor, change: Tensor) -> float:
    """What rounding to the weight's dtype takes of a change that is added: ``|kept - change| / |change|``."""
    before, change = weight.float(), change.float()
    kept = (before + change).to(weight.dtype).float() - before
    size = change.norm()
    return float((kept - change).norm() / size) if size > 0 else 0.0


@contextmanager
def merged(weights: Sequence[Tensor], merge: Callable[[], None]) -> Iterator[None]:
    """Inside, weights hold what ``merge`` makes of them.

    Args:
        weights: Every tensor that ``merge`` writes to; copies of them are kept.
        merge: Called without gradients.
    """
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            merge()
        yield
    finally:
        with torch.no_grad():
            for weight, bits in zip(weights, kept, strict=True):
                weight.copy_(bits)
