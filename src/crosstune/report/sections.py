"""A report's sections: one for each set of runs that may be compared."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import polars as pl

from crosstune.analysis.answer_language import CORRECT
from crosstune.analysis.answers import ALIKE, FEWEST, Answers, answers_of, signature
from crosstune.analysis.predictions import Predictions, as_predictions
from crosstune.analysis.statistics.clusters import ON_PASSAGES
from crosstune.analysis.statistics.differences import by_language
from crosstune.analysis.statistics.pairing import PairedPredictions, pair_predictions
from crosstune.analysis.transfer import COMPARISON, SCORING, comparable, language_scores, seed_means, transfer
from crosstune.claims.cell import counted
from crosstune.claims.choose_runs import Setup
from crosstune.claims.fairness import FairPairs, effort
from crosstune.data.forms import FORMS
from crosstune.report.effort import expected_validation, tried, unequal
from crosstune.report.levels import Levels, levels
from crosstune.report.text import language_name, visible
from crosstune.store.record import RunRecord

IN_ENGLISH = "metric.in_english"
ALPHA = 0.05
MOST_REFERENCES = 8


@dataclass(frozen=True)
class Section:
    """The runs of one model on one task under one protocol."""

    model: str
    task: str
    protocol: str
    note: str  # what sets the section apart where a model and task have several protocols, else ""
    runs: list[RunRecord]  # records of its runs, by method and seed
    scores: pl.DataFrame  # its rows of `crosstune.analysis.transfer.language_scores`
    table: pl.DataFrame  # its rows of `crosstune.analysis.transfer.transfer`, best mean over targets first
    # Its scores example by example; None where its runs share no target language.
    paired: PairedPredictions | None = None
    reader: Predictions | None = None  # where its predictions are read
    _pairs: dict[int, FairPairs] = field(default_factory=dict, repr=False, compare=False)
    _against: dict[str, pl.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    def pairs(self, draws: int = 0) -> FairPairs:
        """The tests of all pairs of methods, with so many draws of the bootstrap; computed once."""
        assert self.paired is not None
        if draws not in self._pairs:
            self._pairs[draws] = FairPairs(self.paired, self.setups, draws=draws)
        return self._pairs[draws]

    def against(self, reference: str) -> pl.DataFrame:
        """Every other method against one, best first; computed once.

        Returns:
            The columns of `crosstune.analysis.statistics.differences.differences` but for the bootstrap's,
            ``b`` being the reference; no rows where the runs share no example in a target language.
        """
        if self.paired is None or len(self.methods) < 2:
            return pl.DataFrame(schema={"a": pl.String, "b": pl.String, "p": pl.Float64})
        if reference not in self._against:
            rank = {method: place for place, method in enumerate(self.methods)}
            place = pl.col("a").replace_strict(rank, return_dtype=pl.Int64)
            # The page shows the interval that the test is of; bootstrap draws would take most of its time.
            tests = self.pairs().table(reference).drop("bootstrap_low", "bootstrap_high")
            self._against[reference] = tests.sort(place)
        return self._against[reference]

    def against_by_language(self, reference: str) -> pl.DataFrame:
        """Every other method against one, language by language.

        Returns:
            The columns of `crosstune.analysis.statistics.differences.by_language`, with ``method`` in front.
        """
        others = [] if self.paired is None else [name for name in self.methods if name != reference]
        if self.paired is None or not others:
            return pl.DataFrame(schema={"method": pl.String, "language": pl.String})
        pairs = self.pairs()
        tables = [
            by_language(pairs.predictions(name, reference), name, reference).select(
                pl.lit(name).alias("method"), pl.all()
            )
            for name in others
        ]
        return pl.concat(tables)

    @property
    def references(self) -> list[str]:
        """The methods to compare with: all, or if there are many, the first ones and the untuned ones.

        The first is the best zero-shot one.
        """
        if self.paired is None:
            return []
        ranked = [row["method"] for row in self.ranked]
        every = [*ranked, *(method for method in self.methods if method not in ranked)]
        if len(every) <= MOST_REFERENCES:
            return every
        untuned = [method for method in self.methods if self.of(method)[0].method_facts.untuned][:2]
        chosen = [*every[: MOST_REFERENCES - len(untuned)], *untuned]
        return [method for method in every if method in chosen]

    @property
    def methods(self) -> list[str]:
        """Method labels, best mean over targets first."""
        return self.table["method"].to_list()

    def of(self, method: str) -> list[RunRecord]:
        """The runs of a method, by seed."""
        ids = self.scores.filter(pl.col("method") == method)["run"].unique().to_list()
        return [run for run in self.runs if run.id in ids]

    @property
    def languages(self) -> pl.DataFrame:
        """Seed-averaged scores, one row per method and language (all languages, not only common ones)."""
        return seed_means(self.scores)

    @property
    def ranked(self) -> list[dict[str, Any]]:
        """Rows of zero-shot methods that have a mean over targets, best first."""
        return self.table.filter("zero_shot", pl.col("target_mean").is_not_null()).rows(named=True)

    @property
    def source(self) -> str:
        """Name of the source language."""
        return language_name(self.table["source_language"][0])

    @cached_property
    def targets(self) -> list[str]:
        """Codes of the target languages that every run was scored on."""
        shared = comparable(self.scores).filter(~pl.col("is_source"))
        return shared["language"].unique().sort().to_list()

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95% interval of each method's mean over exactly these targets; none of too few examples."""
        if self.paired is None:
            return {}
        rows = FairPairs(self.paired, self.setups, language_effect="fixed").values().rows(named=True)
        return {row["method"]: (row["low"], row["high"]) for row in rows if row["low"] is not None}

    @cached_property
    def one_seed(self) -> bool:
        """Whether no method has several seeds, so that tests compare trained models and not methods."""
        drawn = [row for row in self.table.rows(named=True) if self.of(row["method"])[0].method_facts.random]
        return bool(drawn) and all(row["seeds"] == 1 for row in drawn)

    @cached_property
    def levels(self) -> Levels:
        """What guessing scores."""
        return Levels() if self.reader is None else levels(self.runs, self.reader, self.targets)

    @cached_property
    def _answers(self) -> dict[str, dict[str, Answers]]:
        """Runs' answers in the target languages, as far as they have been read."""
        return {}

    def _answers_in_targets(self, run: str) -> dict[str, Answers]:
        if run not in self._answers:
            answers = {} if self.reader is None else answers_of(run, self.reader)
            self._answers[run] = {code: answers[code] for code in self.targets if code in answers}
        return self._answers[run]

    @cached_property
    def same_answers(self) -> dict[str, int]:
        """Runs with one answer to all examples of half of the languages or more: of how many, by id."""
        if not FORMS[self.runs[0].task.kind].has_choices:
            return {}
        answers = {run.id: self._answers_in_targets(run.id) for run in self.runs}
        counts = {
            run: sum(x.constant and x.examples >= FEWEST for x in of_run.values())
            for run, of_run in answers.items()
        }
        return {run: n for run, n in counts.items() if n and 2 * n >= len(answers[run])}

    @property
    def _alike(self) -> list[str]:
        """What is to be said of methods that answer alike."""
        trained = {run.id: str((run.method, (run.train or {}).get("learning_rate"))) for run in self.runs}
        methods: dict[Any, dict[str, str]] = {}
        # The same answers have the same scores: the files of other runs are not read for this.
        by_scores = (
            self.scores.filter(pl.col("language").is_in(self.targets))
            .sort("language")
            .group_by("run", "method", maintain_order=True)
            .agg(pl.col("score"))
            .filter(pl.col("method").n_unique().over("score") > 1)
        )
        for run, label in by_scores.select("run", "method").iter_rows():
            if (key := signature(self._answers_in_targets(run), self.targets)) is not None:
                methods.setdefault(key, {})[visible(label, 60)] = trained[run]
        # A rate that was given and the same one found by a search are one method.
        return [f"{' and '.join(names)} {ALIKE}" for names in methods.values() if len({*names.values()}) > 1]

    @cached_property
    def setups(self) -> dict[str, Setup]:
        """What each method was given, by label."""
        return tried(self.runs, self.scores)

    def effort(self, a: str, b: str) -> str:
        """What two methods were given besides the method, where it differs or rates were searched."""
        return effort(self.setups[a], self.setups[b])

    @cached_property
    def expected_validation(self) -> pl.DataFrame:
        """`crosstune.report.effort.expected_validation` of its runs."""
        return expected_validation(self.runs)

    @cached_property
    def warnings(self) -> list[str]:
        """What may have spoilt the scores or the comparison: leaks, rows left out, unequal settings."""
        prompts = max(run.overlap.prompts if run.overlap else 0 for run in self.runs)
        shared: Counter[str] = Counter()
        for run in self.runs:
            shared |= Counter(run.overlap.normalised if run.overlap else {})
        skipped = max(run.data.skipped_rows for run in self.runs)
        result = [
            f"the {visible(name, 30)} of {count:,} test examples is also in the training data "
            "(case, punctuation and spaces aside)"
            for name, count in shared.items()
            if count
        ]
        if prompts:
            result.insert(
                0,
                f"{prompts:,} test examples have a prompt that is also in the training data: their "
                "scores may be remembered, not transferred",
            )
        if in_text := max(run.unlabelled.in_text if run.unlabelled else 0 for run in self.runs):
            result.append(f"a text of {in_text:,} test examples stands in the unlabelled text")
        if len({run.closed_by for run in self.runs}) > 1:
            result.append(
                "in some runs, made by an older crosstune, prompts end in the end-of-text token that the "
                "tokenizer adds: their scores are not comparable; crosstune run makes them again"
            )
        if len({run.identifier for run in self.runs}) > 1:
            result.append(
                "the languages of answers were identified by different rules, in older runs by earlier ones: "
                "their rates are not comparable; see docs/language-identification.md for `relabel`"
            )
        lora = [run for run in self.runs if run.method.name == "lora" and run.quantize is None]
        if any(run.merge is None and run.dtype != "float32" for run in lora):  # no other method was there
            result.append(
                "in some runs of lora, made by an older crosstune, 16-bit weights rounded small updates "
                "away: their scores are not comparable with others'; remove them, run it again"
            )
        if self.task in ON_PASSAGES and self.paired is not None and self.paired.clusters is None:
            result.append(
                "these runs, made by an older crosstune, do not say which questions share a passage: they "
                "are taken as independent, and intervals are too narrow; remove the runs, run them again"
            )
        pairs = [] if self.paired is None else combinations(self.paired.methods, 2)
        few = [self.pairs().predictions(a, b).not_enough_data((a, b)) for a, b in pairs]
        if few and all(few):
            result.append(f"not enough data to test any pair of methods: {few[0]}")
        if skipped:
            result.append(f"{skipped:,} rows of the data could not be used and were left out")
        labels = dict(self.scores.select("run", "method").unique().iter_rows())
        result += [
            f"{visible(labels[run.id], 60)}, seed {run.seed}, gives one and the same answer to all examples "
            f"in {self.same_answers[run.id]} of {counted(len(self.targets), 'target language')}"
            for run in self.runs
            if run.id in self.same_answers
        ]
        result += self._alike
        return [*result, *(visible(line, 400) for line in unequal(self.setups))]

    @property
    def has_losses(self) -> bool:
        """Whether some run recorded its training loss."""
        losses = (point.get("loss") for run in self.runs for point in run.curve)
        return any(loss is not None and math.isfinite(loss) for loss in losses)

    @property
    def has_in_english(self) -> bool:
        """Whether right answers given in English instead were counted (``metric.in_english``)."""
        return self._told(self.scores, IN_ENGLISH)

    @property
    def has_answer_language(self) -> bool:
        """Whether the language of some answers in target languages that all runs share could be told."""
        return self._told(self.table, CORRECT)

    def _told(self, table: pl.DataFrame, metric: str) -> bool:
        return metric in table.columns and table[metric].is_not_null().any()


