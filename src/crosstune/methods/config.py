"""Settings that methods share: which layers, how many prompt tokens."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from crosstune.errors import UserError

# Real text to start prompts from: on the manifold of the model's inputs from the first step.
INIT_TEXT = (
    "Read the text carefully, think about what is asked, and answer the question. The answer is short, "
    "exact and in the form that was asked for. The same question can be put in any language, and its "
    "answer means the same in all of them."
)


class MethodConfig(BaseModel):
    """Settings of a method, as written in a study file. Unknown keys are errors.

    Attributes:
        newer: Settings that the ids of runs are older than: left out of what is written at their defaults.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    newer: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_newer_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = dump(self)
        fields = type(self).model_fields
        for name in {name for kind in type(self).__mro__ for name in vars(kind).get("newer", ())}:
            if getattr(self, name) == fields[name].get_default(call_default_factory=True):
                content.pop(name, None)
        return content

    @classmethod
    def open_ended(cls) -> bool:
        """Whether it takes keys that it does not name, and a library checks them."""
        return cls.model_config.get("extra") == "allow"


class Layered(MethodConfig):
    """Settings of a method that can live in some layers only.

    Attributes:
        layers: None for all, k for the last k, or a list of layer numbers, from 0 for the lowest.
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


class Prompted(MethodConfig):
    """Settings of a method that learns prompt tokens.

    Attributes:
        length: How many.
        init_text: Text that ``init: text`` starts from, repeated when it is shorter than ``length``.
    """

    length: int = Field(default=10, ge=1, le=10_000)
    init_text: str = Field(default=INIT_TEXT, min_length=1)
