"""What a method is: trained parameters that attach to a frozen model and come off without a trace.

To plan a study, list methods or count parameters takes settings alone: torch, transformers and PEFT are
imported by the functions that compute.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from crosstune.errors import UserError
from crosstune.methods.config import Layered, MethodConfig
from crosstune.models.geometry import Geometry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from crosstune.models.language_model import LanguageModel


class Method(ABC):
    """A way to adapt a frozen model. A subclass is one file and one line in `crosstune.methods.METHODS`.

    Attributes:
        name: As written in a study file.
        summary: One line for ``crosstune list methods``.
        learning_rate: Default; None where nothing is trained.
        learning_rate_from: Where the default comes from.
        size: The setting that trained parameters rise with, which a budget solves; None where there is none.
        shots: English exemplars that stand in every prompt (only `few-shot` has some).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float | None]
    learning_rate_from: ClassVar[str]
    size: ClassVar[str | None] = None
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    shots: int = 0

    def __init__(self, config: MethodConfig | None = None) -> None:
        self.config = config if config is not None else self.Config()
        self.lm: LanguageModel | None = None

    @property
    def default_rate(self) -> float | None:
        """Learning rate when the study names none."""
        return self.learning_rate

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return self.learning_rate is not None

    @classmethod
    @abstractmethod
    def count(cls, config: MethodConfig, geometry: Geometry) -> int:
        """Trained parameters in closed form, from the model's shape alone."""

    @abstractmethod
    def attach(self, lm: LanguageModel, seed: int = 0) -> None:
        """Make the parameters (from ``seed``) and hook them into the model."""

    @abstractmethod
    def detach(self) -> None:
        """Take everything off again: the model's logits are the same bits as before `attach`."""

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
    def parameters(self) -> dict[str, nn.Parameter]:
        """The fp32 parameters the optimiser steps, by name."""

    def after_backward(self) -> None:  # noqa: B027 - most methods need nothing here
        """Called after each backward pass, before gradients are clipped."""

    def after_step(self) -> None:  # noqa: B027
        """Called after each optimiser step."""

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model computes what was trained in its cheapest form."""
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
        import torch

        mine = self.parameters()
        if set(mine) != set(state):
            odd = sorted(set(mine) ^ set(state))[0]
            raise UserError(f"weights do not fit {self.name}: {odd} is on one side only")
        for name, parameter in mine.items():
            if parameter.shape != state[name].shape:
                raise UserError(
                    f"weights do not fit {self.name}: {name} is {tuple(state[name].shape)}, "
                    f"this model wants {tuple(parameter.shape)}"
                )
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(state[name])
        self.after_step()

    def attached(self) -> LanguageModel:
        """The model this method is on."""
        if self.lm is None:
            raise RuntimeError(f"{self.name} is not attached to a model")
        return self.lm
