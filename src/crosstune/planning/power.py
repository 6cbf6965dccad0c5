"""How many examples, languages and seeds tell a difference between methods, before anything is run.

The standard error of a difference is put together from standard deviations: those measured in a store, or
those of the simulation in docs/statistics.md. A study that varies more needs more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from crosstune.analysis.predictions import Predictions
from crosstune.analysis.statistics.pairing import pair_predictions
from crosstune.analysis.statistics.power import detectable
from crosstune.analysis.statistics.spreads import Spreads, measured
from crosstune.analysis.statistics.welch import OWN, corrected
from crosstune.analysis.transfer import language_scores
from crosstune.errors import UserError
from crosstune.outputs.settings import EvaluateSettings
from crosstune.planning.plan import PlanGroup, StudyPlan
from crosstune.store.store import read_runs
from crosstune.study.entries import TaskEntry
from crosstune.study.spec import Study

ASSUMED = Spreads()
"""Where no results are at hand."""

SEEDS = (2, 3, 5, 8, 10)
EXAMPLES = (30, 100, 200, 500, 1000, 2000)


@dataclass(frozen=True)
class Design:
    """A study's size, and the difference in [0, 1] that it tells with 80% power; None beyond 100 points."""

    methods: int
    languages: int
    examples: int
    seeds: int
    spreads: Spreads = ASSUMED

    @property
    def tells(self) -> float | None:
        """The smallest true difference found among all pairs of methods, over languages like these."""
        sd, languages, n, seeds = self.spreads, self.languages, self.examples, self.seeds
        of_seeds = 2 * (sd.seed**2 + sd.seed_language**2 / languages) / seeds
        of_languages = sd.method_language**2 / languages
        of_examples = (sd.example**2 / languages + sd.shared**2) / n
        # Seeds' variance of a method: a third its own, the rest the mean over all (`SeedVariance.of`).
        weights = [OWN + 2 * (1 - OWN) / self.methods] * 2 + [2 * (1 - OWN) / self.methods] * (
            self.methods - 2
        )
        terms = (
            (of_seeds, 4 / sum(weight**2 for weight in weights) * (seeds - 1)),
            (of_languages, languages - 1),
            (of_examples, n - 1),
        )
        variance = sum(v for v, _ in terms)
        alone = round(of_languages**2 / max(languages - 1, 1) / sum(v**2 / max(k, 1) for v, k in terms), 1)
        df = corrected(variance, terms)
        smallest = float(detectable(sqrt(variance), df, methods=max(self.methods, 2), alone=alone))
        return smallest if smallest < 1 else None


def designs(methods: int, languages: int, wanted: float, spreads: Spreads = ASSUMED) -> list[Design]:
    """For each number of seeds the fewest examples a language that tell a difference; none where none do.

    Args:
        methods: How many are compared.
        languages: Target languages.
        wanted: In [0, 1].
        spreads: What scores vary by.
    """
    result = []
    for seeds in SEEDS:
        for examples in EXAMPLES:
            design = Design(methods, languages, examples, seeds, spreads)
            if design.tells is not None and design.tells <= wanted:
                result.append(design)
                break
    return result


def fewest_languages(
    methods: int, examples: int, seeds: int, wanted: float, spreads: Spreads = ASSUMED
) -> int | None:
    """How many languages tell a difference with so many examples and seeds; None where no number does."""
    for languages in (3, 5, 8, 12, 20, 35, 60, 100):
        tells = Design(methods, languages, examples, seeds, spreads).tells
        if tells is not None and tells <= wanted:
            return languages
    return None


