"""MAD-X: a task adapter on top of language adapters (Pfeiffer et al. 2020, arXiv 2005.00052).

A stage trains a bottleneck adapter L of each language by next-token loss on its text (the paper: masked
tokens of Wikipedia). The task adapter T is trained on the source language's task over the source's L, which
is frozen; at evaluation each language gets its own L. Where the adapters stand, on the output y of a
sub-layer (`crosstune.methods.adapters.placement`), ``residual`` says what T adds to:

    library:  z = y + L(y),  z + T(z)      the `adapters` library's stack, and what it has published
    paper:    z = y + L(y),  y + T(z)      the paper's equations: only T sees what L changed

With ``invertible`` each L also has an adapter at the embeddings, and its inverse in front of the output layer
(`crosstune.methods.adapters.invertible`). Trained parameters are those of `bottleneck`, of T; each stage has
its own.
"""

from collections.abc import Collection
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar, Literal

from crosstune.methods.adapters.bottleneck import Bottleneck, BottleneckConfig
from crosstune.methods.adapters.inserted import Width
from crosstune.methods.adapters.orthogonal import Ortho
from crosstune.methods.adapters.placement import insert
from crosstune.methods.config import MethodConfig
from crosstune.methods.deferred import LanguageModel, Tensor, torch
from crosstune.methods.staged.stage import Stage, Staged, StagedConfig
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry


class MadXConfig(StagedConfig, BottleneckConfig):
    """Settings of `mad-x`: of the task adapter those of `bottleneck`.

    Attributes:
        placement: Of both adapters.
        language_width: Inner dimension of language adapters.
        invertible: Language adapters with invertible ones at the embeddings.
        language_ortho: As ``ortho``, of language adapters.
        residual: What the task adapter adds to.
    """

    placement: Literal["inside", "houlsby", "pfeiffer"] = "inside"
    language_width: Width = "d/2"
    invertible: bool = True
    language_ortho: Ortho | None = None
    residual: Literal["library", "paper"] = "library"

    @property
    def language_adapter(self) -> BottleneckConfig:
        """What a stage trains, in all layers."""
        return BottleneckConfig(
            placement=self.placement,
            sublayers=self.sublayers,
            width=self.language_width,
            activation=self.activation,
            invertible=self.invertible,
            ortho=self.language_ortho,
        )


class MadX(Staged[MadXConfig], Bottleneck):
    """A task adapter over language adapters."""

    name = "mad-x"
    summary = "a task adapter over language adapters trained on unlabelled text (MAD-X, Pfeiffer et al. 2020)"
    learning_rate_from = "that of bottleneck"
    Config: ClassVar[type[MethodConfig]] = MadXConfig  # type: ignore[assignment]  # one of bottleneck's
    config: MadXConfig

    def __init__(self, config: MadXConfig | None = None) -> None:
        super().__init__(config)
        self.below = ExitStack()
        self.kept: dict[str, Tensor] = {}

    @classmethod
    def count(cls, config: BottleneckConfig, geometry: Geometry) -> int:
        """Of the task adapter."""
        return super().count(config.model_copy(update={"invertible": False}), geometry)

    @property
    def has_ends(self) -> bool:
        """Its language adapters have them."""
        return False

    @property
    def stage(self) -> Stage:
        """A bottleneck adapter of each language, at the paper's rate: it is wider than the task's."""
        return Stage("language adapter", "bottleneck", self.config.language_adapter, learning_rate=1e-4)

    def attach(self, lm: LanguageModel, seed: int = 0, languages: Collection[str] | None = None) -> None:
        """Put the language adapters on a model, and the task adapter on top."""
        with ExitStack() as below:
            if self.config.residual == "paper":
                self._keep_outputs(lm, below)
            for text, codes in self.users.items():
                adapter = LanguageAdapter(self.config.language_adapter)
                adapter.attach(lm, languages=codes)
                below.callback(adapter.detach)
                adapter.freeze(self.weights.get(text))
            super().attach(lm, seed, languages)
            self.below = below.pop_all()

    def detach(self) -> None:
        """Take all of them off again."""
        super().detach()
        self.below.close()

    def _keep_outputs(self, lm: LanguageModel, below: ExitStack) -> None:
        """Keep what the sub-layers give before any language adapter changes it."""
        part = Part(f"{self.name}, residual")
        below.callback(part.undo.close)
        for i in self.config.chosen(lm.geometry.layers):
            names = {place: f"layers.{i}.{place}" for place in self.config.places}
            keep = {place: partial(self._keep, name) for place, name in names.items()}
            insert(lm.parts.layers[i], self.config.placement, keep, part)

    def _keep(self, name: str, x: Tensor, to: Tensor) -> Tensor:
        self.kept[name] = to
        return to

    def _add(self, lm: LanguageModel, name: str, x: Tensor, to: Tensor) -> Tensor:
        return super()._add(lm, name, x, self.kept.pop(name, to))


class LanguageAdapter(Bottleneck):
    """A trained adapter that stays as it is, and takes no room on the device while it is switched off."""

    tensors: Any

    def freeze(self, weights: Any) -> None:
        """Take trained weights, in the dtype that they are computed in; None for those of the start."""
        if weights is not None:
            self.load_state(weights)
        lm = self.attached()
        self.stored: dict[str, Any] = {
            name: tensor.detach().to(
                "cpu", torch.float32 if name.startswith("embeddings.") else self.dtype(lm)
            )
            for name, tensor in self.tensors.items()
        }
        self._switch(False)

    def seen(self, name: str, added: Tensor, to: Tensor) -> None:
        """Its term was minimised in its stage."""

    def _switch(self, on: bool) -> None:
        super()._switch(on)
        if not on:
            self.tensors = dict(self.stored)

    def projections(self, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """On the device of their layer, from the first use on."""
        device = self.attached().layer_device(int(name.split(".")[1]))
        for key in self.tensors:
            if key.startswith(f"{name}."):
                self.tensors[key] = self.tensors[key].to(device)
        return super().projections(name)
