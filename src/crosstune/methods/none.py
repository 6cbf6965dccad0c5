"""No tuning: the model as it is, prompted zero-shot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.methods.base import Method
from crosstune.methods.config import MethodConfig
from crosstune.models.geometry import Geometry

if TYPE_CHECKING:
    from torch import nn

    from crosstune.models.language_model import LanguageModel


class NoTuning(Method):
    """The baseline every method has to beat."""

    name = "none"
    summary = "no tuning: zero-shot prompting of the model as it is"
    learning_rate = None
    learning_rate_from = "nothing is trained"

    @classmethod
    def count(cls, config: MethodConfig, geometry: Geometry) -> int:
        """Zero."""
        return 0

    def attach(self, lm: LanguageModel, seed: int = 0) -> None:
        """Nothing to hook in."""
        self.lm = lm

    def detach(self) -> None:
        """Nothing to take off."""
        self.lm = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}
