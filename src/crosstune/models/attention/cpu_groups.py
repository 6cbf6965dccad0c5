"""Which texts of a line attend at once: those of like length, filled up to the longest of them.

One product for many short texts runs at five times the rate of one for each (benchmarks/NOTES.md), and a
long text fills a product by itself, where filling up others to its length would cost more than it saves.
So texts are sorted by length and cut into the cheapest runs.

Nothing that fills up is ever seen: it stands behind its text, where what a token sees ends, and is a copy of
the text's own last token, so that not even a number that is none could pass from one text to another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What a block costs beyond its pairs of tokens, in pairs: its calls.
START = 4096
# What a token costs, in pairs, where a line has to be gathered into blocks and back, as some are filled up.
COPY = 16
# Pairs of a block of several texts at most: what its products and softmax hand on stays in the caches.
MOST = 1 << 17


@dataclass(frozen=True, slots=True)
class Block:
    """Texts that attend at once."""

    start: int  # where its rows begin among those of all blocks, key heads counted in
    texts: int  # how many, times the heads of the keys
    rows: int  # tokens of each, filled up
    shared: int  # columns that every text sees before its own: those in front of all, and the shared prefix
    mask: Tensor  # ``[1 or texts, rows * group, shared + rows]``, to be added

    def of(self, blocks: Tensor) -> Tensor:
        """Its part of ``[filled, ...]``, ``[texts, rows, ...]``; no copy."""
        part = blocks[self.start : self.start + self.texts * self.rows]
        return part.view(self.texts, self.rows, *blocks.shape[1:])


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """All blocks of a line, and where which token is.

    In a block the rows of a text stand behind one another for each key head: what a product takes, without a
    copy. So places and rows are those of pairs of a token and a key head.
    """

    blocks: tuple[Block, ...]  # the shared prefix's (if there is one) first
    # ``[filled]``: the place in the line of each row of the blocks; None where both are the same.
    places: Tensor | None
    # ``[line * kv_heads]``: the row of each place in the line; None where both are the same.
    home: Tensor | None
    filling: Tensor  # rows that no place has
    filled: int  # rows of all blocks

    def gather(self, line: Tensor) -> Tensor:
        """``[line, kv_heads, ...]`` as ``[filled, ...]``."""
        pairs = line.flatten(0, 1)
        return pairs if self.places is None else pairs.index_select(0, self.places)

    def scatter(self, blocks: Tensor, kv_heads: int) -> Tensor:
        """``[filled, ...]`` as ``[line, kv_heads, ...]``."""
        pairs = blocks if self.home is None else blocks.index_select(0, self.home)
        return pairs.view(-1, kv_heads, *blocks.shape[1:])


def cut(lengths: Sequence[int], shared: int) -> list[list[int]]:
    """Texts of like length together, shortest first: the runs whose blocks cost least.

    Each text sees so many shared columns beside its own.
    """
    exact, alike = _cheapest(lengths, shared, fill=False)
    filled, like = _cheapest(lengths, shared, fill=True)
    return like if filled + COPY * sum(lengths) < exact else alike


def _cheapest(lengths: Sequence[int], shared: int, fill: bool) -> tuple[int, list[list[int]]]:
    """Cost and runs; without ``fill`` those of one length alone are put together."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    # Of the first so many texts in that order: the least cost, and where its last run begins.
    least, begins = [0], [0]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        choices: list[tuple[int, int]] = []
        for start in range(end - 1, -1, -1):
            pairs = (end - start) * longest * (longest + shared)
            if choices and (pairs > MOST or not (fill or lengths[order[start]] == longest)):
                break
            choices.append((least[start] + START + pairs, start))
        cost, start = min(choices)
        least.append(cost)
        begins.append(start)
    runs, end = [], len(order)
    while end:
        runs.append(order[begins[end] : end])
        end = begins[end]
    return least[-1], runs[::-1]


def plan(layout: Any, front: int, heads: int, group: int, dtype: torch.dtype) -> GroupPlan:
    """The blocks of a `crosstune.models.attention.cpu_line.PaddingFreeBatch` with the layer's window.

    ``front`` keys stand before all texts; ``heads`` are those of the keys, each shared by ``group`` query
    heads.
    """
    texts = list(layout.pieces())
    shared_prefix, texts = (texts[:1], texts[1:]) if layout.shared_prefix else ([], texts)
    runs = [shared_prefix] if shared_prefix else []
    if layout.apart:
        runs += [[text] for text in texts]
    else:
        runs += [
            [texts[i] for i in run] for run in cut([n for _, n, _ in texts], front + layout.shared_prefix)
        ]
    blocks: list[Block] = []
    places: list[int] = []
    home = [0] * (heads * sum(n for run in runs for _, n, _ in run))
    filling: list[int] = []
    for run in runs:
        longest, seen = run[-1][1], run[-1][2]
        sees = _sees(layout, run, longest, seen)
        mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -torch.inf)
        mask = torch.nn.functional.pad(mask, (front, 0)).repeat_interleave(group, 1)
        mask = mask.repeat_interleave(heads, 0) if len(mask) > 1 else mask
        blocks.append(Block(len(places), len(run) * heads, longest, front + seen, mask))
        for start, n, _ in run:
            for head in range(heads):
                for i in range(longest):
                    place = (start + min(i, n - 1)) * heads + head
                    if i < n:
                        home[place] = len(places)
                    else:
                        filling.append(len(places))
                    places.append(place)
    same = places == list(range(len(places)))

    def index(of: list[int]) -> Tensor | None:
        return None if same else torch.tensor(of, device=layout.device)

    filling_rows = torch.tensor(filling, dtype=torch.long, device=layout.device)
    return GroupPlan(tuple(blocks), index(places), index(home), filling_rows, len(places))


def _sees(layout: Any, run: Sequence[tuple[int, int, int]], longest: int, seen: int) -> Tensor:
    """``[1 or texts, longest, seen + longest]``: which columns, shared_prefix first, each row sees."""
    column = torch.arange(longest, device=layout.device)
    follows = (column[:, None] >= column)[None]
    place = column[None]
    if layout.two_way:
        sizes = [n for _, n, _ in run]
        ends = torch.tensor(sizes[:1] if min(sizes) == longest else sizes, device=layout.device)[:, None]
        follows = (column < ends)[:, None].expand(-1, longest, -1)
        # What fills up sees what the last token sees: no softmax is over nothing.
        place = column.minimum(ends - 1)
    # A shared prefix has no branches.
    if layout.places is not None and (seen or not layout.shared_prefix):
        starts, lengths = torch.tensor(run, device=layout.device)[:, :2, None].unbind(1)
        at = starts - layout.shared_prefix + column.minimum(lengths - 1)
        place = layout.places[at]
        # What fills up is seen by what fills up behind it: no softmax is over nothing.
        ends = torch.where(column < lengths, layout.ends[at], longest)
        follows = follows & (column[:, None] <= ends[:, None])
    sees = torch.nn.functional.pad(follows, (seen, 0), value=True)
    if layout.window is not None:
        shared_prefix = torch.arange(seen, device=layout.device).expand(len(place), -1)
        columns = torch.cat([shared_prefix, place + seen], 1)
        away = (place + seen)[:, :, None] - columns[:, None]
        sees = sees & ((away.abs() if layout.two_way else away) < layout.window)
    return sees
