"""The cells of a claim: one paired comparison of two methods for each model, task and group."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from crosstune.analysis.answers import ALIKE
from crosstune.analysis.groups import family_order, group_of
from crosstune.analysis.statistics.differences import Difference, by_language
from crosstune.analysis.statistics.estimand import Estimand
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.power import detectable
from crosstune.analysis.statistics.spread import combined
from crosstune.analysis.statistics.variance import LanguageEffect, near_chance
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
            if claim.than_on is not None:
                result.append(_across_tasks(claim, pick, candidates, evidence, model, where))
                continue
            _need_runs(claim, pick, candidates, model, task)
            if claim.against is None:
                result.append(_varied(claim, pick, candidates, evidence, where))
            else:
                result += _compared(claim, pick, candidates, evidence, where)
        except NoRunsError as why:
            result.append(Cell(where, why=str(why)))
    return corrected(result, claim.quantifier)


def _places(claim: Claim, setups: Sequence[Setup], evidence: Evidence) -> list[tuple[str, str, Pick]]:
    """(model, task, method) of each set of cells.

    What a claim names must have runs; what it leaves open is filled with everything that has runs of both
    methods, and the claim's metric. An empty model or task stands for any, if there are no runs, and an empty
    task for all that a claim compares with each other.
    """
    if claim.task is None:
        setups = [setup for setup in setups if evidence.measures(setup, claim.metric)] or setups
    models: list[str] = []
    for name in claim.model or ():
        matching = {setup.model for setup in setups if claim_runs.same_model(name, setup.model)}
        models += sorted(matching) or [name]
    places = []
    for pick in claim.method:
        sides = [claim_runs.matching(side, setups) for side in (pick, claim.against) if side is not None]
        have_runs = set.intersection(*({(setup.model, setup.task) for setup in side} for side in sides))
        chosen: set[tuple[str, str]] = set()
        for model, task in itertools.product(models or [""], claim.task or [""]):
            fitting = {pair for pair in have_runs if model in ("", pair[0]) and task in ("", pair[1])}
            chosen |= fitting or {(model, task)}
        if claim.than_on is not None:
            chosen = {(model, "") for model, _ in chosen}
        places += [(model, task, pick) for model, task in sorted(chosen)]
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


@dataclass(frozen=True)
class _Pair:
    """Two setups of one model and task, with all they are compared among."""

    claim: Claim
    a: Setup
    b: Setup
    compared: dict[str, Setup]
    paired: PairedPredictions
    left_out: list[str]
    alike: bool  # all answers of one side are the other's

    @property
    def sides(self) -> tuple[str, str]:
        """Labels, so that their difference is positive where the claim's method is better."""
        less = self.claim.metric in LOWER_IS_BETTER or self.claim.quantity == "gap"
        return (self.b.label, self.a.label) if less else (self.a.label, self.b.label)

    def tests(
        self, of: Estimand, language_effect: LanguageEffect = "random", *, small: bool = False
    ) -> FairPairs:
        """All pairs by one quantity."""
        if of.quantity == "relative" and (why := near_chance(self.paired, self.sides, of.chance)):
            raise NoRunsError(why)
        return FairPairs(self.paired, self.compared, of, language_effect=language_effect, small=small)

    def cell(self, where: str, why: str = "") -> Cell:
        """An empty cell of these runs."""
        notes = [f"{self.a.label} and {self.b.label} {ALIKE}"] if self.alike else []
        if self.left_out:
            left_out = ", ".join(self.left_out)
            notes.append(f"without {left_out}, not run in all these languages: tables have fewer")
        runs = tuple(run.id for run in (*self.a.runs, *self.b.runs))
        return Cell(
            where,
            why=why,
            a=self.a.label,
            b=self.b.label,
            effort=effort(self.a, self.b),
            note="; ".join(notes),
            runs=runs,
        )


def _pair(claim: Claim, pick: Pick, candidates: Sequence[Setup], evidence: Evidence) -> _Pair:
    assert claim.against is not None
    a, b = claim_runs.pair(pick, claim.against, candidates)
    refuse_unequal(claim, pick, a, b)
    compared = evidence.comparison((a, b), claim.metric)
    paired = evidence.paired(compared, claim.metric)
    if claim.quantity != "mean" and paired.source not in paired.languages:
        raise NoRunsError(
            f"not every run was scored in {paired.source}, from which the {claim.quantity} is taken"
        )
    left_out = evidence.left_out((a, b), compared)
    return _Pair(claim, a, b, compared, paired, left_out, evidence.answer_alike((a, b)))


