"""An estimate with its standard error: tests, intervals, equivalence, and sums of independent ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from crosstune.analysis.statistics.studentized import critical, two_sided


@dataclass(frozen=True)
class Spread:
    """An estimate, its standard error and the degrees of freedom of that."""

    difference: float  # the estimate
    se: float  # its standard error
    df: float  # degrees of freedom of the standard error
    v_examples: float = 0.0  # the part of ``se ** 2`` that is by examples
    most: float = 1.0  # the largest value the estimate could have, in size
    # Share of the standard error's uncertainty that is of this pair alone, not of a variance pooled over
    # methods; in tenths.
    alone: float = 0.0

    def interval(self, level: float = 0.95, methods: int = 2) -> tuple[float, float]:
        """The values that a test of all pairs of the methods would not reject."""
        reach = float(critical(self.df, level, methods, self.alone)) * self.se
        return max(self.difference - reach, -self.most), min(self.difference + reach, self.most)

    def interval_of_score(self, examples: int, level: float = 0.95) -> tuple[float, float]:
        """An interval inside [0, 1] of one method's mean score, rightly lopsided near 0 and 1.

        Wilson's (1927), of as many independent answers as have this standard error (Korn and Graubard 1998).

        Args:
            examples: How many independent ones there are: with no right (or no wrong) answer the standard
                error is taken to be that of one.
            level: Of the interval.
        """
        least = 1 / (examples + 2)
        score = min(max(self.difference, least), 1 - least)
        answers = score * (1 - score) / self.se**2
        share = float(critical(self.df, level)) ** 2 / answers
        centre = (self.difference + share / 2) / (1 + share)
        reach = (self.difference * (1 - self.difference) * share + share**2 / 4) ** 0.5 / (1 + share)
        return max(centre - reach, 0.0), min(centre + reach, 1.0)

    @property
    def p(self) -> float:
        """Two-sided, of no difference."""
        return self.p_at(0.0)

    def p_at(self, value: float, methods: int = 2) -> float:
        """Two-sided, of this true value; adjusted for all pairs of the methods."""
        return float(two_sided((self.difference - value) / self.se, self.df, methods, self.alone))

    def p_equivalent(self, margin: float, methods: int = 2) -> float:
        """Of a true value of at least ``margin`` in size: two one-sided tests (Schuirmann 1987)."""
        inside = (margin - abs(self.difference)) / self.se
        p = float(two_sided(inside, self.df, methods, self.alone)) / 2
        return p if inside > 0 else 1 - p


def combined(terms: Sequence[tuple[float, Spread]]) -> Spread:
    """The weighted sum of independent estimates, such as the differences of one pair on several tasks.

    The difference of two means over tasks, with weights 1/k and -1/m, is the interaction of method and kind
    of task.
    """
    parts = [(weight**2 * spread.se**2, spread.df) for weight, spread in terms]
    variance = sum(v for v, _ in parts)
    squares = [v**2 / df for v, df in parts]
    return Spread(
        sum(weight * spread.difference for weight, spread in terms),
        variance**0.5,
        max(variance**2 / sum(squares), 1.0),
        sum(weight**2 * spread.v_examples for weight, spread in terms),
        sum(abs(weight) * spread.most for weight, spread in terms),
        round(sum(v * spread.alone for v, (_, spread) in zip(squares, terms, strict=True)) / sum(squares), 1),
    )
