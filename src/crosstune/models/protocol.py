"""What attention, the fast ways and the measuring of memory ask of a model, so that none imports it."""

# ruff: noqa: D102
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from crosstune.models.adaptation import Adaptation
from crosstune.models.geometry import Geometry


class Model(Protocol):
    """A `crosstune.models.language_model.LanguageModel`, as the rooms below it know it; see there."""

    model: Any
    geometry: Geometry
    adaptation: Adaptation
    steps: Any

    @property
    def decoder(self) -> Any: ...

    @property
    def layers(self) -> list[Any]: ...

    @property
    def embedding(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def quantized(self) -> bool: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def stop_ids(self) -> frozenset[int]: ...

    def layer_device(self, i: int) -> torch.device: ...

    def entry_states(self, layer: int, ids: Tensor, layout: Any = None) -> Tensor: ...

    def step(self, ids: Tensor, slots: Any) -> Tensor: ...

    def read_next(self, ids: Tensor, lengths: Tensor, slots: Any) -> Tensor: ...

    def best(self, rows: Tensor) -> Tensor: ...
