"""Predictions paired example by example, as paired tests and bootstraps need them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crosstune.analysis.groups import UNKNOWN, group_of
from crosstune.analysis.statistics.clusters import units
from crosstune.analysis.transfer import COMPARISON, comparable
from crosstune.data.forms import statistic_of
from crosstune.errors import UserError, did_you_mean
from crosstune.metrics.statistic import MEAN, Statistic

FEWEST_ANSWERS = 50
"""Of a method on average: with fewer right or fewer wrong ones a mean is too rare an event to test."""
FEWEST_UNITS = 10
"""Independent examples, or passages: fewer do not tell how much others would vary."""

Counts = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PairedPredictions:
    """Scores of one comparison (model, task, protocol), paired example by example."""

    model: str  # as in the runs
    task: str  # as in the runs
    protocol: str  # what the runs share; see `crosstune.analysis.transfer`
    source: str  # source language
    # Labels, unique inside the comparison (column ``method`` of ``language_scores``), sorted.
    methods: list[str]
    # Codes that every run of the comparison was scored on, sorted; the source where it is one.
    languages: list[str]
    offsets: NDArray[np.int64]  # [languages + 1]; language i has the columns ``offsets[i]:offsets[i + 1]``
    # [columns]; example ids, sorted inside a language. Parallel tasks share ids across languages.
    examples: NDArray[np.object_]
    # Method to float32 [seeds, columns], whose mean over a language's columns is its score: the examples'
    # scores, in [0, 1], or of a score that is no mean, `Statistic.per_example`.
    scores: dict[str, NDArray[np.float32]]
    seeds: dict[str, tuple[int, ...]]  # method to the seeds of its rows, ascending
    # Methods that no seed changes; their one row stands for every seed.
    seedless: frozenset[str] = frozenset()
    statistic: Statistic = MEAN  # what a score of many examples is
    # Where that is no mean: method to float32 [seeds, columns, columns of the statistic].
    counts: dict[str, Counts] = field(default_factory=dict)
    # [columns]; a number that examples share which are not independent, such as those on one passage
    # (`crosstune.analysis.statistics.clusters`); None where each is on its own.
    clusters: NDArray[np.int64] | None = None
    # Language to its family; one that is missing is a family of its own.
    families: dict[str, str] = field(default_factory=dict)

    def summed(self, method: str) -> Counts:
        """[seeds, columns, columns of the statistic]; what a method's score is made of."""
        return self.counts[method] if self.counts else self.scores[method][..., None]

    @property
    def targets(self) -> list[str]:
        """The languages without the source."""
        return [code for code in self.languages if code != self.source]

    @cached_property
    def unit_codes(self) -> NDArray[np.int64]:
        """[columns]; a number for each independent unit (example or cluster), the same in all languages."""
        if self.clusters is not None:
            return self.clusters
        return np.unique(self.examples, return_inverse=True)[1].astype(np.int64)

    def without(self, seeds: Mapping[str, Collection[int]]) -> "PairedPredictions":
        """Without these seeds of methods; a method that would be left with none keeps its own."""
        kept = {
            method: [row for row, seed in enumerate(known) if seed not in seeds.get(method, ())]
            or list(range(len(known)))
            for method, known in self.seeds.items()
        }
        return replace(
            self,
            scores={method: rows[kept[method]] for method, rows in self.scores.items()},
            seeds={method: tuple(known[row] for row in kept[method]) for method, known in self.seeds.items()},
            counts={method: rows[kept[method]] for method, rows in self.counts.items()},
        )

    def places(self, languages: Sequence[str] | None = None) -> list[int]:
        """Indices of languages, each once; of all targets for None.

        Raises:
            UserError: There are none, or one is not in the comparison.
        """
        wanted = self.targets if languages is None else list(dict.fromkeys(languages))
        if not wanted:
            raise UserError(
                f"{self.model}, {self.task}: no target language has examples that every run was scored on"
            )
        for code in wanted:
            if code not in self.languages:
                raise UserError(
                    f'{self.model}, {self.task}: not every run has the language "{code}"'
                    f"{did_you_mean(code, self.languages)}"
                )
        return [self.languages.index(code) for code in wanted]

    def few_units(self, languages: Sequence[str] | None = None) -> str:
        """Whether these languages have too few independent examples for any interval; "" if not."""
        units = len(np.unique(self.unit_codes[self._columns(languages)]))
        what = "example" if self.clusters is None else "passage"
        few = f"{units} independent {what}{'' if units == 1 else 's'}, fewer than {FEWEST_UNITS}"
        if self.clusters is not None:
            few += " (evaluate.per_cluster: 1 tests one question on each)"
        return few if units < FEWEST_UNITS else ""

    def _columns(self, languages: Sequence[str] | None) -> NDArray[np.int64]:
        places = self.places(languages)
        return np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in places])

    def not_enough_data(self, methods: Sequence[str], languages: Sequence[str] | None = None) -> str:
        """Why methods are not tested in these languages: too few answers or examples; "" if they are.

        Without a difference they share one rate, which their answers together estimate: a method without a
        wrong answer can be told from one with hundreds. Right-or-wrong and graded scores count as that many
        right answers, seeds averaged.
        """
        columns = self._columns(languages)
        answers = len(columns) * len(methods)
        right = sum(
            float(self.scores[self.known(method)][:, columns].mean(axis=0).sum()) for method in methods
        )
        fewest = FEWEST_ANSWERS * len(methods)
        for kind, count in (("right", right), ("wrong", answers - right)):
            if self.statistic == MEAN and count < fewest:
                shown = f"{count:.0f} {kind} answer{'' if round(count) == 1 else 's'}"
                return f"{shown} of {' and '.join(methods)}, fewer than {fewest}"
        return self.few_units(languages)

    def known(self, method: str) -> str:
        """The method's label.

        Raises:
            UserError: The comparison has no such method.
        """
        if method not in self.scores:
            raise UserError(
                f'{self.model}, {self.task}: no method "{method}"{did_you_mean(method, self.methods)}'
            )
        return method


