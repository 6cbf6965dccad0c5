"""What the score of many predictions is: a function of sums over them.

A mean is the sum of the examples' scores over their number. A corpus score is another function of other sums:
micro-F1 of tagged spans is ``2 * correct / (predicted + gold)``, each summed over the whole test set, and is
not the mean of the sentences' F1. Both are resampled the same way: drawing examples with replacement
multiplies what each adds to the sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Statistic:
    """A score of a set of predictions."""

    # Numeric columns of a table of predictions, without nulls, that are summed over examples.
    columns: tuple[str, ...]
    # The score in [0, 1], from the sums ``[..., columns]`` and how many examples they are over, ``[...]``;
    # shape ``[...]``. Of no examples it may be anything, NaN included.
    value: Callable[[Floats, Floats], Floats]

    def of(self, predictions: pl.DataFrame) -> float:
        """The score of all rows of a table together; NaN where it has none."""
        if predictions.is_empty():
            return float("nan")
        sums = np.array([predictions[column].sum() for column in self.columns], dtype=np.float64)
        return float(self.value(sums, np.array(float(predictions.height))))

    def per_example(self, counts: Floats) -> Floats:
        """What each example adds to the score of all: values whose mean is that score.

        A score that is no mean is taken as linear around the sums of all examples: an example's value is the
        score plus its influence on it (Hampel 1974), the derivative by the example's weight times the number
        of examples. Standard errors of these values are those of the infinitesimal jackknife.

        Counts are ``[..., examples, columns]``, values ``[..., examples]``.
        """
        n, step = np.float64(counts.shape[-2]), 1e-4
        sums = counts.sum(axis=-2, keepdims=True)
        more = self.value(sums + step * counts, np.full(counts.shape[:-1], n + step))
        less = self.value(sums - step * counts, np.full(counts.shape[:-1], n - step))
        influence = n * (more - less) / (2 * step)
        # Influences add up to 0 but for what the step leaves.
        centred = influence - influence.mean(axis=-1, keepdims=True)
        return np.asarray(self.value(sums, np.full(sums.shape[:-1], n)) + centred)


MEAN = Statistic(("score",), lambda sums, examples: sums[..., 0] / examples)
"""The mean of the examples' own scores."""
