"""What a study would do: its runs, what is done, and what the rest is likely to cost. Loads no model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from crosstune.config import environment
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.budget import hint, solve
from crosstune.models.geometry import Geometry
from crosstune.models.loading.known import cheap_geometry, cheap_revision, geometry_for
from crosstune.planning import timings as measurements
from crosstune.planning.timings import Measured
from crosstune.store import store
from crosstune.store.record import Cost, Kind, RunRecord
from crosstune.study.entries import TaskEntry
from crosstune.study.runs import LAST_STEP, Run, expand
from crosstune.study.spec import Study

_LOOKED_AT = 5
"""Finished runs of a group whose cost is read."""


@dataclass(frozen=True)
class PlanGroup:
    """The runs of one model, task and method, seeds and searched rates together."""

    model: str  # as the study names it
    task: str  # its name
    method: str  # the label
    kind: str  # "result", "search" or "stage"
    parameters: int | None  # trained; None where the model's shape cannot be had without asking the network
    runs: int  # how many
    done: int  # of these, in the store
    failed: int  # of these, tried without success
    seconds: float | None  # estimated for the runs that are not done; None without anything to estimate from
    peak_bytes: int | None  # estimated memory; None likewise
    basis: str | None  # "finished runs", "calibration", or None
    # Whether the model is refused, or does not fit task and method: nothing of it can be made.
    refused: bool = False

    @property
    def to_do(self) -> int:
        """Runs that the next ``crosstune run`` would make, those that failed included."""
        return 0 if self.refused else self.runs - self.done


@dataclass(frozen=True)
class StudyPlan:
    """All groups of a study."""

    study: str  # its name
    store: Path  # where its results go
    device: str  # kind of device
    dtype: str  # of the frozen weights
    groups: list[PlanGroup]  # in the order they are run
    load_seconds: float  # estimated for loading the models that runs still need
    hints: list[str]  # one line for each method whose nearest size is not near its budget
    # One line for each finished run whose record cannot be read; ``crosstune run`` makes it again.
    broken: list[str]
    # Why runs cannot be made, one line for each model, or for what of a task does not fit it.
    refused: list[str]

    @property
    def runs(self) -> int:
        """Of the whole study."""
        return sum(group.runs for group in self.groups)

    @property
    def done(self) -> int:
        """Runs in the store."""
        return sum(group.done for group in self.groups)

    @property
    def failed(self) -> int:
        """Runs tried without success."""
        return sum(group.failed for group in self.groups)

    @property
    def unknown(self) -> int:
        """Runs to do that nothing is known of."""
        return sum(group.to_do for group in self.groups if group.seconds is None)

    @property
    def seconds(self) -> float:
        """Estimated for all that is known of what is left."""
        return self.load_seconds + sum(group.seconds or 0.0 for group in self.groups)

    @property
    def peak_bytes(self) -> int | None:
        """Largest of the groups that are not done."""
        return max((g.peak_bytes for g in self.groups if g.to_do and g.peak_bytes), default=None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the totals, and one entry a group."""
        names = ("runs", "done", "failed", "unknown", "seconds", "peak_bytes")
        totals = {name: getattr(self, name) for name in names}
        groups = [asdict(group) | {"to_do": group.to_do} for group in self.groups]
        return vars(self) | totals | {"store": str(self.store), "groups": groups}


def plan_study(study: Study) -> StudyPlan:
    """Look at a study and its store.

    Raises:
        UserError: As `crosstune.study.runs.expand`.
    """
    environment.check()
    runs = expand(study)
    records, broken = _records(study.folder, [run.id for run in runs])
    done = set(records)
    failed = {file.stem for file in (study.folder / ".failed").glob("*.json")} - done
    measured = {run.model: _measured(run) for run in {run.model: run for run in runs}.values()}
    seeds = {run.id: run.seed for run in runs}
    grouped: dict[tuple[Any, ...], list[Run]] = {}
    tasks: list[TaskEntry] = []
    for run in runs:
        if run.task not in tasks:
            tasks.append(run.task)
        grouped.setdefault((run.model, tasks.index(run.task), run.label, run.kind), []).append(run)
    related: dict[tuple[Any, ...], list[tuple[Kind, Cost]]] = {}
    for (model, task, label, _), members in grouped.items():
        finished = [records[run.id] for run in members if run.id in done][:_LOOKED_AT]
        related.setdefault((model, task, label), []).extend((record.kind, record.cost) for record in finished)
    refused = list(dict.fromkeys(run.refused for run in runs if run.refused is not None))
    loadable = list(dict.fromkeys(run.model for run in runs if run.refused is None))
    shapes = {model: cheap_geometry(model) if model in loadable else None for model in study.models}
    groups = [
        _group(members, done, failed, seeds, shapes[key[0]], measured[key[0]], related[key[:3]])
        for key, members in grouped.items()
    ]
    needed = {group.model for group in groups if group.to_do}
    loads = [known.load_seconds for model in needed if (known := measured[model]) is not None]
    first = runs[0]
    facts = (study.name, study.folder, first.device, first.dtype)
    hints = _hints(study, loadable)
    return StudyPlan(*facts, groups, sum(loads), hints, broken, refused)


