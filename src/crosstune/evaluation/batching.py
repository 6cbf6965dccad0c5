"""Evaluation batches: items of like length together, up to a number of tokens."""

from collections.abc import Iterator, Sequence

# A batch that is large enough already is closed rather than padded by more than this.
LARGE_ENOUGH = 1 / 8
SHORTEST = 0.85


def batches_by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most ``tokens`` each, padding included, longest first.

    Longest first, so that a batch too large for the memory shows at once and not at the end. A batch of
    at least an eighth of ``tokens`` takes no item that would be padded by more than 15%.
    """
    ordered = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in ordered:
        if batch:
            longest = lengths[batch[0]]
            full = (len(batch) + 1) * longest > tokens
            enough = len(batch) * longest >= LARGE_ENOUGH * tokens and lengths[i] < SHORTEST * longest
            if full or enough:
                yield batch
                batch = []
        batch.append(i)
    if batch:
        yield batch
