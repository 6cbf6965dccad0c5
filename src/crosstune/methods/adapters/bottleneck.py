"""Bottleneck adapters: ``A(x) = s (U phi(D x + b) + c)``, D ``[w, d]`` and U ``[d, w]``, behind sub-layers.

Houlsby et al. 2019 (arXiv 1902.00751), Pfeiffer et al. 2020 (2005.00247), He et al. 2021 (2110.04366), each
where the `adapters` library has it, and ``inside``, which suits decoders and is the default: see
`crosstune.methods.adapters.placement`. U, b and c are zero at the start, so that the model is the base model
bit for bit, and D is drawn from U(-1/sqrt(d), 1/sqrt(d)), as He et al. do; with ``init: normal`` both are
drawn from N(0, 0.02²), as that library does in the other placements. Trained parameters:
layers * sub-layers * (2 d w + w + d), and one for each learned s; ``invertible`` has its own
(`crosstune.methods.adapters.invertible`).
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from crosstune.errors import UserError
from crosstune.methods.adapters import invertible, orthogonal
from crosstune.methods.adapters.inserted import Inserted, InsertedConfig, Published
from crosstune.methods.adapters.invertible import Invertible
from crosstune.methods.adapters.orthogonal import Ortho
from crosstune.methods.adapters.placement import Placement
from crosstune.methods.base import Pass
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

PUBLISHED: dict[Placement, Published] = {
    "inside": Published(("mlp",), "d/16", "relu"),
    "houlsby": Published(("attention", "mlp"), "d/16", "silu"),
    "pfeiffer": Published(("mlp",), "d/16", "relu"),
    "parallel": Published(("mlp",), "d/2", "relu"),
}
"""Those of the `adapters` library; ``inside`` has Pfeiffer's."""


class BottleneckConfig(InsertedConfig):
    """Settings of `bottleneck`.

    Attributes:
        scale: s, or "learned" from 1; None for 4 in ``parallel``, 1 elsewhere.
        init: "zero" for U = 0, or "normal".
        invertible: Also an invertible adapter at the embeddings, as language adapters of MAD-X have one.
        ortho: Weight of the orthogonality term (`crosstune.methods.adapters.orthogonal`), or "alternate" for
            steps of the loss and of that term in turn.
    """

    newer: ClassVar[tuple[str, ...]] = ("invertible", "ortho")
    scale: Annotated[float, Field(gt=0)] | Literal["learned"] | None = None
    init: Literal["zero", "normal"] = "zero"
    invertible: bool = False
    ortho: Ortho | None = None

    @property
    def published(self) -> Published:
        """By placement."""
        return PUBLISHED[self.placement]


class Bottleneck(Inserted[BottleneckConfig]):
    """Two projections with an activation between them, behind sub-layers."""

    name = "bottleneck"
    summary = "bottleneck adapters behind sub-layers, in four placements (Houlsby, Pfeiffer, He et al.)"
    learning_rate = 1e-3
    learning_rate_from = (
        "SIB-200 with Gemma 3 270M, 60 steps, loss: choices: English 64.7 to 83.8, at 3e-3 too"
    )
    Config = BottleneckConfig
    ends: Invertible | None = None
    pairs: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def count(cls, config: BottleneckConfig, geometry: Geometry) -> int:
        """Layers * sub-layers * (2 d w + w + d, and 1 for a learned scale)."""
        if config.ortho is not None and geometry.encoder_layers:
            raise UserError("ortho: for a model with one stack of layers; take it out for an encoder-decoder")
        d, w = geometry.hidden, config.width_in(geometry.hidden)
        adapters = config.adapters_on(cls.name, geometry)
        embeddings = invertible.count(geometry) if config.invertible else 0
        return adapters * (2 * d * w + w + d + (config.scale == "learned")) + embeddings

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """An adapter in each place."""
        self.count(self.config, lm.geometry)
        if self.config.ortho is not None and lm.geometry.apart:
            raise UserError(
                f"ortho: {lm.geometry.apart}, so its tokens cannot be told from padding; take ortho out"
            )
        d, draw = lm.geometry.hidden, torch.Generator().manual_seed(seed)
        w = self.config.width_in(d)

        def make(name: str) -> Iterator[tuple[str, Tensor]]:
            down, up = torch.empty(w, d), torch.zeros(d, w)
            if self.config.init == "normal":
                down.normal_(std=0.02, generator=draw)
                up.normal_(std=0.02, generator=draw)
            else:
                down.uniform_(-(d**-0.5), d**-0.5, generator=draw)
            yield from {"down.weight": down, "down.bias": torch.zeros(w)}.items()
            yield from {"up.weight": up, "up.bias": torch.zeros(d)}.items()
            if self.config.scale == "learned":
                yield "scale", torch.ones(1)

        self.insert(lm, part, make)
        self.ends, self.pairs = None, {}
        if self.has_ends:
            start = invertible.tensors(lm.geometry, draw)
            self.tensors |= {f"embeddings.{name}": nn.Parameter(t.to(lm.device)) for name, t in start}
            activation = self.config.activation or self.config.published.activation
            self.ends = Invertible(lm, part, lambda name: self.tensors[f"embeddings.{name}"], activation)

    @property
    def has_ends(self) -> bool:
        """Whether it has an invertible adapter."""
        return self.config.invertible

    @property
    def lowest_layer(self) -> int:
        """An invertible adapter changes what the first one reads."""
        return 0 if self.has_ends else super().lowest_layer

    def seen(self, name: str, added: Tensor, to: Tensor) -> None:
        """Keep them for the orthogonality term, while training."""
        if self.config.ortho is not None and torch.is_grad_enabled() and self.attached().model.training:
            self.pairs[name] = added, to

    def objective(self, loss: Tensor, of: Pass) -> Tensor:
        """With the orthogonality term, or in its turn that alone."""
        weight, pairs, self.pairs = self.config.ortho, self.pairs, {}
        if weight is None or (weight == "alternate" and of.step % 2):
            return loss
        front = self.attached().adaptation.front
        extra = of.share * orthogonal.term(pairs.values(), of.tokens, of.lines, of.width, front)
        return extra if weight == "alternate" else loss + weight * extra

    def after_backward(self) -> None:
        """Drop what layers that were computed again have left."""
        self.pairs = {}

    def _switch(self, on: bool) -> None:
        super()._switch(on)
        if self.ends is not None:
            self.ends.active = on

    def projections(self, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As they are trained."""
        t = self.tensors
        down, up = f"{name}.down", f"{name}.up"
        return t[f"{down}.weight"], t[f"{down}.bias"], t[f"{up}.weight"], t[f"{up}.bias"]

    def scaled(self, name: str, added: Tensor) -> Tensor:
        """Times a fixed scale, or the trained one."""
        scale = self.config.scale
        if scale == "learned":
            return added * self.tensors[f"{name}.scale"].to(added.dtype)
        scale = scale or (4.0 if self.config.placement == "parallel" else 1.0)
        return added if scale == 1.0 else added * scale
