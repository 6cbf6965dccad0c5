"""One choice for each batch: in which form its texts go through the model, and the tensors of that form.

* padded: one text a row, or one tree of texts with shared beginnings. Long texts on a CPU; an
  encoder-decoder's; evaluation where no other form fits.
* by rotation: the same, of a model that rotates long texts otherwise (LongRoPE) and reads them by themselves.
* packed: several texts a row, with a mask. Training where no other form fits.
* padding-free: all texts in one row, attention in groups of like length. A CPU, texts up to `LONGEST`.
* varlen: all texts in one row, a GPU's kernel for texts of many lengths, where it is trusted.

Texts that are being written stand in the slots of a cache (`crosstune.models.attention.cache`), whatever the
device. Texts that share a row do not see each other and keep their own positions: all forms give the same.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from crosstune.models.attention.cache import DecodingCache, OwnCaches
from crosstune.models.attention.cpu_line import LONGEST, PaddingFreeBatch, TwoWayLine
from crosstune.models.attention.gpu_line import VarlenBatch, drops_attention, suits
from crosstune.models.attention.layout import Layout, TwoWayLayout
from crosstune.models.attention.trees import Tree, grow
from crosstune.models.proof import Note
from crosstune.models.protocol import Model


class BatchForm(Enum):
    """How the texts of a batch stand in its rows; see above."""

    PADDED = "padded"
    BY_ROTATION = "by rotation"
    PACKED = "packed"
    PADDING_FREE = "padding-free"
    VARLEN = "varlen"

    @property
    def fills_up(self) -> bool:
        """Whether rows are filled up to the longest."""
        return self in (BatchForm.PADDED, BatchForm.BY_ROTATION, BatchForm.PACKED)


def turns(model: Model, longest: int) -> bool:
    """Whether a text of so many tokens, a soft prompt counted in, has another rotation than a short one."""
    shape = model.geometry
    return shape.long_rotation and longest + model.adaptation.first_position > shape.same_rotation


def training_form(model: Model, longest: int, note: Note | None = None) -> BatchForm:
    """The form of a training batch whose longest text, a soft prompt counted in, has so many tokens.

    ``note`` is told in one line where a GPU's kernel is not used.
    """
    if turns(model, longest):
        return BatchForm.BY_ROTATION
    if model.geometry.apart or model.geometry.encoder_layers or _alone(model):
        return BatchForm.PADDED
    if not model.geometry.encoder and suits(model, longest, note):
        return BatchForm.VARLEN
    form = reading_form(model, longest)
    # The groups of a padding-free batch drop no attention in training.
    return BatchForm.PACKED if drops_attention(model) or form is BatchForm.PADDED else form


def reading_form(model: Model, longest: int) -> BatchForm:
    """The form of a batch that is only read, whose longest text or tree has so many tokens."""
    if turns(model, longest):
        return BatchForm.BY_ROTATION
    decodes = not (model.geometry.encoder or model.geometry.encoder_layers or model.geometry.apart)
    if decodes and not _alone(model) and suits(model, longest, reading=True):
        return BatchForm.VARLEN
    padded = model.geometry.apart or model.device.type != "cpu" or longest > LONGEST
    return BatchForm.PADDED if padded or _alone(model) else BatchForm.PADDING_FREE


def _alone(model: Model) -> bool:
    """Whether each text has to be in a row of its own.

    A soft prompt in front of it sees it, or some layers are causal and others not.
    """
    return bool(model.geometry.encoder and model.adaptation.front) or bool(model.adaptation.two_way)


@dataclass(frozen=True, slots=True)
class Placed:
    """A batch as tensors."""

    ids: Tensor  # ``[rows, width]`` token ids
    # Who sees whom; None for plain causal order, and of an encoder's texts for no padding.
    layout: Layout | TwoWayLayout | PaddingFreeBatch | None
    starts: list[int]  # of each text: place of its first token, counted through rows and width
    order: list[int]  # the texts in the order in which they stand


@dataclass(frozen=True, slots=True)
class Source:
    """What an encoder reads before its decoder writes: one text a row."""

    ids: Tensor  # ``[rows, width]`` token ids, padded on the right
    mask: Tensor | None  # ``[rows, width]``: 1 for tokens and 0 for padding; None where there is no padding

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], pad: int, device: torch.device | str) -> "Source":
        """Of texts of token ids."""
        width = max(map(len, texts))
        ids = torch.tensor([[*text, *[pad] * (width - len(text))] for text in texts], device=device)
        lengths = torch.tensor([len(text) for text in texts], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        return cls(ids, None if len(set(map(len, texts))) == 1 else mask)


def lay_out(
    form: BatchForm,
    texts: Sequence[Tree | Sequence[int]],
    pad: int,
    device: torch.device | str,
    balance: float | None = None,
    shared_prefix: int = 0,
    apart: bool = False,
    two_way: bool = False,
    marked: bool = False,
) -> Placed:
    """Texts, or trees of texts with shared beginnings, in the rows of a form.

    Args:
        form: As chosen.
        texts: One at least: token ids, or trees.
        pad: Token id to fill up with.
        device: Where the tensors go.
        balance: Row length at which a token costs as much in attention as in everything else (``PACKED``).
        shared_prefix: Tokens of a soft prompt that will stand in front of every row (``PACKED``).
        apart: Each text attends by itself (``PADDING_FREE``).
        two_way: Tokens see those behind them too, as an encoder's do; no trees then.
        marked: That has a layout where there is no padding too, as the model would be causal without one.
    """
    trees = [text if isinstance(text, Tree) else grow([text]) for text in texts]
    lengths = [len(tree.tokens) for tree in trees]
    rows = [[i] for i in range(len(texts))]
    if not form.fills_up:
        rows = [list(range(len(texts)))]
    elif form is BatchForm.PACKED and balance is not None:
        rows = bins(lengths, balance, shared_prefix)
    width = max(sum(lengths[i] for i in row) for row in rows)
    starts = [0] * len(texts)
    for number, row in enumerate(rows):
        at = number * width
        for i in row:
            starts[i], at = at, at + lengths[i]

    def block(numbers: Callable[[int], Iterable[int]], fill: int) -> Tensor:
        lists = [[x for i in row for x in numbers(i)] for row in rows]
        return torch.tensor([row + [fill] * (width - len(row)) for row in lists], device=device)

    ids, order = block(lambda i: trees[i].tokens, pad), [i for row in rows for i in row]
    branches = any(tree.branches for tree in trees)
    layout: Layout | TwoWayLayout | PaddingFreeBatch | None = None
    assert not (two_way and branches)
    if not form.fills_up:
        kind = VarlenBatch if form is BatchForm.VARLEN else TwoWayLine if two_way else PaddingFreeBatch
        layout = kind(tuple(lengths), device=device, apart=apart)
        if branches:
            ends = block(lambda i: trees[i].ends, -1)[0]
            layout = replace(layout, places=block(lambda i: trees[i].positions, 0)[0], ends=ends)
    elif two_way and (marked or len(rows) < len(texts) or len(set(lengths)) > 1):
        texts_of = {i: n for row in rows for n, i in enumerate(row)}
        numbers = block(lambda i: [texts_of[i]] * lengths[i], -1)
        layout = TwoWayLayout(numbers, block(lambda i: trees[i].positions, 0))
    elif branches or len(rows) < len(texts) or form is BatchForm.BY_ROTATION:
        ends = block(lambda i: (starts[i] % width + end for end in trees[i].ends), -1)
        layout = Layout(ends, block(lambda i: trees[i].positions, 0), form is BatchForm.BY_ROTATION)
    return Placed(ids, layout, starts, order)


def for_training(model: Model, texts: Sequence[Sequence[int]], note: Note | None = None) -> Placed:
    """A training batch in the form that suits it (`training_form`)."""
    front = model.adaptation.front
    form = training_form(model, front + max(map(len, texts)), note)
    balance = model.geometry.attention_balance
    return lay_out(form, texts, model.pad_id, model.device, balance, front, **ways(model))


def for_reading(model: Model, texts: Sequence[Sequence[int]]) -> Placed:
    """Texts that are only read, in the form that suits them; on a CPU each attends by itself."""
    form = reading_form(model, model.adaptation.front + max(map(len, texts)))
    return lay_out(form, texts, model.pad_id, model.device, apart=True, **ways(model))


def ways(model: Model) -> dict[str, bool]:
    """Which ways tokens see, as arguments of `lay_out`."""
    marked = bool(model.adaptation.two_way)
    return {"two_way": marked or bool(model.geometry.encoder), "marked": marked}


def for_writing(model: Model, rows: int, longest: int) -> DecodingCache | OwnCaches:
    """Slots for so many texts being written, of so many tokens at most; a soft prompt stands in front."""
    columns = model.adaptation.front + longest
    if model.geometry.apart or turns(model, columns):
        return OwnCaches(model.device)
    return DecodingCache(model, rows, columns)


def bins(lengths: Sequence[int], balance: float, shared_prefix: int = 0) -> list[list[int]]:
    """Rows packed into lines: the cheapest of first-fit packings into a few line lengths, as rows' indices.

    A line of width w costs w * (1 + w / balance): the part of attention that grows with the square of the
    line is what packing pays for less padding. Its rows share a prefix in front. One row a line unless
    packing saves a twentieth.
    """
    longest = max(lengths)

    def cost(lines: list[list[int]]) -> float:
        width = shared_prefix + max(sum(lengths[i] for i in line) for line in lines)
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
