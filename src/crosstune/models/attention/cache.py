"""The cache of texts that are being written: memory set aside once, rows that end make room for others.

A row holds one text from its first column on, whatever the lengths of its neighbours; a learned prefix
stands in front of it. So decoding reads keys and values in place and copies nothing but the newest token's.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache

from crosstune.models.attention.layout import ridden
from crosstune.models.protocol import Model


@dataclass
class OwnCache:
    """What a model that keeps more than keys and values keeps of one text, of transformers' own making.

    Attributes:
        cache: What it keeps.
        ids: ``[1, tokens]`` of the text.
    """

    cache: Any = None
    ids: Tensor | None = None


@dataclass
class OwnCaches:
    """Texts that are being written, each with what the model itself keeps of it: the slow way."""

    reader: ClassVar[type[OwnCache]] = OwnCache

    caches: list[OwnCache] = field(default_factory=list)  # of each text
    lengths: list[int] = field(default_factory=list)  # tokens that each of them holds, a prefix left out

    def add(self, read: Any, texts: Sequence[tuple[int, list[int]]]) -> None:
        """As `DecodingCache.add`, of one text."""
        self.caches.append(read)
        self.lengths += [len(path) for _, path in texts]

    def drop(self, ended: Sequence[int]) -> list[int]:
        """As `DecodingCache.drop`."""
        order = [row for row in range(len(self.caches)) if row not in set(ended)]
        self.caches = [self.caches[row] for row in order]
        self.lengths = [self.lengths[row] for row in order]
        return order

    def take(self, rows: Sequence[int]) -> None:
        """As `DecodingCache.take`."""
        first = {row: at for at, row in reversed([*enumerate(rows)])}
        self.caches = [
            self.caches[row] if first[row] == at else deepcopy(self.caches[row])
            for at, row in enumerate(rows)
        ]
        self.lengths = [self.lengths[row] for row in rows]

    def end(self) -> None:
        """As `DecodingCache.end`."""
        self.lengths = [length + 1 for length in self.lengths]


def row_bytes(lm: Model, columns: int) -> int:
    """Bytes of one text's keys and values in `DecodingCache`, a prefix's among them."""
    heads, keys, values = lm.geometry.in_cache
    columns = sum(columns + _width(prompt) for prompt in _fronts(lm))
    return columns * heads * (keys + values) * lm.dtype.itemsize


def _fronts(lm: Model) -> "list[tuple[Tensor, Tensor] | None]":
    """What a cache holds in front of every text, layer by layer: prompts, unless it holds no keys."""
    layers = range(lm.geometry.layers)
    return [None if lm.geometry.cached else lm.adaptation.prompts(i).joint() for i in layers]


def _width(prompt: tuple[Tensor, Tensor] | None) -> int:
    return 0 if prompt is None else prompt[0].shape[1]


@dataclass
class DecodingCache:
    """Keys and values of so many rows of texts being written, and the attention of their next tokens.

    ``columns`` are the tokens of the longest, soft prompt included, on a model with whatever a method left on
    it.
    """

    # What transformers asks of every cache.
    is_sliding: ClassVar[list[bool]] = []
    is_compileable: ClassVar[bool] = False
    two_way: ClassVar[bool] = False
    # What a forward that only reads keeps its keys and values in.
    reader: ClassVar[type[DynamicCache]] = DynamicCache

    lm: Model
    rows: int
    columns: int
    live: int = 0  # how many rows are in use: the first so many
    # ``[live]`` tokens that each of them holds, a prefix left out.
    lengths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._prompts = _fronts(self.lm)
        self._at: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self.prompts_inside = self.lm.geometry.cached is None

    def _layer(self, i: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, int]:
        """A layer's memory, ``[rows, kv_heads, columns, size]``, and columns of the prompt in front.

        It is set aside when some keys and values tell their sizes, which layers may not have in common.
        """
        n = _width(prompt := self._prompts[i])
        if i not in self.keys:
            for store, learned, some in ((self.keys, 0, keys), (self.values, 1, values)):
                # Zeros: what no text has written is masked, and must be finite for that.
                shape = (self.rows, some.shape[-3], n + self.columns, some.shape[-1])
                store[i] = torch.zeros(shape, dtype=self.lm.dtype, device=some.device)
                if prompt is not None:
                    store[i][:, :, :n] = prompt[learned]
        return self.keys[i], self.values[i], n

    # --- rows -----------------------------------------------------------------------------------

    def add(self, read: Any, texts: Sequence[tuple[int, list[int]]]) -> None:
        """Put texts that a `reader` read into free rows: of each its line, and its tokens' places there."""
        layers: list[Any] = read.layers
        for line, path in texts:
            at = torch.tensor(path, device=self.lm.device)
            for i, layer in enumerate(layers):
                keys, values, n = self._layer(i, layer.keys, layer.values)
                place = at.to(keys.device)
                keys[self.live, :, n : n + len(path)] = layer.keys[line][:, place]
                values[self.live, :, n : n + len(path)] = layer.values[line][:, place]
            self.lengths.append(len(path))
            self.live += 1

    def drop(self, ended: Sequence[int]) -> list[int]:
        """Free some rows; the last ones move into the gaps. Returns each row's previous number."""
        order = list(range(self.live))
        for row in sorted(ended, reverse=True):
            last = len(order) - 1
            if row != last:
                for store in (self.keys, self.values):
                    for i, block in store.items():
                        n = _width(self._prompts[i])
                        end = n + self.lengths[last]
                        block[row, :, n:end] = block[last, :, n:end]
                order[row], self.lengths[row] = order[last], self.lengths[last]
            order.pop()
            self.lengths.pop()
        self.live = len(order)
        return order

    def take(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; one that is named several times is copied."""
        longest = max(self.lengths)
        self.lengths = [self.lengths[row] for row in rows]
        self.live = len(rows)
        if list(rows) != list(range(len(rows))):
            for store in (self.keys, self.values):
                for i, block in store.items():
                    n = _width(self._prompts[i])
                    at = torch.tensor(rows, device=block.device)
                    block[: len(rows), :, n : n + longest] = block[:, :, n : n + longest][at]

    def begin(self) -> Tensor:
        """Make ready to read one more token a row; its position in each text, ``[live]``."""
        lengths = torch.tensor(self.lengths, device=self.lm.device)
        self.fix(lengths, max(self.lengths) + 1)
        return lengths

    def fix(self, lengths: Tensor, columns: int) -> None:
        """Prepare reading one more token of the first rows, over so many columns.

        ``lengths`` ``[rows]``: tokens that each holds, fewer than ``columns``; 0 for rows not in use.
        """
        self._longest = columns
        self._at = {lengths.device: (torch.arange(len(lengths), device=lengths.device), lengths)}

    def end(self) -> None:
        """All layers have read it."""
        self.lengths = [length + 1 for length in self.lengths]

    # --- what the model asks for ----------------------------------------------------------------

    def mask(self, window: int | None) -> Tensor:
        """Boolean ``[live, 1, 1, columns]`` of the texts' own columns: True up to the newest token."""
        _, lengths = self._at[self.lm.device]
        column = torch.arange(self._longest, device=lengths.device)
        seen = column <= lengths[:, None]
        if window is not None:
            seen &= lengths[:, None] - column < window
        return ridden(seen[:, None, None], self)

    @property
    def positions(self) -> Tensor:
        """``[1, columns]``: a text's first token is in its first column."""
        return torch.arange(self._longest, device=self.lm.device)[None]

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's attention with the newest tokens': ``[live, kv_heads, 1, head_dim]``."""
        if keys.device not in self._at:
            self._at[keys.device] = tuple(x.to(keys.device) for x in self._at[self.lm.device])  # type: ignore[assignment]
        rows, lengths = self._at[keys.device]
        all_keys, all_values, n = self._layer(layer_idx, keys, values)
        all_keys[rows, :, n + lengths] = keys[:, :, 0]
        all_values[rows, :, n + lengths] = values[:, :, 0]
        end = n + self._longest
        return all_keys[: len(rows), :, :end], all_values[: len(rows), :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the longest text, before the newest token."""
        return self._longest - 1

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Columns of the mask, and where they start."""
        return self._longest, 0
