"""Scores of methods in languages as paired predictions."""

import numpy as np
import polars as pl

from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.metrics.statistic import Statistic


def made(
    scores: dict[str, np.ndarray], shared: bool = True, seedless: frozenset[str] = frozenset()
) -> PairedPredictions:
    """`PairedPredictions` of arrays [seeds, languages, examples]; the first language is the source."""
    languages, n = next(iter(scores.values())).shape[1:]
    ids = [str(i) if shared else f"{code}-{i}" for code in range(languages) for i in range(n)]
    return PairedPredictions(
        model="m",
        task="t",
        protocol="p",
        source="l0",
        methods=sorted(scores),
        languages=[f"l{i}" for i in range(languages)],
        offsets=np.arange(languages + 1) * n,
        examples=np.array(ids, dtype=object),
        scores={k: v.reshape(len(v), -1).astype(np.float32) for k, v in scores.items()},
        seeds={k: tuple(range(len(v))) for k, v in scores.items()},
        seedless=seedless,
    )


def resampled(statistic: Statistic, predictions: pl.DataFrame, times: np.ndarray) -> np.ndarray:
    """Scores ``[draws]`` of resampled tables; ``times [draws, rows]`` is how often each row is drawn."""
    added = predictions.select(statistic.columns).to_numpy().astype(np.float64)
    return statistic.value(times @ added, times.sum(axis=-1))


def coins(rng: np.random.Generator, p: float, *shape: int) -> np.ndarray:
    return (rng.random(shape) < p).astype(float)
