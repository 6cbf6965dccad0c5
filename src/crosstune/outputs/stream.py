"""Evaluation batches: groups of items of like length together, up to a number of tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.journal import Stream

T = TypeVar("T")

# A batch that is large enough already is closed rather than padded by more than this.
LARGE_ENOUGH = 1 / 8
SHORTEST = 0.85
# Beyond this a CPU's caches are too small for what a layer passes on (measured: benchmarks/NOTES.md).
CPU_PASS = 2048


def in_a_pass(tokens: int, device: torch.device) -> int:
    """The fastest number of tokens to read at once, up to ``tokens``."""
    return min(tokens, CPU_PASS) if device.type == "cpu" else tokens


@dataclass(frozen=True, slots=True)
class Group:
    """Items that go through the model together."""

    items: list[int]  # their indices
    lines: int  # how many lines of a batch they take
    width: int  # tokens of the longest of these lines


def batches_by_length(groups: Sequence[Group], tokens: int, padded: bool = True) -> Iterator[list[Group]]:
    """Groups in batches of at most ``tokens``, longest first: one too large for memory fails at once.

    With padding, a batch of at least an eighth of ``tokens`` takes no group that would be padded by more than
    15%.
    """
    batch: list[Group] = []
    for group in sorted(groups, key=lambda group: -group.width):
        if batch:
            full = size_of([*batch, group], padded) > tokens
            enough = size_of(batch, padded) >= LARGE_ENOUGH * tokens
            if full or (padded and enough and group.width < SHORTEST * batch[0].width):
                yield batch
                batch = []
        batch.append(group)
    if batch:
        yield batch


def size_of(batch: Sequence[Group], padded: bool) -> int:
    """Tokens of a batch, longest group first: padded to the longest line, or the lines' own."""
    if padded:
        return sum(group.lines for group in batch) * batch[0].width
    return sum(group.lines * group.width for group in batch)


def in_batches(
    groups: Sequence[list[int]],
    measure: Callable[[list[int]], tuple[int, int]],
    answer: Callable[[list[Group]], list[T]],
    passes: TokenLimit,
    stream: Stream,
    fill: Callable[[int], int],
    padded: bool = True,
    fit: Callable[[list[Group]], None] | None = None,
) -> list[T]:
    """Answer every item, batch by batch; smaller batches where memory runs out.

    A group of indices is answered together, each item once; one that is more than a pass takes is halved
    until it fits. ``measure`` gives the lines and the width of some items of a group, ``answer`` the answers
    to one batch, ``fill`` the tokens of a batch from ``passes.limit``. ``padded`` lines are as long as their
    batch's longest. Unless ``passes`` have been measured, ``fit`` measures memory on the first batch that is
    large enough. Batches depend on the groups and on ``passes.limit`` alone and are made from the longest
    group down, so what remains after the journal's is the same as if nothing had come between.

    Raises:
        UserError: Memory runs out on one item.
    """
    tell, journal = stream.get("tell"), stream.get("journal")
    done: dict[int, T] = {} if journal is None else journal.answers
    if done and journal is not None and journal.passes is not None:
        passes.put_back(journal.passes)
        if tell is not None:
            tell(len(done))
    total = sum(map(len, groups))
    while len(done) < total:
        parts = [part for group in groups for part in _parts(group, measure, passes.limit)]
        left = [part for part in parts if part.items[0] not in done]
        for batch in batches_by_length(left, fill(passes.limit), padded):
            if fit is not None and not passes.measured:
                fit(batch)
                if passes.measured:
                    break  # batches as large as was found to fit
            items = [i for group in batch for i in group.items]
            passes.begin(len(items), max(batch[0].width, min(size_of(batch, padded), passes.limit)))
            answers = passes.attempt(partial(answer, batch))
            if answers is None:
                break  # what is left is put into smaller batches
            done.update(zip(items, answers, strict=True))
            if journal is not None:
                journal.add(items, answers, passes)
            if tell is not None:
                tell(len(items))
    return [done[i] for i in range(total)]


def _parts(items: list[int], measure: Callable[[list[int]], tuple[int, int]], tokens: int) -> list[Group]:
    """The group, or its halves, or their halves: cuts are the same at every limit, only fewer or more."""
    lines, width = measure(items)
    if len(items) == 1 or lines * width <= tokens:
        return [Group(items, lines, width)]
    middle = len(items) // 2
    return _parts(items[:middle], measure, tokens) + _parts(items[middle:], measure, tokens)
