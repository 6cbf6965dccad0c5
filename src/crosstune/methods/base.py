"""What a method is: trained parameters that attach to a frozen model and come off without a trace."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, cast

from typing_extensions import TypeVar

from crosstune.errors import UserError
from crosstune.methods.config import Layered, MethodConfig
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part, Stacking
from crosstune.models.geometry import Geometry

Settings = TypeVar("Settings", bound=MethodConfig, default=Any)


@dataclass(frozen=True)
class Merge:
    """How an update of weights was evaluated; in run.json (`crosstune.store.record.MergeRecord`)."""

    tensors: int
    merged: int
    lost: float | None
    avoided: float | None

    @classmethod
    def of_all(cls, merges: "Sequence[Merge]") -> "Merge":
        """Of several methods on one model."""
        return cls(
            tensors=sum(merge.tensors for merge in merges),
            merged=sum(merge.merged for merge in merges),
            lost=max((merge.lost for merge in merges if merge.lost is not None), default=None),
            avoided=max((merge.avoided for merge in merges if merge.avoided is not None), default=None),
        )


@dataclass(frozen=True)
class Pass:
    """One of the passes of a training step."""

    step: int  # of the optimiser, from 1
    share: float  # of the step's text tokens, those in this pass
    tokens: Tensor  # ``[n]``: places of the texts' tokens, counted through lines and width
    lines: int
    width: int  # without a soft prompt in front


class Method(ABC, Generic[Settings]):
    """A way to adapt a frozen model. A subclass is one file and one line in `crosstune.methods.METHODS`.

    Attributes:
        name: As written in a study file.
        summary: One line for ``crosstune list methods``.
        learning_rate: Default; None where nothing is trained.
        learning_rate_from: Where the default comes from.
        size: The setting that trained parameters rise with, which a budget solves; None where there is none.
        stacking: Which other methods it can stand with on a model.
        trains_weights: Whether the model's own weights are what it trains.
        needs_head: Whether all it trains is a head (`crosstune.methods.head`).
        Config: Its settings, the same class as in ``Method[...]``.
        shots: English exemplars that stand in every prompt (only `few-shot` has some).
        turns: Whether these are turns of a chat.
        part: What it left on the model, while it is attached.
        merge: How its update was evaluated the last time; None for a method that has none.
        remark: What a person should know of it on this model; most often nothing.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float | None]
    learning_rate_from: ClassVar[str]
    size: ClassVar[str | None] = None
    stacking: ClassVar[Stacking] = "freely"
    trains_weights: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    shots: int = 0
    turns: bool = False
    remark: str = ""

    def __init__(self, config: Settings | None = None) -> None:
        self.config = cast(Settings, self.Config()) if config is None else config
        self.lm: LanguageModel | None = None
        self.part: Part | None = None
        self.merge: Merge | None = None

    @classmethod
    def lacking(cls, config: Settings) -> str | None:
        """What settings have to name and do not; None where nothing is missing."""
        return None

    @property
    def default_rate(self) -> float | None:
        """Learning rate when the study names none."""
        return self.learning_rate

    @classmethod
    def open_size(cls, config: Settings) -> str | None:
        """The size that a budget may decide; None where there is none, or the settings give it."""
        return None if cls.size in config.model_fields_set else cls.size

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.learning_rate is not None

    @property
    def untuned(self) -> bool:
        """Whether it is a baseline that tuned methods are held against: the model as it came."""
        return not self.trains

    def beyond(self, language: str) -> bool:
        """Whether it was trained before a study on data in other languages, or may have been."""
        return False

    @classmethod
    @abstractmethod
    def count(cls, config: Settings, geometry: Geometry) -> int:
        """Trained parameters in closed form, from the model's shape alone."""

    @abstractmethod
    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Make the parameters (from ``seed``) and put them into ``part``.

        Before anything in the model's modules is changed, a function that changes it back is entered in
        ``part.undo``: it is called when the method is detached, and when something here fails.
        """

    def attach(self, lm: LanguageModel, seed: int = 0, languages: Collection[str] | None = None) -> None:
        """Put the method on a model, on top of what is there; active for some languages, or None for all.

        Raises:
            UserError: The settings do not fit the model, or the method cannot stand with one that is there.
        """
        part = Part(self.name, None if languages is None else frozenset(languages), self.stacking)
        with lm.adaptation.attaching(part):
            self.place(lm, part, seed)
            lm.model.train(lm.model.training)  # new modules start in training mode, with their dropout
        self.lm, self.part = lm, part

    def detach(self) -> None:
        """Take everything off again: the model's logits are the same bits as before `attach`."""
        assert self.part is not None
        self.attached().adaptation.detach(self.part)
        self.lm = self.part = None

    @property
    def lowest_layer(self) -> int:
        """The lowest layer that this method is in: those below compute what the bare model computes.

        0 for a method that is not put into chosen layers. Where the text's first position is shifted, it is
        shifted in all layers.
        """
        if not isinstance(self.config, Layered):
            return 0
        return self.config.chosen(self.attached().geometry.layers)[0]

    @abstractmethod
    def parameters(self) -> "dict[str, nn.Parameter]":
        """The parameters the optimiser steps, by name: fp32, or without masters the model's own weights."""

    def rate_factors(self) -> dict[str, float]:
        """By parameter, what its learning rate is multiplied by; 1 for those that are not named."""
        return {}

    def trained_parameters(self) -> int:
        """How many there are: `count`, of what is attached."""
        return sum(parameter.numel() for parameter in self.parameters().values())

    def use_masters(self, wanted: bool) -> None:
        """Called before training: whether fp32 copies of the model's own weights are stepped instead."""

    def begin_training(self, steps: int) -> list[int]:
        """Called before the first step, and again when training resumes.

        Returns:
            The steps in phases, each with a schedule of rates of its own and fresh moments. Scores on
            development data are those of the last.

        Raises:
            UserError: The settings do not fit that many steps.
        """
        return [steps]

    def next_phase(self) -> None:
        """Called between two phases."""

    def objective(self, loss: Tensor, of: Pass) -> Tensor:
        """What is minimised of a pass, instead of its part of the mean loss of the step's answer tokens.

        Called after each forward.
        """
        return loss

    def after_backward(self) -> None:
        """Called after each backward pass, before gradients are clipped."""

    def with_gradients(self, step: int) -> None:
        """Called after each optimiser step (from 1), while the gradients it was made from are there."""

    def training_state(self) -> dict[str, Tensor]:
        """What training needs to resume, beside the parameters."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put a `training_state` back."""

    def after_step(self) -> None:
        """Called after each optimiser step."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model computes what was trained in its cheapest form.

        Those of several methods are entered in the order in which the methods were attached.
        """
        yield

    def state(self) -> dict[str, Tensor]:
        """What is saved: enough to attach the trained method to the same model again.

        These may be the live tensors, not copies: write or clone them before `detach` or another step.
        """
        return {name: p.detach() for name, p in self.parameters().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put saved tensors into an attached method.

        Raises:
            UserError: Names or shapes differ from what this config on this model has.
        """
        parameters = self.parameters()
        if set(parameters) != set(state):
            odd = sorted(set(parameters) ^ set(state))[0]
            raise UserError(f"weights do not fit {self.name}: {odd} is on one side only")
        for name, parameter in parameters.items():
            if parameter.shape != state[name].shape:
                raise UserError(
                    f"weights do not fit {self.name}: {name} is {tuple(state[name].shape)}, "
                    f"this model wants {tuple(parameter.shape)}"
                )
        self.set_parameters(state)

    def set_parameters(self, values: Mapping[str, Tensor]) -> None:
        """Put values into the parameters, by name."""
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(values[name])
        self.after_step()

    def attached(self) -> LanguageModel:
        """The model this method is on."""
        if self.lm is None:
            raise RuntimeError(f"{self.name} is not attached to a model")
        return self.lm
