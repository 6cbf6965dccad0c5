"""Trained changes merged into the weights for evaluation, and the weights' very bits put back after."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from crosstune.methods.deferred import Tensor, torch


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
