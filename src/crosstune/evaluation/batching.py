"""Evaluation batches: items of like length together, up to a number of tokens."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from crosstune.evaluation.journal import Journal
from crosstune.models.memory import Passes

T = TypeVar("T", str, list[float])

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


def in_batches(
    lengths: Sequence[int],
    answer: Callable[[list[int]], list[T]],
    passes: Passes,
    tell: Callable[[int], None] | None = None,
    journal: Journal[T] | None = None,
) -> list[T]:
    """Answer every item, batch by batch; smaller batches where memory runs out.

    Args:
        lengths: Tokens of each item.
        answer: Gives the answers to the items of one batch.
        passes: Says how many tokens go at once.
        tell: Called with the number of items done since the last call.
        journal: Holds the answers of finished batches. Batches are made from the longest item down, so
            those that remain are the same as if nothing had come between.

    Raises:
        UserError: Memory runs out on one item.
    """
    done: dict[int, T] = {}
    if journal is not None:
        done = journal.answers
        if done and journal.passes is not None:
            passes.put_back(journal.passes)
            if tell is not None:
                tell(len(done))
    while len(done) < len(lengths):
        left = [i for i in range(len(lengths)) if i not in done]
        for places in batches_by_length([lengths[i] for i in left], passes.limit):
            batch = [left[place] for place in places]
            passes.begin(len(batch), len(batch) * lengths[batch[0]])
            answers = passes.attempt(partial(answer, batch))
            if answers is None:
                break  # what is left is put into smaller batches
            done.update(zip(batch, answers, strict=True))
            if journal is not None:
                journal.add(batch, answers, passes)
            if tell is not None:
                tell(len(batch))
    return [done[i] for i in range(len(lengths))]
