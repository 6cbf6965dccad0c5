"""The cache of texts that are being written: memory set aside once, rows that end make room for others.

A row holds one text from its first column on, whatever the lengths of its neighbours; a learned prefix
stands in front of it, written once for all texts that come and go, or is kept once for all rows where that
is faster (`flash.next_tokens.shares`). So decoding reads keys and values in place
and copies nothing but the newest token's. What changes from step to step is in `state`, on the model's
device: each row's newest token, how many tokens the row holds, and how many more may be written.

On a GPU rows and columns are rounded up to powers of two: few shapes, each worth a recording
(`crosstune.models.fast.graphs`). Rows that end are left empty until half as many are enough.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache

from crosstune.models.attention import gpu_line
from crosstune.models.attention.flash.kernel import Places
from crosstune.models.attention.flash.next_tokens import NextTokens, shares
from crosstune.models.attention.layout import ridden
from crosstune.models.protocol import Model

# Rows of `DecodingCache.state`: token ids, tokens that each text holds, tokens that may still be written.
IDS, LENGTHS, LEFT = range(3)
# Fewer columns than this are not worth a shape of their own.
COLUMNS = 128
# Rows that the state has at least, so that it stays where it is when more and shorter texts are written.
STATES = 1024


def power(count: int, least: int, most: int) -> int:
    """The next power of two, within bounds."""
    return min(most, max(least, 1 << (count - 1).bit_length()))


@dataclass
class OwnCache:
    """What a model that keeps more than keys and values keeps of one text, of transformers' own making."""

    cache: Any = None  # what it keeps
    ids: Tensor | None = None  # ``[1, tokens]`` of the text


@dataclass
class OwnCaches:
    """Texts that are being written, each with what the model itself keeps of it: the slow way.

    ``device`` is where the model's input goes.
    """

    reader: ClassVar[type[OwnCache]] = OwnCache

    device: torch.device
    caches: list[OwnCache] = field(default_factory=list)  # of each text
    lengths: list[int | None] = field(default_factory=list)  # tokens that each of them holds, no prefix

    def __post_init__(self) -> None:
        self.state = torch.zeros(3, 0, dtype=torch.long, device=self.device)

    @property
    def extent(self) -> int:
        """As `DecodingCache.extent`."""
        return len(self.lengths)

    def add(self, read: Any, texts: Sequence[tuple[int, list[int]]]) -> list[int]:
        """As `DecodingCache.add`, of one text."""
        ((_, path),) = texts
        self.caches.append(read)
        self.lengths.append(len(path))
        self.state = torch.cat([self.state, self.state.new_tensor([[0], [len(path)], [0]])], 1)
        return [self.extent - 1]

    def drop(self, ended: Sequence[int]) -> list[int]:
        """As `DecodingCache.drop`."""
        order = [row for row in range(self.extent) if row not in set(ended)]
        self.caches = [self.caches[row] for row in order]
        self.lengths = [self.lengths[row] for row in order]
        self.state = self.state[:, order]
        return order

    def take(self, rows: Sequence[int]) -> None:
        """As `DecodingCache.take`."""
        first = {row: at for at, row in reversed([*enumerate(rows)])}
        self.caches = [
            self.caches[row] if first[row] == at else deepcopy(self.caches[row])
            for at, row in enumerate(rows)
        ]
        self.lengths = [self.lengths[row] for row in rows]
        self.state = self.state[:, list(rows)]

    def end(self) -> None:
        """As `DecodingCache.end`."""
        self.lengths = [None if length is None else length + 1 for length in self.lengths]


def row_bytes(lm: Model, columns: int) -> int:
    """Bytes of one text's keys and values in `DecodingCache`, a prefix's among them."""
    heads, keys, values = lm.geometry.in_cache
    prompts = _fronts(lm)
    columns = len(prompts) * (columns + max(map(_width, prompts), default=0))
    return columns * heads * (keys + values) * lm.dtype.itemsize


def _fronts(lm: Model) -> "list[tuple[Tensor, Tensor] | None]":
    """What a cache holds in front of every text, layer by layer: prompts, unless it holds no keys."""
    layers = range(lm.geometry.layers)
    return [None if lm.geometry.cached else lm.adaptation.prompts(i).joint() for i in layers]


def _width(prompt: tuple[Tensor, Tensor] | None) -> int:
    return 0 if prompt is None else prompt[0].shape[1]


