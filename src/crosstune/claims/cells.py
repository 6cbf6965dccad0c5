"""The cells of a claim: one paired comparison of two methods for each model, task and group."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from crosstune.analysis.groups import family_order, group_of
from crosstune.analysis.statistics.differences import Difference, by_language
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.claims import choose_runs as claim_runs
from crosstune.claims.cell import Cell, corrected, counted
from crosstune.claims.choose_runs import NoRunsError, Setup
from crosstune.claims.evidence import Evidence
from crosstune.claims.fairness import FairPairs, effort, refuse_unequal
from crosstune.claims.file import LOWER_IS_BETTER, Claim, Pick
from crosstune.errors import did_you_mean

_OF_DIFFERENCE = ("difference", "low", "high", "detectable", "languages", "examples")


def cells_of(claim: Claim, evidence: Evidence) -> list[Cell]:
    """The tested cells of a claim; a cell without runs has no difference and gives the reason."""
    setups = claim_runs.of_claim(claim, evidence.setups)
    places = _places(claim, setups, evidence)
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
    return corrected(result, claim.quantifier, claim.threshold)


def _places(claim: Claim, setups: Sequence[Setup], evidence: Evidence) -> list[tuple[str, str, Pick]]:
    """(model, task, method) of each set of cells.

    What a claim names must have runs; what it leaves open is filled with everything that has runs of both
    methods, and the claim's metric. An empty model or task stands for any, if there are no runs.
    """
    if claim.task is None:
        setups = [setup for setup in setups if evidence.measures(setup, claim.metric)] or setups
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
    refuse_unequal(claim, pick, a, b)
    compared = evidence.comparison((a, b), claim.metric)
    paired = evidence.paired(compared, claim.metric)
    codes = _target_codes(claim, paired)
    tests = FairPairs(paired, compared, codes)
    held_out = tests.predictions(a.label, b.label)
    short = _short_of_seeds(claim, held_out, (a, b))
    runs = tuple(run.id for run in (*a.runs, *b.runs))
    base = Cell(where, a=a.label, b=b.label, effort=effort(a, b), runs=runs)
    # "beats" on a rate of failures means fewer of them.
    first, second = (b, a) if claim.metric in LOWER_IS_BETTER else (a, b)
    by = claim.per
    if by is None or by == "model" or by == "task" or by == "method":  # noqa: PLR1714 - so that mypy narrows it
        tested = tests.pair(first.label, second.label)
        few = f"{counted(len(codes), 'target language')}, fewer than {claim.at_least}"
        why = few if len(codes) < claim.at_least else short
        return [_cell(base, tested, claim.threshold, why)]
    if by == "language":
        tested = tests.pair(first.label, second.label)
        table = by_language(held_out, first.label, second.label, codes)
        names = ("difference", "low", "high", "se", "df", "detectable")
        result = []
        for code in family_order(codes):
            (row,) = table.filter(language=code).rows(named=True)
            in_it = replace(
                tested, methods=2, languages=1, examples=row["n"], **{name: row[name] for name in names}
            )
            cell = replace(base, where=_joined(where, code))
            result.append(
                _cell(cell, in_it, claim.threshold, short, row["p"] if claim.threshold == 0 else None)
            )
        return result
    groups: dict[str, list[str]] = {}
    for code in codes:
        groups.setdefault(group_of(code, by, paired.source), []).append(code)
    if len(groups) < 2 and claim.quantifier != "some":
        raise NoRunsError(f"1 {by} among the target languages: two are needed")
    result = []
    for name, group in sorted(groups.items()):
        cell = replace(base, where=_joined(where, name))
        if len(group) < claim.at_least:
            few = f"{counted(len(group), 'target language')} of {name}, fewer than {claim.at_least}"
            result.append(replace(cell, why=few))
            continue
        of_group = FairPairs(paired, compared, group, language_effect="fixed")
        tested = of_group.pair(first.label, second.label)
        result.append(_cell(cell, tested, claim.threshold, short))
    return result


def _varied(claim: Claim, pick: Pick, candidates: Sequence[Setup], evidence: Evidence, where: str) -> Cell:
    """Test whether any two values of a setting differ by more than the threshold."""
    assert claim.varies_with is not None
    setups = [setup for _, setup in claim_runs.variants(pick, claim.varies_with, candidates)]
    compared = evidence.comparison(setups, claim.metric)
    paired = evidence.paired(compared, claim.metric)
    codes = _target_codes(claim, paired)
    tests = FairPairs(paired, compared, codes)
    why = _short_of_seeds(claim, paired, setups)
    if len(codes) < claim.at_least:
        why = f"{counted(len(codes), 'target language')}, fewer than {claim.at_least}"
    pairs = []
    for one, other in itertools.combinations(setups, 2):
        tested = tests.pair(one.label, other.label)
        if tested.difference < 0:
            tested = tests.pair(other.label, one.label)
        pairs.append(tested)
    widest = max(pairs, key=lambda tested: tested.difference)
    runs = tuple(run.id for setup in setups for run in setup.runs)
    base = Cell(where, a=widest.a, b=widest.b, runs=runs)
    above = [_p(test, claim.threshold) if test.difference > claim.threshold else 1.0 for test in pairs]
    below = [_p(test, claim.threshold) if test.difference < claim.threshold else 1.0 for test in pairs]
    # One pair is enough to say that it varies, all are adjusted together; that it does not, all have to say.
    p = min(above) if widest.difference > claim.threshold else max(below)
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
    return tested.p_at(threshold) if tested.se > 0 else 1.0


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


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
