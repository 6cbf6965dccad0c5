"""What bottleneck adapters of every kind share: two projections with an activation between them.

    A(x) = s (U phi(D x + b) + c)        D [w, d], U [d, w]

is added in places of chosen layers (`crosstune.methods.adapters.placement`). Parameters are fp32 over a model
of any dtype, and computed in the model's; on a CPU narrow ones in fp32.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from typing_extensions import TypeVar

from crosstune.errors import UserError
from crosstune.methods.adapters.placement import Placement, insert, needs
from crosstune.methods.base import Method
from crosstune.methods.config import Placed
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry, Side

NARROW = 128
"""A width below which a CPU's bf16 products are slower than fp32 ones; at 320 they cost half as much."""

Activation = Literal["relu", "gelu", "silu", "tanh"]
Width = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^d/[1-9][0-9]*$")]


class Published(NamedTuple):
    """What holds where nothing else is set."""

    places: tuple[str, ...]
    width: str
    activation: Activation


class InsertedConfig(Placed):
    """Settings of methods that stand where bottleneck adapters do.

    Attributes:
        placement: Where in a layer.
        sublayers: Behind the MLP, or behind attention too; None for what was published.
        width: Inner dimension w, or a share of the hidden size such as "d/16", rounded down; None for what
            was published.
        activation: phi; None for what was published.
        dropout: Of what is added, while training.
    """

    # An adapter behind the attention between them is an option of the `adapters` library, off by default.
    usual: ClassVar[tuple[Side, ...]] = ("encoder", "decoder")

    placement: Placement = "inside"
    sublayers: Literal["mlp", "both"] | None = None
    width: Width | None = None
    activation: Activation | None = None
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.placement in ("pfeiffer", "parallel") and self.sublayers == "both":
            raise ValueError(f"placement {self.placement} is one adapter a layer; leave sublayers out")
        return self

    @property
    def published(self) -> Published:
        """What the placement is published with."""
        raise NotImplementedError

    @property
    def places(self) -> tuple[str, ...]:
        """The sub-layers that get an adapter; one in the placements that see the whole layer."""
        if self.placement in ("pfeiffer", "parallel") or self.sublayers == "mlp":
            return ("mlp",)
        return self.published.places if self.sublayers is None else ("attention", "mlp")

    def adapters_on(self, method: str, geometry: Geometry) -> int:
        """How many adapters a model gets.

        Raises:
            UserError: It has no such place, as far as is known.
        """
        geometry.need(method, *needs(self.placement, self.places))
        return sum(len(self.places_in(i, geometry)) for i in self.chosen(geometry.layers))

    def places_in(self, layer: int, geometry: Geometry) -> tuple[str, ...]:
        """The sub-layers of a layer that get an adapter.

        Raises:
            UserError: ``where`` asks for what the placement does not have.
        """
        sides = self.sides(geometry)
        places = self.places if geometry.side(layer) in sides else ()
        if not geometry.encoder_layers or layer < geometry.encoder_layers or "cross" not in sides:
            return places
        if self.placement in ("pfeiffer", "parallel"):
            raise UserError(f"placement {self.placement} is one adapter a layer; take cross out of where")
        return (*places, "cross")

    def width_in(self, hidden: int) -> int:
        """The inner dimension on a model of a hidden size."""
        width = self.width or self.published.width
        return width if isinstance(width, int) else max(1, hidden // int(width.removeprefix("d/")))


Settings = TypeVar("Settings", bound=InsertedConfig)


class Inserted(Method[Settings]):
    """A method that adds adapters."""

    size = "width"
    tensors: "dict[str, nn.Parameter]"  # the parameters, by name
    active: bool  # whether the adapters do anything now

    @abstractmethod
    def projections(self, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """D ``[w, d]``, b, U ``[d, w]`` and c of the adapter of a name, in fp32."""

    def scaled(self, name: str, added: Tensor) -> Tensor:
        """``s added``, s that of the adapter of a name."""
        return added

    def seen(self, name: str, added: Tensor, to: Tensor) -> None:
        """Called with what the adapter of a name adds, and what it is added to."""

    def insert(
        self, lm: LanguageModel, part: Part, make: Callable[[str], Iterable[tuple[str, Tensor]]]
    ) -> None:
        """Make the adapters and put them into their places.

        Args:
            lm: The model.
            part: What the method leaves on it.
            make: Gives the tensors of the adapter of a name, each with the end of its own name.
        """
        config = self.config
        config.adapters_on(self.name, lm.geometry)
        self.tensors, self.active = {}, True
        part.switch = self._switch
        for i in config.chosen(lm.geometry.layers):
            names = {place: f"layers.{i}.{place}" for place in config.places_in(i, lm.geometry)}
            for name in names.values():
                for end, tensor in make(name):
                    self.tensors[f"{name}.{end}"] = nn.Parameter(tensor.to(lm.layer_device(i)))
            adapters = {place: partial(self._add, lm, name) for place, name in names.items()}
            insert(lm.parts.layers[i], config.placement, adapters, part)

    def _switch(self, on: bool) -> None:
        self.active = on

    def dtype(self, lm: LanguageModel) -> "torch.dtype":
        """What adapters are computed in."""
        narrow = self.config.width_in(lm.geometry.hidden) < NARROW
        return torch.float32 if narrow and lm.device.type == "cpu" else lm.dtype

    def _add(self, lm: LanguageModel, name: str, x: Tensor, to: Tensor) -> Tensor:
        """``to + A(x)``."""
        if not self.active:
            return to
        down, b, up, c = self.projections(name)
        dtype = self.dtype(lm)
        down, b, up, c = (tensor.to(dtype) for tensor in (down, b, up, c))
        config, compute = self.config, nn.functional
        inner = compute.linear(x.to(dtype), down, b)
        inner = getattr(compute, config.activation or config.published.activation)(inner)
        added = self.scaled(name, compute.linear(inner, up, c))
        self.seen(name, added, to)
        if config.dropout:
            added = compute.dropout(added, config.dropout, lm.model.training)
        return (to.to(dtype) + added).to(to.dtype)

    def parameters(self) -> "dict[str, nn.Parameter]":
        """By layer, place and tensor."""
        return self.tensors
