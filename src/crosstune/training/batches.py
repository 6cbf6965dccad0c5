"""Batches of tokenised examples: seeded order, little padding, a limit on tokens at once."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.models.attention.cpu_line import LONGEST, Ragged
from crosstune.models.attention.gpu_line import Packed
from crosstune.models.attention.layout import Layout
from crosstune.models.fast.layers import Handed
from crosstune.outputs.rows import Row, Rows

# Batches drawn together before sorting by length: enough to pair like with like, few enough that
# an epoch's order stays random.
POOL = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward reads.

    Attributes:
        ids: ``[lines, width]``, padded on the right.
        rows: ``[answers]`` flat indices (lines * width) of the positions that predict an answer token.
        targets: ``[answers]`` what to predict there: token ids, or with ``columns`` places among them.
        layout: Who sees whom, when a line holds several examples.
        columns: ``[columns]`` the only tokens that are compared; None for the whole vocabulary.
        offered: ``[answers, columns]`` which of them each answer is chosen from.
        handed: What the frozen layers below the lowest adapted one hand to it; None to run them.
    """

    ids: Tensor
    rows: Tensor
    targets: Tensor
    layout: Layout | Ragged | None = None
    columns: Tensor | None = None
    offered: Tensor | None = None
    handed: Handed | None = None


def order(rows: Sequence[Row], batch_size: int, seed: int, by_length: bool = True) -> Iterator[list[Row]]:
    """Endless batches: every epoch a new seeded shuffle, with ``by_length`` rows of like length together.

    The last batch of an epoch may be smaller; no row is dropped or repeated within an epoch.
    """
    epoch = 0
    while True:
        shuffler = random.Random(f"{seed}:{epoch}")
        shuffled = list(range(len(rows)))
        shuffler.shuffle(shuffled)
        pool = POOL * batch_size if by_length else batch_size
        batches = [
            (start, i)
            for start in range(0, len(shuffled), pool)
            for i in range(0, len(shuffled[start : start + pool]), batch_size)
        ]
        shuffler.shuffle(batches)
        sorted_pools: dict[int, list[Row]] = {}
        for start, i in batches:
            if start not in sorted_pools:
                places = shuffled[start : start + pool]
                part = rows.take(places) if isinstance(rows, Rows) else [rows[place] for place in places]
                sorted_pools[start] = sorted(part, key=lambda row: len(row.ids))
            yield sorted_pools[start][i : i + batch_size]
        epoch += 1


def split(batch: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Parts of a batch to run one after the other, each of at most ``tokens`` even if padded (or one row)."""
    parts: list[list[Row]] = []
    for row in sorted(batch, key=lambda r: len(r.ids)):
        # Rows come shortest first, so the newest is the width of its part.
        if parts and (len(parts[-1]) + 1) * len(row.ids) <= tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def collate(
    rows: Sequence[Row],
    pad: int,
    device: torch.device | str = "cpu",
    balance: float | None = None,
    trunk: int = 0,
    ragged: bool = False,
    packed: bool = False,
    below: tuple[int, Sequence[Tensor]] | None = None,
) -> Batch:
    """Lay rows out for one forward: one a line, or several behind one another where that saves padding.

    Rows that share a line do not see each other and keep their own positions, so the result is the
    same either way.

    Args:
        rows: At least one.
        pad: Token id to fill up with.
        device: Where the tensors go.
        balance: Line length at which a token costs as much in attention as in everything else; None
            for one row a line.
        trunk: Tokens of a soft prompt that will stand in front of every line.
        ragged: All in one line without padding, and attention row by row, unless a row is too long for that.
        packed: All in one line without padding, whatever their lengths, for a GPU's kernel.
        below: The lowest layer that has to run, and what it receives of each row, ``[tokens, hidden]``.
    """
    # The last token of a row predicts nothing that is scored: it is left out of the forward.
    lengths = [len(row.ids) - 1 for row in rows]
    ragged = ragged and trunk + max(lengths) <= LONGEST
    if ragged or packed:
        lines = [list(range(len(rows)))]
    else:
        lines = [[i] for i in range(len(rows))] if balance is None else bins(lengths, balance, trunk)
    width = max(sum(lengths[i] for i in line) for line in lines)
    ids = torch.full((len(lines), width), pad)
    ends = torch.full((len(lines), width), -1)
    positions = torch.zeros((len(lines), width), dtype=torch.long)
    handed = None
    if below is not None:
        layer, states = below
        blank = torch.zeros(len(lines), width, states[0].shape[-1], dtype=states[0].dtype, device=device)
        handed = Handed(layer, blank)
    where: list[int] = []
    targets: list[int] = []
    for number, line in enumerate(lines):
        at = 0
        for i in line:
            row, end = rows[i], at + lengths[i]
            ids[number, at:end] = torch.tensor(row.ids[:-1])
            ends[number, at:end] = end - 1
            positions[number, at:end] = torch.arange(lengths[i])
            if handed is not None:
                handed.states[number, at:end] = states[i]
            where += range(number * width + end - row.answer, number * width + end)
            targets += row.ids[len(row.ids) - row.answer :]
            at = end
    layout: Layout | Ragged | None = None
    if packed:
        layout = Packed(tuple(lengths), device=device)
    elif ragged:
        layout = Ragged(tuple(lengths), device=device)
    elif len(lines) < len(rows):
        layout = Layout(ends.to(device), positions.to(device))
    columns = offered = None
    if any(row.choices for row in rows):
        tokens = sorted({token for row in rows for token in row.choices})
        in_order = [rows[i] for line in lines for i in line]
        offered = torch.tensor([[token in row.choices for token in tokens] for row in in_order]).to(device)
        targets = [tokens.index(target) for target in targets]
        columns = torch.tensor(tokens, device=device)
    return Batch(
        ids.to(device),
        torch.tensor(where, device=device),
        torch.tensor(targets, device=device),
        layout,
        columns,
        offered,
        handed,
    )


def bins(lengths: Sequence[int], balance: float, trunk: int = 0) -> list[list[int]]:
    """Rows packed into lines: the cheapest of first-fit packings into a few line lengths.

    A line of width w costs w * (1 + w / balance): the part of attention that grows with the square of
    the line is what packing pays for less padding.

    Args:
        lengths: Of the rows.
        balance: See above.
        trunk: Tokens in front of every line that its rows share.

    Returns:
        Indices of the rows of each line. One row a line unless packing saves a twentieth.
    """
    longest = max(lengths)

    def cost(lines: list[list[int]]) -> float:
        width = trunk + max(sum(lengths[i] for i in line) for line in lines)
        return len(lines) * width * (1 + width / balance)

    alone = [[i] for i in range(len(lengths))]
    best = alone
    # Widths up to four times the longest row: beyond, there is little padding left to save.
    for quarter in range(4, 17):
        packed = _first_fit(lengths, longest * quarter // 4)
        if cost(packed) < 0.95 * cost(alone) and cost(packed) < cost(best):
            best = packed
    return best


def _first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Longest rows first, each into the first line that has room for it."""
    lines: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for line, free in enumerate(room):
            if lengths[i] <= free:
                lines[line].append(i)
                room[line] -= lengths[i]
                break
        else:
            lines.append([i])
            room.append(width - lengths[i])
    return lines
