"""What methods share that plant keys and values in the attention of chosen layers."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from crosstune.methods.base import Method, Settings
from crosstune.methods.deferred import LanguageModel, Tensor, torch


class Planted(Method[Settings]):
    """A prompt in the attention of each chosen layer, and of each chosen part of an encoder-decoder."""

    layers: list[int]  # numbers of the attention modules, ascending (`crosstune.methods.config.Placed`)
    _projected: dict[int, tuple[Tensor, Tensor]] | None = None

    @abstractmethod
    def project(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer's prompt as it stands now, ``[kv_heads, n, head_dim]`` each."""

    def devices(self, lm: LanguageModel) -> "dict[int, torch.device]":
        """Where the attention of each of `layers` computes."""
        return {i: next(lm.attentions[i].parameters()).device for i in self.layers}

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """What the layer's attention calls."""
        return self.project(layer) if self._projected is None else self._projected[layer]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Project once, not once a batch, unless other parts change the projections of some languages."""
        if all(part.languages is None for part in self.attached().adaptation.parts):
            with torch.no_grad():
                self._projected = {layer: self.project(layer) for layer in self.layers}
        try:
            yield
        finally:
            self._projected = None
