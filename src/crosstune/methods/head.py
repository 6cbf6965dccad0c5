"""A head that is trained with a method: scores of states, in place of the model's own words.

    linear:  W x + c                        one score a class, of each state (tags)
    dense:   W tanh(V x + b) + c            of one state a text, as transformers' RoBERTa has it (classes)

Its parameters are fp32 over a model of any dtype, W and V drawn from N(0, 0.02²), b and c zero; they are
trained at the method's learning rate and saved with it, as ``head.<name>``. They are counted apart from the
method's: k d + k, and d² + d more where it is dense.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crosstune.methods.base import Method
from crosstune.methods.composite import Composite
from crosstune.methods.config import MethodConfig
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

PREFIX = "head."
SPREAD = 0.02


@dataclass(frozen=True)
class HeadShape:
    """Which head."""

    classes: int  # scores of each state
    dense: bool = False  # whether there is a layer in between
    two_way: tuple[int, ...] = ()  # layers of a causal model in which tokens see those behind them

    def count(self, hidden: int) -> int:
        """Its parameters on states of a width."""
        return self.classes * (hidden + 1) + self.dense * hidden * (hidden + 1)

    def make(self, lm: LanguageModel, seed: int) -> "nn.Module":
        """The head with its first weights."""
        hidden, draw = lm.geometry.hidden, torch.Generator().manual_seed(seed)

        def linear(rows: int) -> "nn.Module":
            module = nn.Linear(hidden, rows)
            with torch.no_grad():
                module.weight.normal_(std=SPREAD, generator=draw)
                module.bias.zero_()
            return module

        inner = [("dense", linear(hidden)), ("tanh", nn.Tanh())] if self.dense else []
        head = nn.Sequential()
        for name, module in [*inner, ("out", linear(self.classes))]:
            head.add_module(name, module)
        return head.to(lm.device)


class Probe(Method[MethodConfig]):
    """A head on the frozen model."""

    name = "probe"
    summary = "a trained head on the frozen model, and nothing else"
    learning_rate = 1e-3
    learning_rate_from = "the middle of the usual range for heads, 1e-4 to 1e-2"
    needs_head = True

    @classmethod
    def count(cls, config: MethodConfig, geometry: Geometry) -> int:
        """Zero: a head is counted apart."""
        return 0

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Nothing to put on the model."""

    def parameters(self) -> "dict[str, nn.Parameter]":
        """None."""
        return {}


class WithHead(Composite[MethodConfig]):
    """A method, and a head that is trained with it.

    Args:
        method: Not attached yet.
        shape: Of the head.
    """

    learning_rate = None
    name = summary = learning_rate_from = "head"

    def __init__(self, method: Method[Any], shape: HeadShape) -> None:
        super().__init__(method.config)
        self.method, self.shape, self.shots = method, shape, method.shots
        self.inner = (method,)

    @property
    def default_rate(self) -> float | None:
        """The method's."""
        return self.method.default_rate

    @property
    def trains(self) -> bool:
        """The method's."""
        return self.method.trains

    @classmethod
    def count(cls, config: MethodConfig, geometry: Geometry) -> int:
        """Not of a method that has its own class."""
        raise NotImplementedError

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Nothing: the method places itself."""

    def attach(self, lm: LanguageModel, seed: int = 0, languages: Collection[str] | None = None) -> None:
        """Attach the method, and put the head on the model."""
        self.method.attach(lm, seed, languages)
        self.lm, self.part = lm, self.method.part
        if self.part is not None:
            self.part.two_way = frozenset(self.shape.two_way)
        self.head = lm.head = self.shape.make(lm, seed)

    def detach(self) -> None:
        """Take both off."""
        self.attached().head = None
        self.method.detach()
        self.lm = self.part = None

    def parameters(self) -> "dict[str, nn.Parameter]":
        """The method's, and ``head.<name>``."""
        head = {f"{PREFIX}{name}": p for name, p in self.head.named_parameters()}
        return self.method.parameters() | head

    def rate_factors(self) -> dict[str, float]:
        """The method's."""
        return self.method.rate_factors()

    def training_state(self) -> dict[str, Tensor]:
        """The method's."""
        return self.method.training_state()

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """The method's."""
        self.method.load_training_state(state)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The method's."""
        with self.method.evaluating():
            yield
        self.merge = self.method.merge

    def state(self) -> dict[str, Tensor]:
        """The method's, and the head's."""
        head = {f"{PREFIX}{name}": p.detach() for name, p in self.head.named_parameters()}
        return self.method.state() | head

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Both of their own."""
        heads = {name: x for name, x in state.items() if name.startswith(PREFIX)}
        self.method.load_state({name: x for name, x in state.items() if name not in heads})
        self.head.load_state_dict({name.removeprefix(PREFIX): x for name, x in heads.items()})


def without_head(method: Method) -> Method:
    """The method itself."""
    return method.method if isinstance(method, WithHead) else method


def shape_in(state: Mapping[str, Tensor]) -> HeadShape | None:
    """The head that saved weights are of; None for none."""
    out = state.get(f"{PREFIX}out.weight")
    return None if out is None else HeadShape(len(out), f"{PREFIX}dense.weight" in state)
