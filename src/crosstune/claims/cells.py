"""The cells of a claim: one paired comparison of two methods for each model, task and group."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from crosstune.analysis.groups import family_order, group_of
from crosstune.analysis.predictions import Predictions, as_predictions
from crosstune.analysis.statistics.differences import Difference, by_language, difference
from crosstune.analysis.statistics.multiplicity import holm
from crosstune.analysis.statistics.pairing import PairedPredictions, pair_predictions
from crosstune.analysis.statistics.studentized import two_sided
from crosstune.claims import choose_runs as claim_runs
from crosstune.claims.choose_runs import NoRunsError, Setup
from crosstune.claims.file import LOWER_IS_BETTER, Claim, Pick
from crosstune.errors import did_you_mean
from crosstune.metrics.language_id import UNDECIDABLE
from crosstune.metrics.statistic import MEAN
from crosstune.store.record import RunRecord

# Verdicts use the test and its interval; bootstrap draws would take most of the time.
_tested = functools.partial(difference, draws=0)

Outcome = Literal["yes", "no", "open"]
ALPHA = 0.05
_OF_DIFFERENCE = ("difference", "low", "high", "detectable", "languages", "examples")


@dataclass(frozen=True)
class Cell:
    """One of the comparisons that decide a claim.

    Attributes:
        where: What distinguishes it from the claim's other cells, such as "xnli, Uralic".
        outcome: "yes" if the difference is significantly above the claim's threshold, "no" if significantly
            below, otherwise "open".
        why: Why it is open, unless only because of the interval.
        a: Label of the method the claim is about.
        b: Label of the other method.
        difference: Mean of a - b over languages, in [-1, 1]; null without data.
        low: Lower end of its 95% interval.
        high: Upper end.
        p: Two-sided, for a true difference equal to the threshold.
        p_holm: p after Holm correction over the claim's cells.
        detectable: Minimum detectable distance from the threshold, at 80% power.
        languages: Number of target languages.
        examples: Number of examples in all languages.
        seeds_a: Seeds of a.
        seeds_b: Seeds of b.
        runs: Ids of the compared runs.
    """

    where: str
    outcome: Outcome = "open"
    why: str = ""
    a: str = ""
    b: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    languages: int = 0
    examples: int = 0
    seeds_a: int = 0
    seeds_b: int = 0
    runs: tuple[str, ...] = ()


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
        self.setups = claim_runs.setups(runs, scores)
        self._source = {run.id: run.source_language for run in runs}
        self._identifier = {run.id: run.identifier for run in runs}
        self._predictions = as_predictions(predictions)
        self._rows: dict[str, pl.DataFrame] = {}
        self._paired: dict[tuple[Any, ...], PairedPredictions] = {}

    def paired(self, setups: Sequence[Setup], metric: str) -> PairedPredictions:
        """The examples shared by all runs of some setups, with one metric.

        Raises:
            NoRunsError: Some run has no such metric, or they share no example.
        """
        key = (
            metric,
            *sorted((setup.protocol, setup.setup) for setup in setups),
            setups[0].model,
            setups[0].task,
        )
        if key not in self._paired:
            ids = [run.id for setup in setups for run in setup.runs]
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
        scored = rows.select("run", "language", "example", value.alias("score"))
        return scored.filter(pl.col("score").is_not_null())


def cells_of(claim: Claim, evidence: Evidence) -> list[Cell]:
    """The tested cells of a claim; a cell without runs has no difference and gives the reason."""
    setups = claim_runs.of_claim(claim, evidence.setups)
    places = _places(claim, setups)
    several = [len({str(place[i]) for place in places}) > 1 for i in range(3)]
    result: list[Cell] = []
    for model, task, pick in places:
        parts = (model, task, str(pick))
        where = ", ".join(part for part, shown in zip(parts, several, strict=True) if shown and part)
        candidates = [setup for setup in setups if model in ("", setup.model) and task in ("", setup.task)]
        try:
            _need_runs(claim, pick, candidates, model, task)
            if claim.against is None:
                result.append(_varied(claim, pick, candidates, evidence, where))
            else:
                result += _compared(claim, pick, candidates, evidence, where)
        except NoRunsError as why:
            result.append(Cell(where, why=str(why)))
    return _corrected(result, claim.threshold)


def _places(claim: Claim, setups: Sequence[Setup]) -> list[tuple[str, str, Pick]]:
    """(model, task, method) of each set of cells.

    What a claim names must have runs; what it leaves open is filled with everything that has runs of both
    methods. An empty model or task stands for any, if there are no runs.
    """
    models: list[str] = []
    for wanted in claim.model or ():
        known = sorted({setup.model for setup in setups if claim_runs.same_model(wanted, setup.model)})
        models += known or [wanted]
    places = []
    for pick in claim.method:
        sides = [claim_runs.matching(side, setups) for side in (pick, claim.against) if side is not None]
        ran = set.intersection(*({(setup.model, setup.task) for setup in side} for side in sides))
        named: set[tuple[str, str]] = set()
        for model, task in itertools.product(models or [""], claim.task or [""]):
            named |= {run for run in ran if model in ("", run[0]) and task in ("", run[1])} or {(model, task)}
        places += [(model, task, pick) for model, task in sorted(named)]
    return places


def _need_runs(claim: Claim, pick: Pick, candidates: Sequence[Setup], model: str, task: str) -> None:
    """Report what is missing if a comparison has no runs; never compare across models."""
    place = "".join(f" {word} {name}" for word, name in (("on", task), ("with", model)) if name)
    kind = "" if not claim.zero_shot else "zero-shot "
    if not candidates:
        raise NoRunsError(f"no {kind}runs{place}")
    for side in (pick, claim.against):
        if side is not None and not claim_runs.matching(side, candidates):
            names = {setup.first.method.name for setup in candidates}
            hint = "" if side.name in names else did_you_mean(side.name, names)
            raise NoRunsError(f"no {kind}runs of {side}{place}{hint}")
    if not (model and task):
        raise NoRunsError("the two methods never ran on the same model and task")


def _compared(
    claim: Claim, pick: Pick, candidates: Sequence[Setup], evidence: Evidence, where: str
) -> list[Cell]:
    assert claim.against is not None
    a, b = claim_runs.pair(pick, claim.against, candidates)
    paired = evidence.paired((a, b), claim.metric)
    codes = _target_codes(claim, paired)
    short = _short_of_seeds(claim, paired, (a, b))
    base = Cell(where, a=a.label, b=b.label, runs=tuple(run.id for run in (*a.runs, *b.runs)))
    # "beats" on a rate of failures means fewer of them.
    first, second = (b, a) if claim.metric in LOWER_IS_BETTER else (a, b)
    by = claim.per
    if by is None or by == "model" or by == "task" or by == "method":  # noqa: PLR1714 - so that mypy narrows it
        tested = _tested(paired, first.label, second.label, codes)
        few = f"{counted(len(codes), 'target language')}, fewer than {claim.at_least}"
        why = few if len(codes) < claim.at_least else short
        return [_cell(base, tested, claim.threshold, why)]
    if by == "language":
        exact = by_language(paired, first.label, second.label, codes)
        p_zero = dict(exact.select("language", "p").iter_rows())
        return [
            _cell(
                replace(base, where=_joined(where, code)),
                _tested(paired, first.label, second.label, [code]),
                claim.threshold,
                short,
                p=p_zero[code] if claim.threshold == 0 else None,
            )
            for code in family_order(codes)
        ]
    groups: dict[str, list[str]] = {}
    for code in codes:
        groups.setdefault(group_of(code, by, paired.source), []).append(code)
    large = {name: group for name, group in groups.items() if len(group) >= claim.at_least}
    if not large or (len(large) < 2 and claim.quantifier != "some"):
        raise NoRunsError(
            f"{counted(len(large), by)} with {claim.at_least} target languages or more (of {len(groups)}): "
            f"{'one is' if claim.quantifier == 'some' else 'two are'} needed"
        )
    return [
        _cell(
            replace(base, where=_joined(where, name)),
            _tested(paired, first.label, second.label, large[name], language_effect="fixed"),
            claim.threshold,
            short,
        )
        for name in sorted(large)
    ]


def _varied(claim: Claim, pick: Pick, candidates: Sequence[Setup], evidence: Evidence, where: str) -> Cell:
    """Test whether any two values of a setting differ by more than the threshold."""
    assert claim.varies_with is not None
    setups = [setup for _, setup in claim_runs.variants(pick, claim.varies_with, candidates)]
    paired = evidence.paired(setups, claim.metric)
    codes = _target_codes(claim, paired)
    why = _short_of_seeds(claim, paired, setups)
    if len(codes) < claim.at_least:
        why = f"{counted(len(codes), 'target language')}, fewer than {claim.at_least}"
    pairs = []
    for one, other in itertools.combinations(setups, 2):
        tested = _tested(paired, one.label, other.label, codes)
        if tested.difference < 0:
            tested = _tested(paired, other.label, one.label, codes)
        pairs.append(tested)
    widest = max(pairs, key=lambda tested: tested.difference)
    runs = tuple(run.id for setup in setups for run in setup.runs)
    base = Cell(where, a=widest.a, b=widest.b, runs=runs)
    above = [_p(test, claim.threshold) if test.difference > claim.threshold else 1.0 for test in pairs]
    below = [_p(test, claim.threshold) if test.difference < claim.threshold else 1.0 for test in pairs]
    # One pair is enough to say that it varies (Bonferroni); that it does not, all pairs have to say.
    p = min(1.0, len(pairs) * min(above)) if widest.difference > claim.threshold else max(below)
    return _cell(base, widest, claim.threshold, why, p=p)


def _cell(base: Cell, tested: Difference, threshold: float, why: str, p: float | None = None) -> Cell:
    seeds = (tested.seeds_a, tested.seeds_b) if tested.a == base.a else (tested.seeds_b, tested.seeds_a)
    return replace(
        base,
        why=why,
        p=_p(tested, threshold) if p is None else p,
        seeds_a=seeds[0],
        seeds_b=seeds[1],
        **{name: getattr(tested, name) for name in _OF_DIFFERENCE},
    )


def _p(tested: Difference, threshold: float) -> float:
    """Two-sided p value for a true difference equal to the threshold."""
    if not tested.se > 0:
        return 1.0
    return float(two_sided((tested.difference - threshold) / tested.se, tested.df))


def _corrected(cells: list[Cell], threshold: float) -> list[Cell]:
    """The cells with their outcomes, after Holm correction over those with data."""
    adjusted = iter(holm([cell.p for cell in cells if cell.p is not None]))
    result = []
    for cell in cells:
        if cell.p is None or cell.difference is None:
            result.append(cell)
            continue
        p_holm, outcome = next(adjusted), cell.outcome
        if not cell.why and p_holm < ALPHA:
            outcome = "yes" if cell.difference > threshold else "no"
        result.append(replace(cell, p_holm=p_holm, outcome=outcome))
    return result


def _target_codes(claim: Claim, paired: PairedPredictions) -> list[str]:
    codes = [code for code in paired.targets if claim.languages is None or code in claim.languages]
    if not codes:
        raise NoRunsError("none of the claim's languages is among the target languages")
    return codes


def _short_of_seeds(claim: Claim, paired: PairedPredictions, setups: Iterable[Setup]) -> str:
    """What to say where a method that draws anything has fewer seeds than the claim wants."""
    for setup in setups:
        seeds = len(paired.seeds[setup.label])
        if setup.label not in paired.seedless and seeds < claim.seeds:
            return f"{counted(seeds, 'seed')} of {setup.label}, fewer than {claim.seeds}"
    return ""


def counted(count: int, what: str) -> str:
    """Such as "1 seed", "3 languages", "2 families"."""
    plural = {
        "family": "families",
        "branch": "branches",
        "resource": "resource classes",
        "seen_script": "kinds of script",
    }.get(what, f"{what}s")
    return f"{count:,} {what.replace('resource', 'resource class') if count == 1 else plural}"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