def lines(
    methods: int,
    languages: int,
    examples: int | None,
    seeds: int,
    wanted: float,
    seconds: float | None,
    spreads: Spreads = ASSUMED,
    origin: str = "assumed",
) -> list[str]:
    """What a plan says: the study as it stands, then sizes that tell the difference, each with its cost.

    Args:
        methods: Methods of the study.
        languages: Target languages.
        examples: Of each language; None for all of a test set, taken to be 1,000.
        seeds: Of each method.
        wanted: The difference, in [0, 1].
        seconds: Estimated for the study as it stands; None where it is not known.
        spreads: What scores vary by.
        origin: Where these are from.
    """
    n = 1000 if examples is None else examples
    tells = None if seeds < 2 else Design(methods, languages, n, seeds, spreads).tells
    times = "1 seed" if seeds == 1 else f"{seeds} seeds"
    size = f"{methods} methods, {languages} target languages, {n:,} examples each, {times}"
    shown = "no difference between methods" if tells is None else f"{100 * tells:.1f} points"
    text = [f"as it stands ({size}): {shown} with 80% power, all pairs together"]
    fits = designs(methods, languages, wanted, spreads)
    points = f"{100 * wanted:g} points"
    for design in fits:
        cost = ""
        if seconds:
            hours = seconds * design.seeds / seeds / 3600
            cost = f", about {hours:.1f} h of runs at today's number of examples"
        rows = methods * design.seeds * languages * design.examples
        text.append(
            f"{points}: {design.seeds} seeds x {languages} languages x {design.examples:,} examples, "
            f"{rows:,} answers in all{cost}"
        )
    if not fits:
        text.append(f"{points}: not with {languages} languages, up to {SEEDS[-1]} seeds and 2,000 examples")
    enough = fewest_languages(methods, n, seeds, wanted, spreads) if seeds > 1 else None
    if enough is not None:
        text.append(f"{points}: with {seeds} seeds and {n:,} examples, {enough} languages are enough")
    text.append(
        f"{origin}: seeds move a mean by {100 * spreads.seed:.1f} points (SD), and one language by "
        f"{100 * spreads.seed_language:.1f} more; methods suit languages by "
        f"{100 * spreads.method_language:.1f}; a study that varies more needs more (docs/statistics.md)"
    )
    return text


def of_store(folder: Path, task: str) -> tuple[Spreads, str]:
    """Spreads measured in a store's results on a task (on all of its tasks, if that is not among them).

    Returns:
        The spreads, and where they are from in words.

    Raises:
        UserError: No store, or no two methods on one task in it.
    """
    runs = read_runs(folder)
    of_task = [run for run in runs if run.task.name == task] or runs
    reader = Predictions(folder)
    scores = language_scores(of_task, reader)
    paired = pair_predictions(scores, reader.to_pair(of_task))
    comparisons = [pair for pair in paired if pair.targets and len(pair.methods) > 1]
    if not comparisons:
        raise UserError(f"{folder}: no two methods have a target language in common to measure spreads by")
    spreads, missing = measured(comparisons)
    names = ", ".join(sorted({pair.task for pair in comparisons}))
    assumed = f", assumed for {' and '.join(missing).replace('_', ' x ')}" if missing else ""
    return spreads, f"measured in {folder} on {names}{assumed}"


def of_study(study: Study, planned: StudyPlan, wanted: float, store: Path | None = None) -> list[str]:
    """`lines` for each task of a study, with its name in front; with spreads measured in a store, if any.

    Raises:
        UserError: As `of_store`.
    """
    result = []
    for task in study.tasks:
        of_task = [entry for entry in study.combinations() if entry.task == task]
        targets = {code for entry in of_task for code in entry.languages[1:]}
        if len(targets) < 2 or len(of_task) < 2:
            result.append(
                f"{task.name}: two methods and two target languages are needed to tell a difference"
            )
            continue
        seconds = whole_seconds([group for group in planned.groups if group.task == task.name])
        evaluate = of_task[0].evaluate
        spreads, origin = (ASSUMED, "assumed") if store is None else of_store(store, task.name)
        on_passages = passages(task, sorted(targets)[0], evaluate)
        examples = evaluate.limit if on_passages is None else on_passages[0]
        known_sizes = len(of_task), len(targets), examples, len(study.seeds)
        sizes = lines(*known_sizes, wanted, seconds, spreads, origin)
        if on_passages is not None:
            sizes.insert(0, on_passages[1])
        result += [f"{task.name}: {line}" for line in sizes]
    return result


def passages(task: TaskEntry, language: str, evaluate: EvaluateSettings) -> tuple[int, str] | None:
    """On how many passages the examples of a language are, and a line that says so.

    None where each example is on its own, or the task's data cannot be read here.
    """
    try:
        chosen = evaluate.chosen(task.make().examples("test", language))
    except UserError:
        return None
    different = len({example.cluster or example.id for example in chosen})
    if different == len(chosen):
        return None
    line = (
        f"{len(chosen):,} examples of a language are on {different:,} passages, and count as so many below: "
        "those on one passage tell little more than one of them (evaluate.per_cluster: 1 takes one of each)"
    )
    return different, line


def whole_seconds(groups: Sequence[PlanGroup]) -> float | None:
    """Seconds of all runs, from the estimates of those that are left; None where one is not known."""
    sums = [
        None if group.seconds is None or not group.to_do else group.seconds * group.runs / group.to_do
        for group in groups
        if not group.refused
    ]
    known = [seconds for seconds in sums if seconds is not None]
    return sum(known) if len(known) == len(sums) else None
