"""A store's runs and scores, as claims ask for them: paired on demand."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from crosstune.analysis.answer_language import UNDECIDED
from crosstune.analysis.answers import answers_of, signature
from crosstune.analysis.predictions import Predictions, as_predictions
from crosstune.analysis.statistics.pairing import PairedPredictions, pair_predictions
from crosstune.claims.choose_runs import NoRunsError, Setup, searched, setups
from crosstune.claims.file import LOWER_IS_BETTER
from crosstune.metrics.language_id import UNDECIDABLE
from crosstune.metrics.statistic import MEAN
from crosstune.store.record import RunRecord


class Evidence:
    """Runs and their scores, paired on demand.

    Args:
        runs: Records of finished runs.
        predictions: Of these.
        scores: Their `crosstune.analysis.transfer.language_scores`.
    """

    def __init__(
        self, runs: Sequence[RunRecord], predictions: pl.DataFrame | Predictions, scores: pl.DataFrame
    ) -> None:
        self.scores = scores
        self.setups = setups(runs, scores)
        self._source = {run.id: run.source_language for run in runs}
        self._identifier = {run.id: run.identifier for run in runs}
        self._predictions = as_predictions(predictions)
        covered = scores.group_by("run").agg(pl.col("language"))
        self._languages = {run: frozenset(codes) for run, codes in covered.iter_rows()}
        self._rows: dict[str, pl.DataFrame] = {}
        self._paired: dict[tuple[Any, ...], PairedPredictions] = {}

    def comparison(self, setups: Sequence[Setup], metric: str) -> dict[str, Setup]:
        """By label some setups and all others of their model, task and protocol: one family of tests.

        It is the tables' family, but for setups that would take a language away from those named. Setups
        without the metric, or whose answers' languages were identified otherwise, are in no comparison by it.
        """
        place = {(setup.model, setup.task, setup.protocol) for setup in setups}
        rules = {self._identifier[run.id] for setup in setups for run in setup.runs}
        wanted = frozenset.intersection(*map(self._languages_of, setups))
        others = [
            searched(other)
            for other in self.setups
            if (other.model, other.task, other.protocol) in place
            and self._languages_of(other) >= wanted
            and self.measures(other, metric)
            and (metric not in LOWER_IS_BETTER or {self._identifier[run.id] for run in other.runs} <= rules)
        ]
        return {setup.label: setup for setup in (*others, *setups)}

    def left_out(self, setups: Sequence[Setup], compared: Collection[str]) -> list[str]:
        """Labels of what stands in the tables beside some setups, but lacks some of their languages."""
        place = {(setup.model, setup.task, setup.protocol) for setup in setups}
        wanted = frozenset.intersection(*map(self._languages_of, setups))
        return [
            other.label
            for other in self.setups
            if (other.model, other.task, other.protocol) in place
            and other.label not in compared
            and not self._languages_of(other) >= wanted
        ]

    def answer_alike(self, setups: Sequence[Setup]) -> bool:
        """Whether two setups have a run each with the very same answers (`signature`)."""
        shared = frozenset.intersection(*map(self._languages_of, setups))
        keys = [
            {signature(answers_of(run.id, self._predictions), shared) for run in setup.runs}
            for setup in setups
        ]
        return bool(set.intersection(*keys) - {None})

    def _languages_of(self, setup: Setup) -> frozenset[str]:
        return frozenset.intersection(*(self._languages[run.id] for run in setup.runs))

    def paired(self, setups: Mapping[str, Setup], metric: str) -> PairedPredictions:
        """The examples shared by all runs of a comparison, with one metric.

        Raises:
            NoRunsError: Some run has no such metric, or they share no example.
        """
        ids = [run.id for setup in setups.values() for run in setup.runs]
        key = (metric, *sorted(ids))
        if key not in self._paired:
            scores = self.scores.filter(pl.col("run").is_in(ids))
            # The score of a test set may have no value of an example.
            if scores.filter(pl.col("sums") > 0)["measure"].unique().to_list() == [metric]:
                metric = "score"
            if metric in LOWER_IS_BETTER and len({self._identifier[run] for run in ids}) > 1:
                raise NoRunsError(
                    "the languages of their answers were identified by different rules: relabel them"
                )
            rows = pl.concat([self._metric(run, metric) for run in ids], how="diagonal_relaxed")
            result = pair_predictions(scores, rows, None if metric == "score" else MEAN)
            if not result or not result[0].targets:
                raise NoRunsError("their runs have no example of a target language in common")
            self._paired[key] = result[0]
        return self._paired[key]

    def measures(self, setup: Setup, metric: str) -> bool:
        """Whether a setup's runs have a metric: choices have no language of answers."""
        if metric == "score":
            return True
        column = UNDECIDED if metric in LOWER_IS_BETTER else f"metric.{metric}"
        scores = self.scores.filter(pl.col("run").is_in([run.id for run in setup.runs]))
        recorded = column in scores.columns and scores[column].is_not_null().any()
        return recorded or metric in scores["measure"].to_list()

    def _metric(self, run: str, metric: str) -> pl.DataFrame:
        if run not in self._rows:
            self._rows[run] = self._predictions.scores(run)
        rows = self._rows[run]
        label = pl.col("answer_language")
        if metric in LOWER_IS_BETTER:
            if "answer_language" not in rows.columns or rows["answer_language"].null_count() == rows.height:
                raise NoRunsError("the task has no generated answers, so no language can be identified")
            # Over all answers; one without an identified language (digits) does not count as wrong.
            wrong = (label != pl.col("language")) & (label != UNDECIDABLE)
            if metric == "source_language":
                wrong &= label == self._source[run]
            value = wrong.cast(pl.Float64)
        elif metric == "score":
            return rows
        elif f"metric.{metric}" in rows.columns:
            value = pl.col(f"metric.{metric}").cast(pl.Float64).fill_nan(None)
        else:
            raise NoRunsError(f"the runs recorded no metric {metric}")
        scored = rows.select("run", "language", "example", pl.col("^cluster$"), value.alias("score"))
        return scored.filter(pl.col("score").is_not_null())