@dataclass
class DecodingCache:
    """Keys and values of so many rows of texts being written, and the attention of their next tokens."""

    # What transformers asks of every cache.
    is_sliding: ClassVar[list[bool]] = []
    is_compileable: ClassVar[bool] = False
    two_way: ClassVar[bool] = False
    # What a forward that only reads keeps its keys and values in.
    reader: ClassVar[type[DynamicCache]] = DynamicCache

    lm: Model  # a model with whatever methods left on it
    rows: int  # texts at once
    columns: int  # tokens of the longest, soft prompt included
    # Of each row in use, the most tokens that it holds, a prefix left out; None for an empty one.
    lengths: list[int | None] = field(default_factory=list)
    rounded: bool | None = None  # whether rows and columns of a step are rounded up; None for on a GPU alone

    def __post_init__(self) -> None:
        # By layer: ``[rows * width, kv_heads, size]``, row behind row.
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        device = self.lm.device
        self.state = torch.zeros(3, max(self.rows, STATES), dtype=torch.long, device=device)
        self._firsts = torch.zeros(self.state.shape[1] + 1, dtype=torch.long, device=device)
        self._at: dict[torch.device, Places] = {}
        # By layer: of prompts that all rows share, keys and values ``[n, kv_heads, size]``.
        self.shared: dict[int, tuple[Tensor, Tensor]] = {}
        if self.rounded is None:
            self.rounded = device.type == "cuda"
        self.fit(self.rows, self.columns)

    def fit(self, rows: int, columns: int) -> bool:
        """Empty it and cut its memory into other rows; False, and nothing done, where that is too small."""
        prompts, in_place = _fronts(self.lm), gpu_line.reads_in_place(self.lm)
        shared: list[tuple[Tensor, Tensor] | None] = [None] * len(prompts)
        if in_place and shares(self.lm, rows, columns, max(map(_width, prompts), default=0)):
            prompts, shared = shared, prompts
        width = columns + max(map(_width, prompts), default=0)
        held = [store.shape[0] for store in self.keys.values()]
        if rows > self.state.shape[1] or any(rows * width > tokens for tokens in held):
            return False
        self.rows, self.columns, self.width, self._prompts = rows, columns, width, prompts
        self.in_place, self.lengths = in_place, []
        self._share(shared)
        self.prompts_inside = self.lm.geometry.cached is None and not self.shared
        self.state.zero_()
        torch.mul(torch.arange(len(self._firsts), device=self._firsts.device), width, out=self._firsts)
        for i in self.keys:
            self._put_prompt(i)
        return True

    def _share(self, prompts: "list[tuple[Tensor, Tensor] | None]") -> None:
        """Keep these for all rows, by layer: where recorded steps look for them, if they are as long."""
        before, self.shared = self.shared, {}
        for i, prompt in enumerate(prompts):
            if prompt is not None:
                keys, values = (
                    x.detach().transpose(0, 1).clone(memory_format=torch.contiguous_format) for x in prompt
                )
                if i in before and [x.shape for x in before[i]] == [keys.shape, values.shape]:
                    keys, values = before[i][0].copy_(keys), before[i][1].copy_(values)
                self.shared[i] = keys, values

    @property
    def extent(self) -> int:
        """Rows from the first to the last in use."""
        return len(self.lengths)

    def _layer(self, i: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, int]:
        """A layer's memory, ``[tokens, kv_heads, size]``, and columns of the prompt in front of each row.

        It is set aside when some keys and values tell their sizes, which layers may not have in common.
        """
        if i not in self.keys:
            for store, some in ((self.keys, keys), (self.values, values)):
                # Zeros: what no text has written is masked, and must be finite for that.
                shape = (self.rows * self.width, some.shape[-3], some.shape[-1])
                store[i] = torch.zeros(shape, dtype=self.lm.dtype, device=some.device)
            self._put_prompt(i)
        return self.keys[i], self.values[i], _width(self._prompts[i])

    def _put_prompt(self, i: int) -> None:
        if (prompt := self._prompts[i]) is not None:
            for store, learned in zip((self.keys, self.values), prompt, strict=True):
                self._by_row(store[i])[:, : learned.shape[1]] = learned.transpose(0, 1)

    def _by_row(self, store: Tensor) -> Tensor:
        """``[rows, width, kv_heads, size]``."""
        by_row: Tensor = store[: self.rows * self.width].unflatten(0, (self.rows, self.width))
        return by_row

    # --- rows -----------------------------------------------------------------------------------

    def add(self, read: Any, texts: Sequence[tuple[int, list[int]]]) -> list[int]:
        """Put texts that a `reader` read into free rows, whose numbers are returned.

        Of each text: its line, and its tokens' places there.
        """
        rows = [row for row, length in enumerate(self.lengths) if length is None]
        rows = [*rows, *range(self.extent, self.rows)][: len(texts)]
        self.lengths += [None] * (max(rows) + 1 - self.extent)
        from_: list[tuple[int, int]] = []
        to: list[int] = []
        for row, (line, path) in zip(rows, texts, strict=True):
            self.lengths[row] = len(path)
            from_ += [(line, at) for at in path]
            to += range(row * self.width, row * self.width + len(path))
        lines, places = torch.tensor(from_, device=self.lm.device).T
        columns = torch.tensor(to, device=self.lm.device)
        layers: list[Any] = read.layers
        for i, layer in enumerate(layers):
            keys, values, n = self._layer(i, layer.keys, layer.values)
            at_line, place, column = (x.to(keys.device) for x in (lines, places, columns + n))
            keys[column] = layer.keys[at_line, :, place]
            values[column] = layer.values[at_line, :, place]
        numbers = torch.tensor([rows, [len(path) for _, path in texts]], device=self.lm.device)
        self.state[LENGTHS, numbers[0]] = numbers[1]
        return rows

    def drop(self, ended: Sequence[int]) -> list[int]:
        """Free some rows; returns each row's previous number.

        Where fewer rows than before would then be computed, the last ones move into the gaps.
        """
        for row in ended:
            self.lengths[row] = None
        while self.lengths and self.lengths[-1] is None:
            self.lengths.pop()
        order = list(range(self.extent))
        live = [row for row in order if self.lengths[row] is not None]
        if live and self._rows(len(live)) < self._rows(self.extent):
            order = self._move(live)
        return order

    def _move(self, live: list[int]) -> list[int]:
        """Move the last rows into the gaps before them; the rows' previous numbers."""
        order = list(range(len(live)))
        gaps = [row for row in order if self.lengths[row] is None]
        for gap, row in zip(gaps, live[::-1], strict=False):
            order[gap] = row
        self._copy([order[gap] for gap in gaps], gaps)
        self.lengths = [self.lengths[row] for row in order]
        return order

    def take(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; one that is named several times is copied."""
        if list(rows) != list(range(len(rows))):
            self._copy(rows, range(len(rows)))
        self.lengths = [self.lengths[row] for row in rows]

    def _copy(self, from_: Sequence[int], to: Sequence[int]) -> None:
        """Copy what some rows hold to others."""
        places = torch.tensor([list(from_), list(to)], device=self.lm.device)
        end = max(self.lengths[row] or 0 for row in from_)
        for store in (self.keys, self.values):
            for i, tokens in store.items():
                by_row, (source, target) = self._by_row(tokens), places.to(tokens.device)
                columns = slice(_width(self._prompts[i]), _width(self._prompts[i]) + end)
                by_row[target, columns] = by_row[source, columns]
        self.state[:, places[1]] = self.state[:, places[0]]

    # --- a step ---------------------------------------------------------------------------------

    def _rows(self, extent: int) -> int:
        return power(extent, 1, self.rows) if self.rounded else extent

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns of the next step, and what else its operations depend on."""
        columns = max((length or 0) for length in self.lengths) + 1
        if self.in_place:  # columns are the kernel's bound, and it is told where each row begins
            return self._rows(self.extent), power(self.columns, COLUMNS, 1 << 62), 0
        if self.rounded:
            columns = power(columns, COLUMNS, self.columns)
        return self._rows(self.extent), columns, self.width

    def begin(self, shape: tuple[int, ...] | None = None) -> Tensor:
        """Make ready to read one more token a row, in a `shape`; tokens that each row holds, ``[rows]``."""
        rows, self.fixed_columns, _ = shape or self.shape
        lengths = self.state[LENGTHS, :rows]
        self._at = {lengths.device: Places(self._firsts[: rows + 1], lengths)}
        return lengths

    def end(self) -> None:
        """All layers have read it."""
        most = self.columns - 1
        self.lengths = [None if length is None else min(length + 1, most) for length in self.lengths]

    # --- what the model asks for ----------------------------------------------------------------

    def at(self, device: torch.device) -> Places:
        """Where the step's tokens stand, on some device."""
        if device not in self._at:
            places = self._at[self.lm.device]
            self._at[device] = Places(places.firsts.to(device), places.lengths.to(device))
        return self._at[device]

    def mask(self, window: int | None) -> Tensor:
        """What is asked for in a step: `seen`, or a number that `NextTokens` rides on."""
        if self.in_place:
            return ridden(torch.zeros(1, 1, 1, 1, device=self.lm.device), NextTokens(self, window))
        return self.seen(window)

    def seen(self, window: int | None) -> Tensor:
        """Boolean ``[rows, 1, 1, columns]`` of the texts' own columns: True up to the newest token."""
        lengths = self.at(self.lm.device).lengths
        column = torch.arange(min(self.fixed_columns, self.columns), device=lengths.device)
        seen = column <= lengths[:, None]
        if window is not None:
            seen &= lengths[:, None] - column < window
        return ridden(seen[:, None, None], self)

    @property
    def positions(self) -> Tensor:
        """``[1, columns]``: a text's first token is in its first column."""
        return torch.arange(self.fixed_columns, device=self.lm.device)[None]

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's attention with the newest tokens': ``[rows, kv_heads, 1, head_dim]``."""
        all_keys, all_values, n = self._layer(layer_idx, keys, values)
        newest = self.at(keys.device).newest(n)
        all_keys[newest] = keys[:, :, 0]
        all_values[newest] = values[:, :, 0]
        end = n + min(self.fixed_columns, self.columns)
        rows = [self._by_row(x)[: len(newest), :end].transpose(1, 2) for x in (all_keys, all_values)]
        self.handed = (rows[0], rows[1]), (all_keys, all_values), n, self.shared.get(layer_idx)
        return rows[0], rows[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the longest text, before the newest token."""
        return self.fixed_columns - 1

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Columns of the mask, and where they start."""
        return self.fixed_columns, 0
