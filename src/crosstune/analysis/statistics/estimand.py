"""What is estimated of each method: a mean over languages, a gap, relative transfer, a contrast of groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.errors import UserError

Quantity = Literal["mean", "gap", "relative", "contrast"]


@dataclass(frozen=True)
class Part:
    """Languages that share a weight: their mean counts ``sign`` times.

    ``sampled`` tells whether the languages may be taken for a sample of others like them; the source may not.
    """

    languages: list[str]
    sign: float
    sampled: bool


@dataclass(frozen=True)
class Estimand:
    """One number a method has; methods are compared by it, and it is compared with 0."""

    # "mean" over target languages; "gap", the source score minus that mean; "relative" transfer, ``(mean -
    # chance) / (source - chance)``; "contrast", the mean over ``languages`` minus that over ``versus``: its
    # difference between methods is the interaction of method and group.
    quantity: Quantity = "mean"
    languages: Sequence[str] | None = None  # codes; all targets by default
    versus: Sequence[str] = ()  # of "contrast", the other group
    chance: float = 0.0  # of "relative", the score of a guess

    def parts(self, paired: PairedPredictions) -> list[Part]:
        """Groups of languages with their weights.

        Raises:
            UserError: A language that is not in the comparison, or the source where it is needed.
        """
        targets = _codes(paired, self.languages)
        if self.quantity == "mean":
            return [Part(targets, 1.0, True)]
        if self.quantity == "contrast":
            others = _codes(paired, self.versus)
            if both := sorted(set(targets) & set(others)):
                raise UserError(f"{paired.model}, {paired.task}: {both[0]} is in both groups of languages")
            return [Part(targets, 1.0, True), Part(others, -1.0, True)]
        source = _codes(paired, [paired.source])
        sign = -1.0 if self.quantity == "gap" else 1.0
        return [Part(source, 1.0, False), Part([code for code in targets if code not in source], sign, True)]


def _codes(paired: PairedPredictions, languages: Sequence[str] | None) -> list[str]:
    return [paired.languages[i] for i in paired.places(languages)]