def _hints(study: Study, models: Sequence[str]) -> list[str]:
    hints: dict[str, None] = {}  # a grid may make several entries of one size
    for model in models:
        for entry in study.methods:
            if (budget := entry.budget_of(study.budget)) is None:
                continue
            geometry = geometry_for(model)
            solved = solve(entry.name, entry.config, geometry, budget)
            if solved is not None and (text := hint(entry.name, solved, geometry)) is not None:
                hints[f"{model}, {entry.name}: {text}"] = None
    return list(hints)


def _group(
    runs: Sequence[Run],
    done: set[str],
    failed: set[str],
    seeds: Mapping[str, int],
    geometry: Geometry | None,
    measured: Measured | None,
    costs: Sequence[tuple[Kind, Cost]],
) -> PlanGroup:
    first = runs[0]
    left = [run for run in runs if run.id not in done]
    estimate = _from_finished(first, costs)
    if estimate is None and measured is not None:
        estimate = _from_measured(first, measured)
    # A result of the search's own seed takes the weights that the search has trained at the chosen rate.
    trained = sum(run.search is None or seeds[run.search.runs[0]] != run.seed for run in left)
    seconds = 0.0 if not left else None
    if left and estimate is not None:
        seconds = estimate.train_seconds * trained + estimate.evaluate_seconds * len(left)
    return PlanGroup(
        model=first.model,
        task=first.task.name,
        method=first.label,
        kind=first.kind,
        parameters=None
        if geometry is None or first.refused is not None
        else METHODS[first.method].count(first.config, geometry),
        runs=len(runs),
        done=len(runs) - len(left),
        failed=sum(run.id in failed for run in left),
        seconds=seconds,
        peak_bytes=None if estimate is None else estimate.peak_bytes,
        basis=None if estimate is None else estimate.basis,
        refused=first.refused is not None,
    )


@dataclass(frozen=True)
class Estimate:
    """What one run of a group is likely to cost."""

    train_seconds: float
    evaluate_seconds: float
    peak_bytes: int | None
    basis: str


def _from_finished(run: Run, costs: Sequence[tuple[Kind, Cost]]) -> Estimate | None:
    """One run's cost, from finished ones of the same model, task and method."""
    train = [cost.train_seconds for _, cost in costs if cost.train_seconds]
    answer = [cost.evaluate_seconds or 0.0 for kind, cost in costs if kind == "result"]
    if (run.train is not None and not train) or (run.kind == "result" and not answer):
        return None
    return Estimate(
        fmean(train) if run.train is not None else 0.0,
        fmean(answer) if run.languages else 0.0,
        max(cost.peak_memory_bytes or 0 for _, cost in costs) or None,
        "finished runs",
    )


def _from_measured(run: Run, measured: Measured) -> Estimate | None:
    """One run's cost, from calibration."""
    training, answering, peaks = 0.0, 0.0, []
    answer = measured.answers.get(
        measurements.answer_key(run), {"seconds": 0.0} if run.kind == "stage" else None
    )
    if answer is None:
        return None
    if run.train is not None:
        step = measured.steps.get(measurements.step_key(run))
        if step is None:
            return None
        total = run.train.total_steps(step["examples"])
        training = total * step["seconds"]
        if run.train.evaluate_every is not None:
            every = min(run.train.evaluate_every, LAST_STEP)
            training += -(-total // every) * step["dev"] * answer["seconds"]
        peaks.append(step["peak_bytes"])
    if run.kind == "result":
        examples = measured.tests.get(measurements.test_key(run))
        if examples is None:
            return None
        answering = examples * answer["seconds"]
        peaks.append(answer["peak_bytes"])
    return Estimate(training, answering, max(peaks), "calibration")


def _measured(run: Run) -> Measured | None:
    try:
        revision = cheap_revision(run.model)
    except UserError:
        revision = None  # a damaged folder is for `run` to complain of
    return measurements.read(run, revision)


def _records(folder: Path, run_ids: Sequence[str]) -> tuple[dict[str, RunRecord], list[str]]:
    """The records of finished runs, and a line for each that cannot be read."""
    records, broken = {}, []
    for run_id in sorted(store.finished(folder).intersection(run_ids)):
        try:
            records[run_id] = RunRecord.read(folder / run_id / store.RUN)
        except UserError as error:
            wrong = str(error).partition(";")[0]
            broken.append(f"{wrong}; crosstune run sets the run aside and makes it again")
    return records, broken
