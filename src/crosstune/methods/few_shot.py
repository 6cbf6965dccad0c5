"""Few-shot prompting: k English exemplars, drawn with the run's seed, stand in front of every question.

In-context learning as in Brown et al. 2020 (arXiv 2005.14165); nothing is trained. The exemplars
come from the source language's training split, the same ones for every language and question. In a chat
template they stand in the user's turn, or each is a turn of the user and one of the model.
"""

from typing import ClassVar

from pydantic import Field

from crosstune.methods.config import MethodConfig
from crosstune.methods.none import NoTuning


class FewShotConfig(MethodConfig):
    """Settings of `few-shot`.

    Attributes:
        k: Exemplars in the prompt.
        turns: Whether each is a turn of the user and one of the model, where prompts are in a chat template;
            otherwise all stand in the question's turn.
    """

    newer: ClassVar[tuple[str, ...]] = ("turns",)

    k: int = Field(default=4, ge=1, le=1_000)
    turns: bool = False


class FewShot(NoTuning[FewShotConfig]):
    """The untuned model, shown how the task goes in English."""

    name = "few-shot"
    summary = "no tuning: k English exemplars in the prompt"
    Config = FewShotConfig

    def __init__(self, config: FewShotConfig | None = None) -> None:
        super().__init__(config)
        self.shots, self.turns = self.config.k, self.config.turns