def pair_predictions(
    scores: pl.DataFrame, predictions: pl.DataFrame, statistic: Statistic | None = None
) -> list[PairedPredictions]:
    """Pair the predictions of every comparison, example by example.

    An example counts where every run of the comparison was scored on it, found by language and example id.

    Args:
        scores: From `crosstune.analysis.transfer.language_scores` of these predictions; it has checked them.
        predictions: One row an example, with columns run, language, example, those of the statistic, and
            where examples are not independent ``cluster``.
        statistic: What a score of many examples is; that of the answers' form by default.

    Returns:
        One for each model, task and protocol, sorted by these; none for a comparison whose runs share no
        example.
    """
    common = comparable(scores)
    wanted = common.select(*COMPARISON, "run", "language").unique()
    names = {
        name: predictions[name].unique().cast(pl.String).sort() for name in ("run", "language", "example")
    }
    # Numbered in the order of their names, so that columns come out the same whatever the order of rows.
    run, language, example = (
        predictions[name].cast(pl.Enum(entries)).to_physical().to_numpy().astype(np.int64)
        for name, entries in names.items()
    )
    number = {name: {text: i for i, text in enumerate(names[name])} for name in ("run", "language")}
    ids = names["example"].to_numpy().astype(object)
    clusters = predictions["cluster"].cast(pl.String) if "cluster" in predictions.columns else None
    order = np.argsort(run, kind="stable")
    bounds = np.searchsorted(run[order], np.arange(len(names["run"]) + 1))
    comparisons = []
    for key, part in wanted.sort(COMPARISON).group_by(COMPARISON, maintain_order=True):
        runs = part["run"].unique().sort().to_list()
        codes = sorted(part["language"].unique().to_list())
        place = np.full(len(names["language"]), -1, dtype=np.int64)
        place[[number["language"][code] for code in codes]] = np.arange(len(codes))
        form, measure, sums = common.filter(run=runs[0]).select("form", "measure", "sums").row(0)
        used = statistic_of(form, measure, sums) if statistic is None else statistic
        values = predictions.select(pl.col(used.columns).cast(pl.Float32)).to_numpy()
        keys: dict[str, tuple[NDArray[np.int64], Counts]] = {}
        cluster: dict[int, str] = {}
        shared: NDArray[np.int64] | None = None
        for run_id in runs:
            rows = order[bounds[number["run"][run_id]] : bounds[number["run"][run_id] + 1]]
            language_place = place[language[rows]]
            rows, language_place = rows[language_place >= 0], language_place[language_place >= 0]
            packed = language_place * len(ids) + example[rows]
            by_key = np.argsort(packed, kind="stable")
            keys[run_id] = packed[by_key], values[rows[by_key]]
            if clusters is not None and not cluster:
                names_of = clusters.gather(rows).to_list()
                cluster = {key: name for key, name in zip(packed, names_of, strict=True) if name is not None}
            # Most often the same in all runs, which is told faster than what two sets share.
            if shared is None or not np.array_equal(shared, packed[by_key]):
                pairs = packed[by_key]
                shared = pairs if shared is None else np.intersect1d(shared, pairs, assume_unique=True)
        if shared is None or not shared.size:
            continue
        paired = _paired(key, common, runs, codes, keys, shared, ids, used)
        comparisons.append(replace(paired, clusters=_clusters(paired, [cluster.get(k) for k in shared])))
    return comparisons


