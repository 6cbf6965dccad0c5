"""No tuning: the model as it is, prompted zero-shot."""

from crosstune.methods.base import Method, Settings
from crosstune.methods.deferred import LanguageModel, nn
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry


class NoTuning(Method[Settings]):
    """The baseline every method has to beat."""

    name = "none"
    summary = "no tuning: zero-shot prompting of the model as it is"
    learning_rate = None
    learning_rate_from = "nothing is trained"

    @classmethod
    def count(cls, config: Settings, geometry: Geometry) -> int:
        """Zero."""
        return 0

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Nothing to put on the model."""

    def parameters(self) -> "dict[str, nn.Parameter]":
        """None."""
        return {}