def outcome(row: Mapping[str, Any]) -> str:
    """Whether a is "better" or "worse" than b, or "not significant", by the p value of all pairs.

    A pair with too few answers to be tested is never told apart.
    """
    if row["p"] is None or row["p"] >= ALPHA:
        return "not significant"
    return "better" if row["difference"] > 0 else "worse"


def sections(
    runs: Sequence[RunRecord], predictions: pl.DataFrame | Predictions, scores: pl.DataFrame | None = None
) -> list[Section]:
    """Split runs into sets that may be compared; their `language_scores` are given where they are at hand.

    Raises:
        UserError: As `crosstune.analysis.transfer.language_scores`.
    """
    reader = as_predictions(predictions)
    scores = language_scores(runs, reader) if scores is None else scores
    table = transfer(scores)
    by_id = {run.id: run for run in runs}
    pairs = pair_predictions(scores, reader.to_pair(list(by_id.values())))
    paired = {(pair.model, pair.task, pair.protocol): pair for pair in pairs if pair.targets}
    keys = scores.select(COMPARISON).unique().sort(COMPARISON).rows()
    together = Counter((model, task) for model, task, _ in keys)
    result = []
    for model, task, protocol in keys:
        of_section = (pl.col("model") == model) & (pl.col("task") == task) & (pl.col("protocol") == protocol)
        own_scores = scores.filter(of_section)
        order = own_scores.select("method", "seed", "run").unique().sort("method", "seed", "run")
        members = [by_id[run_id] for run_id in order["run"]]
        note = _protocol_note(members[0]) if together[model, task] > 1 else ""
        of_pairs = paired.get((model, task, protocol))
        result.append(
            Section(
                model, task, protocol, note, members, own_scores, table.filter(of_section), of_pairs, reader
            )
        )
    return result


def _protocol_note(run: RunRecord) -> str:
    options = ", ".join(f"{key} {value}" for key, value in run.task.options.items())
    tests = run.fingerprints.test
    data = tests.get(run.source_language) or next(iter(tests.values()), "unknown")
    scoring = ", ".join(f"{key} {run.evaluate[key]}" for key in SCORING if run.evaluate.get(key) is not None)
    file = "" if run.task.file is None else f"task file {str(run.task.file.get('sha256'))[:6]}"
    test = f"test data {data[:6]}"
    parts = (f"version {run.task.version}", file, options, run.task.metrics[0], scoring, test)
    return ", ".join(part for part in parts if part)