def _compared(
    claim: Claim, pick: Pick, candidates: Sequence[Setup], evidence: Evidence, where: str
) -> list[Cell]:
    pair = _pair(claim, pick, candidates, evidence)
    codes = _target_codes(claim, pair.paired)
    estimand = _estimand(claim, codes)
    tests = pair.tests(estimand)
    held_out = tests.predictions(*pair.sides)
    too_few_seeds = _short_of_seeds(claim, held_out, (pair.a, pair.b))
    by = claim.per
    if by is None or by == "model" or by == "task" or by == "method":  # noqa: PLR1714 - so that mypy narrows it
        why = _few_languages(claim, estimand) or too_few_seeds
        return [_cell(pair.cell(where, why), tests.pair(*pair.sides), claim)]
    if by == "language":
        tested = tests.pair(*pair.sides)
        table = by_language(held_out, *pair.sides, codes)
        names = ("difference", "low", "high", "se", "df", "detectable")
        result = []
        for code in family_order(codes):
            (row,) = table.filter(language=code).rows(named=True)
            changed = {name: row[name] for name in names} | {"languages": 1, "examples": row["n"]}
            of_language = replace(tested, methods=2, not_enough_data="", **changed)
            cell = pair.cell(_joined(where, code), too_few_seeds)
            result.append(_cell(cell, of_language, claim, row["p"] if claim.threshold == 0 else None))
        return result
    groups: dict[str, list[str]] = {}
    for code in codes:
        groups.setdefault(group_of(code, by, pair.paired.source), []).append(code)
    if len(groups) < 2 and claim.quantifier != "some":
        raise NoRunsError(f"1 {by} among the target languages: two are needed")
    result = []
    for name, group in sorted(groups.items()):
        where_in = _joined(where, name)
        if len(group) < claim.at_least:
            too_few = f"{counted(len(group), 'target language')} of {name}, fewer than {claim.at_least}"
            result.append(pair.cell(where_in, too_few))
            continue
        tested = pair.tests(_estimand(claim, group), "fixed", small=True).pair(*pair.sides)
        result.append(_cell(pair.cell(where_in, too_few_seeds), tested, claim))
    return result


def _across_tasks(
    claim: Claim, pick: Pick, candidates: Sequence[Setup], evidence: Evidence, model: str, where: str
) -> Cell:
    """Whether the lead is larger on some tasks than on others, each of which has the same weight."""
    terms: list[tuple[float, Difference]] = []
    cells: list[Cell] = []
    for sign, tasks in ((1, claim.task or ()), (-1, claim.than_on or ())):
        for task in tasks:
            of_task = [setup for setup in candidates if setup.task == task]
            _need_runs(claim, pick, of_task, model, task)
            pair = _pair(claim, pick, of_task, evidence)
            estimand = _estimand(claim, _target_codes(claim, pair.paired))
            tests = pair.tests(estimand)
            too_few_seeds = _short_of_seeds(claim, tests.predictions(*pair.sides), (pair.a, pair.b))
            terms.append((sign / len(tasks), tests.pair(*pair.sides)))
            cells.append(pair.cell(where, _few_languages(claim, estimand) or too_few_seeds))
    spread = combined([(weight, tested.spread) for weight, tested in terms])
    methods = max(tested.methods for _, tested in terms)
    low, high = spread.interval(methods=methods)
    smallest = float(detectable(spread.se, spread.df, methods=methods))
    first = terms[0][1]
    over_tasks = replace(
        first,
        difference=spread.difference,
        low=low,
        high=high,
        se=spread.se,
        df=spread.df,
        methods=methods,
        not_enough_data=next((tested.not_enough_data for _, tested in terms if tested.not_enough_data), ""),
        detectable=smallest if smallest <= spread.most else None,
        languages=min(tested.languages for _, tested in terms),
        examples=sum(tested.examples for _, tested in terms),
    )
    runs = tuple(dict.fromkeys(run for cell in cells for run in cell.runs))
    why = next((cell.why for cell in cells if cell.why), "")
    return _cell(replace(cells[0], why=why, runs=runs), over_tasks, claim)


def _estimand(claim: Claim, codes: Sequence[str]) -> Estimand:
    """What a claim compares of each method, over these target languages."""
    if claim.more_in is None:
        return Estimand(claim.quantity, codes, chance=claim.chance / 100)
    inside = [code for code in codes if code in claim.more_in]
    than = [code for code in codes if code not in inside and code in (claim.than_in or codes)]
    if not (inside and than):
        raise NoRunsError(
            "of the two groups of languages that the claim compares, one has no target language"
        )
    return Estimand("contrast", inside, than)


def _few_languages(claim: Claim, estimand: Estimand) -> str:
    """What to say where a mean is over fewer languages than the claim wants."""
    fewest = min(len(codes) for codes in (estimand.languages or (), estimand.versus) if codes)
    return (
        f"{counted(fewest, 'target language')}, fewer than {claim.at_least}"
        if fewest < claim.at_least
        else ""
    )


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
    for first, second in itertools.combinations(setups, 2):
        tested = tests.pair(first.label, second.label)
        if tested.difference < 0:
            tested = tests.pair(second.label, first.label)
        pairs.append(tested)
    widest = max(pairs, key=lambda tested: tested.difference)
    runs = tuple(run.id for setup in setups for run in setup.runs)
    base = Cell(where, why=why, a=widest.a, b=widest.b, runs=runs)
    above = [_p(test, claim.threshold) if test.difference > claim.threshold else 1.0 for test in pairs]
    below = [_p(test, claim.threshold) if test.difference < claim.threshold else 1.0 for test in pairs]
    # One pair is enough to say that it varies, all are adjusted together; that it does not, all have to say.
    p = min(above) if widest.difference > claim.threshold else max(below)
    return _cell(base, widest, claim, p)


def _cell(base: Cell, tested: Difference, claim: Claim, p: float | None = None) -> Cell:
    seeds = (tested.seeds_a, tested.seeds_b) if tested.a == base.a else (tested.seeds_b, tested.seeds_a)
    threshold = claim.threshold
    size = abs(tested.difference) if claim.equals is not None else tested.difference
    if tested.not_enough_data:
        base, p = replace(base, why=base.why or tested.not_enough_data), None
    elif p is None:
        # Of a margin on both sides, the p values of two one-sided tests; doubled, as all are two-sided.
        ends = (threshold, -threshold) if claim.equals is not None else (threshold,)
        p = max(_p(tested, end) for end in ends)
    return replace(
        base,
        holds=size < threshold if claim.equals is not None else size > threshold,
        p=p,
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
