"""A stage: parts of a method that are trained before it, each on unlabelled text of one language.

A study makes a run of its own for each language (`crosstune.study.stages`): another method, trained by
next-token loss. Runs that need its weights share it.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import TypeVar

from crosstune.methods.base import Method
from crosstune.methods.config import MethodConfig
from crosstune.methods.deferred import Tensor, torch

Missing = Literal["error", "none", "nearest", "neighbours", "similar"]


class StagedConfig(MethodConfig):
    """Settings of a method with a stage.

    Attributes:
        text: Where unlabelled text comes from: "udhr", "tatoeba", a folder, or a mapping of the settings of
            `crosstune.tasks.text.task.TextOptions`. There is no default.
        text_train: Training settings of the stage; the study's ``train`` is that of the task.
        missing: What a language without text gets: "error" refuses the study, "none" gives it no part of its
            own, "nearest" that of its nearest relative in the table of languages, "neighbours" the sum of its
            three nearest relatives', weighted 3 to 2 to 1 (language arithmetic), "similar" that of the three
            most similar languages, weighted by `crosstune.languages.similarity`.
        mix: By language, which sum of others' it gets, with text of its own or without:
            ``{sw: {zu: 0.7, xh: 0.3}}``.
    """

    newer: ClassVar[tuple[str, ...]] = ("mix",)
    text: str | dict[str, Any] = ""
    text_train: dict[str, Any] = Field(default_factory=dict)
    missing: Missing = "error"
    mix: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]] = Field(default_factory=dict)


def ranked(codes: Sequence[str]) -> dict[str, Fraction]:
    """Weights of languages, the nearest first: 3 to 2 to 1 of three."""
    total = len(codes) * (len(codes) + 1) // 2
    return {code: Fraction(len(codes) - i, total) for i, code in enumerate(codes)}


def as_sum(weights: Mapping[str, Fraction]) -> str:
    """Languages of text with their weights, "1/2 sw + 1/3 zu + 1/6 xh"; one alone as it is."""
    return " + ".join(code if weight == 1 else f"{weight} {code}" for code, weight in weights.items())


def terms(text: str) -> dict[str, float]:
    """The weight of each language in what `as_sum` wrote."""
    pairs = [term.rpartition(" ") for term in text.split(" + ")]
    return {code: float(Fraction(weight or 1)) for weight, _, code in pairs}


@dataclass(frozen=True)
class Stage:
    """What is trained on the text of a language."""

    label: str  # for people
    method: str  # name in `crosstune.methods.METHODS`
    config: MethodConfig
    learning_rate: float | None = None  # default; None for the method's own


Settings = TypeVar("Settings", bound=StagedConfig, default=Any)


class Staged(Method[Settings]):
    """A method with a stage."""

    # By language of examples, the language whose stage it gets; None for none. Set before `attach`.
    uses: Mapping[str, str | None] = {}
    # By language of the text, what its stage trained; empty to attach untrained parts, as for timing.
    weights: Mapping[str, Mapping[str, Tensor]] = {}

    @property
    @abstractmethod
    def stage(self) -> Stage:
        """What is trained first."""

    def summed(self, states: Sequence[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """What stages trained, each times its weight, added."""
        return {
            name: torch.stack([w * state[name].float() for w, state in states]).sum(0)
            for name in states[0][1]
        }

    @property
    def users(self) -> dict[str, list[str]]:
        """By language of the text, the languages that get its stage."""
        users: dict[str, list[str]] = {}
        for language, text in self.uses.items():
            if text is not None:
                users.setdefault(text, []).append(language)
        return users
