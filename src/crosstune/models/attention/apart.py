"""Texts one per row: the slow exact way of models that hand more from token to token than attention does.

A state that runs along a row (Mamba, linear attention, short convolutions) knows nothing of a text that
begins in the middle of one, or of branches. Whatever the form of a batch, such a model gets each text, and
each branch with what it follows, in a row of its own, padded behind; what it makes of the tokens goes back to
where they stand in the batch.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from crosstune.models.attention.cpu_line import PaddingFreeBatch
from crosstune.models.attention.layout import Layout
from crosstune.models.proof import FastWay

TOGETHER = FastWay(
    fast="several in a row, as branches or decoded together",
    plain="texts are read one per row, which is slower",
    tolerance=1e-3,
    because="a text's logits in fp32, on a small copy of the model (`crosstune.models.loading.probe`)",
)


def texts_of(layout: Layout | PaddingFreeBatch, rows: int) -> Iterator[tuple[int, list[int]]]:
    """Row of a batch, and columns, of each text in it, a branch with what it follows."""
    if isinstance(layout, PaddingFreeBatch):
        ends = None if layout.ends is None else layout.ends.tolist()
        for start, n, seen in layout.pieces():
            at = start - layout.shared_prefix
            for path in [range(n)] if ends is None else _paths(ends[at : at + n]):
                yield 0, [*range(seen), *(start + i for i in path)]
        return
    for row, ends in enumerate(layout.ends.expand(rows, -1).tolist()):
        yield from ((row, path) for path in _paths(ends))


def _paths(ends: Sequence[int]) -> Iterator[list[int]]:
    """Of each token that none follows: what it follows, and itself."""
    for leaf, end in enumerate(ends):
        if end == leaf:
            yield [i for i in range(leaf + 1) if ends[i] >= leaf]


def one_per_row(states: Tensor, layout: Layout | PaddingFreeBatch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A batch's input with each of its texts in a row of its own.

    Args:
        states: ``[rows, width, hidden]``.
        layout: Who sees whom.

    Returns:
        ``[texts, longest, hidden]``, and of each token of the batch its place there: numbers of text and
        column, ``[rows, width]`` each.
    """
    texts = list(texts_of(layout, len(states)))
    longest = max(len(path) for _, path in texts)
    row = torch.tensor([[row] for row, _ in texts], device=states.device)
    column = torch.tensor(
        [path + [path[-1]] * (longest - len(path)) for _, path in texts], device=states.device
    )
    text_of, place_of = torch.zeros(2, *states.shape[:2], dtype=torch.long).unbind()
    for number, (at, path) in enumerate(texts):
        text_of[at, path] = number
        place_of[at, path] = torch.arange(len(path))
    return states[row, column], (text_of.to(states.device), place_of.to(states.device))
