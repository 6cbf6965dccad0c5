"""Few-shot prompting: k English exemplars, drawn with the run's seed, stand in front of every question.

In-context learning as in Brown et al. 2020 (arXiv 2005.14165); nothing is trained. The exemplars
come from the source language's training split, the same ones for every language and question.
"""

from pydantic import Field

from crosstune.methods.config import MethodConfig
from crosstune.methods.none import NoTuning


class FewShotConfig(MethodConfig):
    """Settings of `few-shot`.

    Attributes:
        k: Exemplars in the prompt.
    """

    k: int = Field(default=4, ge=1, le=1_000)


class FewShot(NoTuning[FewShotConfig]):
    """The untuned model, shown how the task goes in English."""

    name = "few-shot"
    summary = "no tuning: k English exemplars in the prompt"
    Config = FewShotConfig

    def __init__(self, config: FewShotConfig | None = None) -> None:
        super().__init__(config)
        self.shots = self.config.k
