"""Predictions of many runs, read one run at a time: a big study never lies in memory whole.

A table of scores has no texts, prompts or log-probabilities: most analyses need none of these.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from crosstune.data.forms import FORMS
from crosstune.metrics.corpus import SUM
from crosstune.store import store as stored
from crosstune.store.record import RunRecord

AT_ONCE = 100_000
"""Rows of several runs to take together."""

TEXTS = ["language", "example", "prediction", "gold", "prompt"]


class Predictions:
    """Predictions of finished runs, of a store or of a table.

    Args:
        source: A store's folder, or a table with one row an example and a ``run`` column.

    Raises:
        UserError: Of every method: a file that is no table of predictions.
    """

    def __init__(self, source: Path | pl.DataFrame) -> None:
        self._source = source
        self._to_pair: dict[str, pl.DataFrame] = {}

    def scores(self, run_id: str) -> pl.DataFrame:
        """What one run scored.

        Returns:
            run, language, example, score, and where there ``cluster``, ``answer_language`` and each
            ``metric.<name>``.
        """
        if isinstance(self._source, Path):
            table = stored.read_table(self._source, run_id, _is_score)
            return table.select(pl.lit(run_id).alias("run"), pl.all())
        table = self._of_table(run_id)
        return table.select(name for name in table.columns if name == "run" or _is_score(name))

    def tables(self, run_ids: Iterable[str]) -> Iterator[pl.DataFrame]:
        """`scores` of many runs: tables of a few whole runs each, for one run's may be tiny.

        What `to_pair` takes of each is kept until it does: a file is read once for both.
        """
        waiting: list[pl.DataFrame] = []
        for run_id in run_ids:
            waiting.append(self.scores(run_id))
            self._to_pair[run_id] = _small(waiting[-1])
            if sum(table.height for table in waiting) >= AT_ONCE:
                yield pl.concat(waiting, how="diagonal_relaxed")
                waiting = []
        if waiting:
            yield pl.concat(waiting, how="diagonal_relaxed")

    def texts(self, run_id: str) -> pl.DataFrame:
        """What one run answered: the columns of `TEXTS`; ``prompt`` where it was kept."""
        table = self.columns(run_id, TEXTS)
        if isinstance(self._source, Path) and not set(TEXTS) - {"prompt"} <= set(table.columns):
            return stored.read_table(self._source, run_id, TEXTS[:-1])  # which says what is wrong
        return table

    def columns(self, run_id: str, names: Collection[str]) -> pl.DataFrame:
        """Those of some columns that one run's predictions have."""
        if isinstance(self._source, Path):
            return stored.read_table(self._source, run_id, lambda name: name in names)
        table = self._of_table(run_id)
        return table.select(name for name in table.columns if name in names)

    def to_pair(self, runs: Sequence[RunRecord]) -> pl.DataFrame:
        """Scores of many runs, for `crosstune.analysis.statistics.pairing.pair_predictions`.

        Returns:
            run, language, example (categorical), score and what a corpus score is made of (float32): 16
            bytes a row where the score is a mean.
        """
        cached = self._to_pair
        tables = [cached.pop(run.id) if run.id in cached else _small(self.scores(run.id)) for run in runs]
        return pl.concat(tables, how="diagonal")

    def whole(self, runs: Sequence[RunRecord]) -> pl.DataFrame:
        """Every column of some runs in one table, with a ``run`` column in front."""
        if isinstance(self._source, Path):
            return stored.read_predictions(self._source, runs)
        return self._source.filter(pl.col("run").is_in([run.id for run in runs]))

    def _of_table(self, run_id: str) -> pl.DataFrame:
        assert isinstance(self._source, pl.DataFrame)
        return self._parts.get((run_id,), self._source.clear())

    @cached_property
    def _parts(self) -> dict[tuple[Any, ...], pl.DataFrame]:
        assert isinstance(self._source, pl.DataFrame)
        return self._source.partition_by("run", as_dict=True)


def as_predictions(source: pl.DataFrame | Predictions) -> Predictions:
    """A table as `Predictions`; what is such already comes back as it is."""
    return source if isinstance(source, Predictions) else Predictions(source)


def _small(scores: pl.DataFrame) -> pl.DataFrame:
    """What pairing takes of some runs' scores."""
    names = [pl.col(name).cast(pl.Categorical) for name in ("run", "language", "example")]
    summed = cs.by_name(*_summed(), require_all=False) | cs.starts_with(SUM)
    cluster = cs.by_name("cluster", require_all=False).cast(pl.Categorical)
    return scores.select(*names, cluster, summed.cast(pl.Float32))


def _is_score(name: str) -> bool:
    known = {"language", "example", "cluster", "answer_language", *_summed()}
    return name in known or name.startswith(("metric.", SUM))


def _summed() -> set[str]:
    """Columns that some form's score is made of."""
    return {"score"}.union(*(form.statistic.columns for form in FORMS.values()))
