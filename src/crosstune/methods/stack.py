"""Several methods on one model, trained together: ``{stack: [lora, {name: prefix, length: 5}]}``.

Each is attached on top of those before it, and what they compute together is that of
`crosstune.models.adaptation`. One optimiser steps the parameters of all. The learning rate is the first
method's; the others' rates keep the ratio to it that their own defaults (or their ``learning_rate`` in the
stack) have. Trained parameters: the sum.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializeAsAny,
    field_validator,
    model_serializer,
    model_validator,
)

from crosstune.config.mistakes import invalid, known_keys, named, read_settings
from crosstune.errors import UserError
from crosstune.methods.base import Merge, Method
from crosstune.methods.composite import Composite
from crosstune.methods.config import MethodConfig
from crosstune.methods.deferred import LanguageModel, Tensor, nn
from crosstune.methods.head import Probe
from crosstune.methods.staged.stage import Staged
from crosstune.models.adaptation import Part, conflict
from crosstune.models.geometry import Geometry

T = TypeVar("T")


class Stacked(BaseModel):
    """One method of a stack: its name and settings, as an entry of a study's methods.

    Attributes:
        name: Of the method.
        config: Its settings.
        learning_rate: In place of its default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    known: ClassVar[dict[str, type[Method[Any]]]] = {}
    """All methods; set where they are listed."""

    name: str
    config: SerializeAsAny[MethodConfig]
    learning_rate: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, Stacked):
            return value
        name, rest = named(value, "method", cls.known)
        method = cls.known[name]
        if method.learning_rate is None or issubclass(method, Stack | Staged | Probe):
            raise invalid((), f"stack: {name} cannot be in one; give methods that are trained in one stage")
        rate = {key: rest.pop(key) for key in ("learning_rate",) if key in rest}
        config = cls.known[name].Config
        if not config.open_ended():
            known_keys(rest, config.model_fields, f"method {name} of a stack", also=("name", "learning_rate"))
        return {"name": name, "config": read_settings(config, rest, f"method {name}"), **rate}

    @field_validator("config", mode="plain")
    @classmethod
    def _kept(cls, config: MethodConfig) -> MethodConfig:
        return config

    @model_serializer(mode="plain")
    def _as_written(self, info: SerializationInfo) -> dict[str, Any]:
        settings = self.config.model_dump(mode=info.mode, exclude_unset=info.exclude_unset)
        rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        return {"name": self.name, **settings, **rate}

    def make(self) -> Method:
        """The method, not attached to anything yet."""
        return self.known[self.name](self.config)

    @property
    def rate(self) -> float:
        """Its learning rate in the stack."""
        rate = self.learning_rate or self.make().default_rate
        assert rate is not None, "all methods of a stack are trained"
        return rate


class StackConfig(MethodConfig):
    """Settings of `stack`.

    Attributes:
        stack: The methods, the first on the bare model.
    """

    stack: tuple[Stacked, ...] = Field(default=("lora", "prefix"), min_length=2, validate_default=True)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        methods = [part.make() for part in self.stack]
        for below, above in combinations(methods, 2):
            if problem := conflict(below, above):
                raise ValueError(problem)
        return self


class Stack(Composite[StackConfig]):
    """Methods that are attached one on top of the other.

    Attributes:
        methods: By the start of their parameters' names, ``0.lora``, in order.
    """

    name = "stack"
    summary = "several methods on one model, trained together: {stack: [lora, prefix]}"
    learning_rate = 1e-3
    learning_rate_from = "that of the stack's first method; the others' keep their ratio to it"
    Config = StackConfig

    def __init__(self, config: StackConfig | None = None) -> None:
        super().__init__(config)
        self.methods = {f"{i}.{part.name}": part.make() for i, part in enumerate(self.config.stack)}
        self.inner = (*self.methods.values(),)

    @property
    def default_rate(self) -> float:
        """The first method's."""
        return self.config.stack[0].rate

    @classmethod
    def count(cls, config: StackConfig, geometry: Geometry) -> int:
        """The sum."""
        return sum(Stacked.known[part.name].count(part.config, geometry) for part in config.stack)

    @classmethod
    def open_size(cls, config: StackConfig) -> str | None:
        """Those of all methods of the stack."""
        free = (Stacked.known[part.name].open_size(part.config) for part in config.stack)
        return "stack" if any(free) else None

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Attach the methods, each with a seed of its own, the first with that of the stack."""
        for i, method in enumerate(self.methods.values()):
            method.attach(lm, seed + 1000 * i, part.languages)
            part.undo.callback(method.detach)

    def parameters(self) -> "dict[str, nn.Parameter]":
        """Of all, each name behind its method's place and name: ``1.prefix.layers.0``."""
        return _joined({at: method.parameters() for at, method in self.methods.items()})

    def rate_factors(self) -> dict[str, float]:
        """A method's rate by that of the first."""
        rates = {f"{i}.{part.name}": part.rate for i, part in enumerate(self.config.stack)}
        return {
            f"{at}.{name}": rates[at] / self.default_rate
            for at, method in self.methods.items()
            for name in method.parameters()
        }

    def training_state(self) -> dict[str, Tensor]:
        """Of all, named as the parameters."""
        return _joined({at: method.training_state() for at, method in self.methods.items()})

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Of each."""
        for at, method in self.methods.items():
            method.load_training_state(_of(at, state))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Each in its cheapest form, those merged into the weights that can be."""
        with ExitStack() as inside:
            for method in self.methods.values():
                inside.enter_context(method.evaluating())
            merges = [method.merge for method in self.methods.values() if method.merge is not None]
            self.merge = Merge.of_all(merges) if merges else None
            yield

    def state(self) -> dict[str, Tensor]:
        """Of all, named as the parameters."""
        return _joined({at: method.state() for at, method in self.methods.items()})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put each method's tensors into it; where one does not fit, all stay as they were.

        Raises:
            UserError: Names or shapes differ.
        """
        starts = tuple(f"{at}." for at in self.methods)
        for name in state:
            if not name.startswith(starts):
                raise UserError(f"weights do not fit stack: {name} is on one side only")
        before = {name: tensor.clone() for name, tensor in self.state().items()}
        loaded: list[str] = []
        try:
            for at, method in self.methods.items():
                method.load_state(_of(at, state))
                loaded.append(at)
        except UserError as error:
            for done in loaded:
                self.methods[done].load_state(_of(done, before))
            start = f"weights do not fit {method.name}: "
            raise UserError(f"weights do not fit stack: {at}.{str(error).removeprefix(start)}") from error


def _joined(tensors: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    return {f"{at}.{name}": x for at, named_tensors in tensors.items() for name, x in named_tensors.items()}


def _of(at: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{at}."): x for name, x in state.items() if name.startswith(f"{at}.")}
