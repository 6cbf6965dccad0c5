"""Settings that methods share: which layers, how many prompt tokens."""

from typing import ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from crosstune.config.newer import WithNewer
from crosstune.errors import UserError
from crosstune.models.geometry import Geometry, Side

# Real text to start prompts from: on the manifold of the model's inputs from the first step.
INIT_TEXT = (
    "Read the text carefully, think about what is asked, and answer the question. The answer is short, "
    "exact and in the form that was asked for. The same question can be put in any language, and its "
    "answer means the same in all of them."
)


class MethodConfig(WithNewer):
    """Settings of a method, as written in a study file. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def open_ended(cls) -> bool:
        """Whether it takes keys that it does not name, and a library checks them."""
        return cls.model_config.get("extra") == "allow"


class Layered(MethodConfig):
    """Settings of a method that can live in some layers only.

    Attributes:
        layers: None for all, k for the last k, or a list of layer numbers, from 0 for the lowest. An
            encoder-decoder's are counted through, its encoder's first.
    """

    layers: int | list[int] | None = None

    def chosen(self, total: int) -> list[int]:
        """Layer numbers in a model of ``total`` layers, ascending.

        Raises:
            UserError: More layers than the model has, or a number outside it.
        """
        if self.layers is None:
            return list(range(total))
        if isinstance(self.layers, int):
            if not 1 <= self.layers <= total:
                raise UserError(
                    f"layers: {self.layers} asked for, but the model has {total}; give 1 to {total}"
                )
            return list(range(total - self.layers, total))
        wrong = [i for i in self.layers if not 0 <= i < total]
        if wrong or not self.layers:
            raise UserError(f"layers: {wrong or 'an empty list'}; the model's layers are 0 to {total - 1}")
        if again := {i for i in self.layers if self.layers.count(i) > 1}:
            raise UserError(f"layers: {min(again)} is listed twice")
        return sorted(self.layers)


class Sided(MethodConfig):
    """Settings of a method that can live in some parts of an encoder-decoder only.

    Attributes:
        where: "encoder", "decoder" and "cross" (the decoder's attention to what the encoder read); None for
            `usual`. For encoder-decoders alone.
    """

    usual: ClassVar[tuple[Side, ...]] = ("encoder", "decoder", "cross")
    possible: ClassVar[tuple[Side, ...]] = ("encoder", "decoder", "cross")
    newer: ClassVar[tuple[str, ...]] = ("where",)

    where: tuple[Side, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _some_of(self) -> Self:
        if wrong := [side for side in self.where or () if side not in self.possible]:
            raise ValueError(
                f"where: {wrong[0]} is no place for this method; choose {', '.join(self.possible)}"
            )
        return self

    def sides(self, geometry: Geometry) -> tuple[Side, ...]:
        """The parts of a model; of one that is no encoder-decoder, all.

        Raises:
            UserError: ``where`` is set, and it is none.
        """
        if not geometry.encoder_layers:
            if self.where is not None:
                raise UserError("where: this model is no encoder-decoder; take it out")
            return ("decoder",)
        return self.usual if self.where is None else self.where


class Placed(Sided, Layered):
    """Settings of a method that can live in some layers and some parts only."""

    def attention_places(self, geometry: Geometry) -> list[int]:
        """Numbers of the attention modules in the chosen layers and parts, ascending.

        A decoder's attention to what an encoder read is counted behind the self-attention of all layers.

        Raises:
            UserError: No chosen layer is in these parts.
        """
        layers, sides = self.chosen(geometry.layers), self.sides(geometry)
        places = [i for i in layers if geometry.side(i) in sides]
        if geometry.encoder_layers and "cross" in sides:
            behind = geometry.layers - geometry.encoder_layers
            places += [i + behind for i in layers if i >= geometry.encoder_layers]
        if not places:
            raise UserError(f"layers: {self.layers} are not in where: {', '.join(sides)}")
        return places


class Prompted(MethodConfig):
    """Settings of a method that learns prompt tokens.

    Attributes:
        length: How many.
        init_text: Text that ``init: text`` starts from, repeated when it is shorter than ``length``.
    """

    length: int = Field(default=10, ge=1, le=10_000)
    init_text: str = Field(default=INIT_TEXT, min_length=1)
