"""The hierarchical bootstrap: languages, seeds and examples drawn again with replacement.

Example ids are drawn once for all languages that share them, as in a parallel benchmark; where languages
have examples of their own, inside each. (Languages that share some of their ids are drawn together, and have
more examples in some draws than in others.) Languages are drawn once for all methods, seeds for each method.
Percentiles of the draws are what papers report most, and too narrow where a factor has few values: with k
seeds their variance comes out (k - 1) / k of what it should be, and a percentile takes no account of how
little k seeds say about it (Hesterberg 2015, arXiv 1411.5279). `crosstune.analysis.statistics.variance` mends
both.
"""

import zlib
from collections.abc import Collection
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crosstune.analysis.statistics.variance import Sample

Factor = Literal["languages", "seeds", "examples"]
DRAWS = 2000
_CHUNK = 50  # Draws at a time: memory for two hundred runs of a hundred languages stays below 100 MB.


def bootstrap_means(
    sample: Sample,
    methods: list[str],
    factors: Collection[Factor] = get_args(Factor),
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Means over languages of each method in bootstrap draws.

    Only the factors are drawn again, the rest stays as it is. The same seed gives the same draws.

    Returns:
        [draws, methods]. Differences of columns are draws of the difference between methods.
    """
    rng = np.random.default_rng(seed)
    # A stream for each method's seeds: what is drawn for two methods does not depend on who else is there.
    streams = [np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in methods]
    statistic = sample.paired.statistic
    summed = [sample.paired.summed(sample.paired.known(name))[:, sample.columns] for name in methods]
    seeds = [len(values) for values in summed]
    ends = np.cumsum(seeds)[:-1]
    languages = len(sample.n)
    rows = np.concatenate(summed)
    shape = (len(rows), len(statistic.columns))
    of_language = [
        rows[:, start : start + n].transpose(1, 0, 2).reshape(n, -1)
        for start, n in zip(sample.starts, sample.n, strict=True)
    ]
    observed = [
        statistic.value(values.sum(axis=0).reshape(shape), np.array(len(values), np.float32))
        for values in of_language
    ]
    linked = sample.linked()
    means = []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        total = np.empty((size, len(rows), languages), dtype=np.float32)
        for count, members in linked:
            drawn = _counts(rng, size, count, "examples" in factors)
            for i, ids in members:
                weight = drawn[:, ids]
                # As many as there are, but for languages that share only some of their ids.
                times = weight.sum(axis=1, keepdims=True)
                with np.errstate(invalid="ignore"):
                    drawn_scores = statistic.value((weight @ of_language[i]).reshape(size, *shape), times)
                # A draw may have no example, or none that the score is made of.
                total[:, :, i] = np.where(np.isfinite(drawn_scores), drawn_scores, observed[i])
        language_weight = _counts(rng, size, languages, "languages" in factors) / languages
        of_run = np.einsum("drl,dl->dr", total, language_weight, optimize=True)
        of_method = [
            (scores * _counts(stream, size, k, "seeds" in factors)).sum(axis=1) / k
            for stream, k, scores in zip(streams, seeds, np.split(of_run, ends, axis=1), strict=True)
        ]
        means.append(np.stack(of_method, axis=1))
    return np.concatenate(means).astype(np.float64)


def _counts(rng: np.random.Generator, draws: int, size: int, drawn: bool) -> NDArray[np.float32]:
    """[draws, size]; how often each value is in a draw of as many."""
    if not drawn:
        return np.ones((draws, size), dtype=np.float32)
    picked = rng.integers(0, size, (draws, size)) + np.arange(draws)[:, None] * size
    return np.bincount(picked.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float32)