def _paired(
    key: tuple[object, ...],
    scores: pl.DataFrame,
    runs: list[str],
    codes: list[str],
    keys: dict[str, tuple[NDArray[np.int64], Counts]],
    shared: NDArray[np.int64],
    ids: NDArray[np.object_],
    statistic: Statistic,
) -> PairedPredictions:
    facts = (
        scores.filter(pl.col("run").is_in(runs))
        .select("run", "method", "random", "seed", "source_language")
        .unique()
        .sort("method", "seed", "run")
    )
    language, example = np.divmod(shared, len(ids))
    present = np.unique(language)
    counts = np.bincount(language, minlength=len(codes))[present]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    table: dict[str, list[Counts]] = {}
    seeds: dict[str, list[int]] = {}
    for run_id, method, seed in facts.select("run", "method", "seed").iter_rows():
        rows, values = keys[run_id]
        row = values if len(rows) == len(shared) else values[np.searchsorted(rows, shared)]
        table.setdefault(method, []).append(row)
        seeds.setdefault(method, []).append(seed)
    summed = {method: np.stack(values) for method, values in table.items()}
    mean = statistic == MEAN
    per_example = {
        method: values[..., 0] if mean else _per_example(values, offsets, statistic)
        for method, values in summed.items()
    }
    untouched = facts.filter(~pl.col("random"))["method"]
    return PairedPredictions(
        model=str(key[0]),
        task=str(key[1]),
        protocol=str(key[2]),
        source=facts["source_language"][0],
        methods=list(table),
        languages=[codes[i] for i in present],
        offsets=offsets,
        examples=ids[example],
        scores=per_example,
        seeds={method: tuple(entries) for method, entries in seeds.items()},
        seedless=frozenset(untouched),
        statistic=statistic,
        counts={} if mean else summed,
        families={code: name for code in codes if (name := group_of(code, "family")) != UNKNOWN},
    )


def _clusters(paired: PairedPredictions, named: list[str | None]) -> NDArray[np.int64] | None:
    """The independent units of a comparison's columns, where some have several examples."""
    if paired.task == "belebele" and not any(named):
        # A question's id is its passage's link and a number: stores without the column tell it, too.
        named = [str(name).rpartition("#")[0] or None for name in paired.examples]
    if not any(named):
        return None
    language = np.repeat(np.arange(len(paired.languages)), np.diff(paired.offsets))
    return units(language, paired.unit_codes, np.array(named, dtype=object))


def _per_example(counts: Counts, offsets: NDArray[np.int64], statistic: Statistic) -> NDArray[np.float32]:
    of_language = np.split(counts.astype(np.float64), offsets[1:-1], axis=1)
    return np.concatenate([statistic.per_example(part) for part in of_language], axis=1).astype(np.float32)
