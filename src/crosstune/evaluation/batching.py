"""Evaluation batches: items of like length together, up to a number of tokens."""

from collections.abc import Iterator, Sequence


def batches_by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most ``tokens`` each, padding included, longest first.

    Longest first, so that a batch too large for the memory shows at once and not at the end.
    """
    ordered = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in ordered:
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
