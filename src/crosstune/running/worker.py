"""What one process does for a study: run whatever no other process has locked, until nothing is left.

A run is done with when the store holds its result or its failure. Runs go model by model and task by task,
so that each model is loaded once and each task's data is read once.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from crosstune.errors import UserError
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.known import cheap_revision
from crosstune.running.earlier.stages import FinishedStages, weights_digest
from crosstune.running.execute import LoadedModel, execute, load_for
from crosstune.running.progress import Display
from crosstune.running.recording import fingerprints
from crosstune.running.resume.locks import RunLocks
from crosstune.running.task_data import TaskData, read_for
from crosstune.running.watch.energy import Meter
from crosstune.running.watch.trackers import Trackers
from crosstune.store import failures
from crosstune.store import store as stored
from crosstune.store.record import RunRecord
from crosstune.study.entries import TaskEntry
from crosstune.study.runs import Run, resolve
from crosstune.study.spec import Study
from crosstune.training import parallel

POLL = 1.0
"""Seconds between looks at what other processes have finished."""


@dataclass
class Worker:
    """Makes a process's share of a study's runs."""

    study: Study
    runs: Sequence[Run]  # all its runs; stages and search runs come before those that need them
    # Records of the runs that the store holds, whichever process made them.
    finished: dict[str, RunRecord] = field(default_factory=dict)
    # What went wrong, by id, of the runs that failed, now or before.
    failed: dict[str, str] = field(default_factory=dict)
    diverged: set[str] = field(default_factory=set)  # ids of those of them whose training diverged
    done: list[str] = field(default_factory=list)  # ids of the runs made by this process
    # What kept whole groups of runs from being tried: a model that cannot be loaded, missing data.
    causes: list[UserError] = field(default_factory=list)
    _model: tuple[str, LoadedModel] | None = None
    _data: tuple[TaskEntry, TaskData] | None = None
    _remarked: set[str] = field(default_factory=set)  # tasks whose data was remarked on

    def __post_init__(self) -> None:
        self.store = self.study.folder
        self.locks = RunLocks(self.store)
        self.by_id = {run.id: run for run in self.runs}
        # Text first: what stages train on.
        text = [run.task for run in self.runs if run.kind == "stage"]
        self.tasks = [entry for i, entry in enumerate(text) if entry not in text[:i]] + [*self.study.tasks]

    # --- before any run ----------------------------------------------------------------

    def read_store(self, retry_failed: bool, say: Callable[[str], None]) -> None:
        """Read what the store holds. Damaged runs are set aside; failed ones wait for ``retry_failed``."""
        stored_ids = stored.finished(self.store)
        for run in self.runs:
            if run.id in stored_ids:
                self._read(run, say)
        for run_id, failure in failures.read(self.store).items():
            if run_id not in self.by_id or run_id in self.finished:
                continue
            if retry_failed:
                failures.forget(self.store, run_id)
            else:
                self._fail(failure)

    def _fail(self, failure: failures.Failure) -> None:
        self.failed[failure.id] = f"{failure.name}: {failure.error}"
        if failure.diverged:
            self.diverged.add(failure.id)

    def _read(self, run: Run, say: Callable[[str], None]) -> None:
        """Read a run's record if all its files are whole."""
        folder = self.store / run.id
        if self._whole(folder) is not None:
            with self.locks.acquire(run.id) as acquired:
                # Another process may be writing it now, or has written it while the old files were
                # read here: look again.
                if not acquired or not folder.exists():
                    return
                if (wrong := self._whole(folder)) is not None:
                    aside = stored.set_aside(folder)
                    say(f"{run.name} is run again: {wrong.partition(';')[0]}; set aside as {aside}")
                    return
        self._tidy(run)

    def _whole(self, folder: Path) -> str | None:
        """Read a run's record if all its files are whole; else what is wrong with them."""
        if (wrong := stored.damage(folder, None)) is not None:
            return wrong
        try:
            self.finished[folder.name] = stored.read_run(folder)
        except UserError as error:
            return str(error)
        return None

    def _tidy(self, run: Run) -> None:
        """Remove the resume folder of a run whose process was killed right after storing the result."""
        folder = self.store / stored.WORK / run.id
        if folder.exists():
            with self.locks.acquire(run.id) as acquired:
                if acquired and (self.store / run.id / stored.CHECKSUMS).is_file():
                    shutil.rmtree(folder, ignore_errors=True)

    # --- making runs ----------------------------------------------------------------------------

    def go(self, shown: Display) -> None:
        """Make runs until none is left; wait for those that other processes are making."""
        self.shown = shown
        self.trackers = Trackers(self.study.trackers, self.store, shown.note)
        shown.watch = self.trackers.trained
        try:
            self._run_all()
        finally:
            self.trackers.close()

    def _run_all(self) -> None:
        waiting = False
        for reason in dict.fromkeys(run.refused for run in self.runs):
            if reason is not None:
                self._give_up([run for run in self.runs if run.refused == reason], UserError(reason))
        self._follow(self.runs)
        self._tell_of_missing_text()
        for entry in self.study.tasks:
            of_task = [run for run in self.runs if run.task == entry]
            if self._free(of_task):
                try:  # data is looked at before a model is loaded
                    self._read_data(entry, of_task)
                except UserError as error:
                    self._give_up(of_task, error)
        for model in self.study.models:
            if len(self._left(self._of(model))) < len(self._of(model)):
                try:
                    self._drop_other_revisions(self._of(model), cheap_revision(model))
                except UserError as error:
                    self._give_up(self._of(model), error)
        while self._left(self.runs):
            if self._run_free():
                waiting = False
                continue
            left = self._left(self.runs)
            if not left:
                break
            if not waiting:
                self.shown.note(f"waiting for {len(left)} runs that other processes are making")
                waiting = True
            time.sleep(POLL)
            self.shown.check()

    def _run_free(self) -> bool:
        """Make every run that no other process has locked; whether any was finished or has failed."""
        before = len(self.finished) + len(self.failed)
        for model in self.study.models:
            of_model = self._of(model)
            if not self._free(of_model):
                continue
            try:
                self._load(model)
            except Exception as error:  # a fault nobody foresaw must not take the other models' runs along
                self._give_up(of_model, error)
                continue
            self._drop_other_revisions(of_model, self._loaded(model).lm.revision)
            self._drop_closed_prompts(of_model)
            for entry in self.tasks:
                of_task = [run for run in of_model if run.task == entry]
                if not self._free([*of_task, *self._standing_on(of_task)]):
                    continue
                try:
                    data = self._read_data(entry, of_task)
                except UserError as error:
                    self._give_up(of_task, error)
                    continue
                self._drop_other_data(of_task, data)
                for run in of_task:
                    self._follow([run])
                    if self._left([run]) and self._ready(run):
                        self._take(run, data)
        return len(self.finished) + len(self.failed) > before

    def _of(self, model: str) -> list[Run]:
        return [run for run in self.runs if run.model == model]

    def _left(self, runs: Iterable[Run]) -> list[Run]:
        return [run for run in runs if run.id not in self.finished and run.id not in self.failed]

    def _ready(self, run: Run) -> bool:
        return not self._left(self.by_id[run_id] for run_id in (*_searches(run), *_stages(run)))

    def _standing_on(self, stages: Iterable[Run]) -> list[Run]:
        """The runs that need any of these stages."""
        ids = {run.id for run in stages if run.kind == "stage"}
        return [run for run in self.runs if not ids.isdisjoint(_stages(run))]

    def _follow(self, runs: Iterable[Run]) -> None:
        """Runs fail with a search or stage that failed, and are made again when one of them is another now.

        Else the learning rate would be chosen among the rest, for good and under the same id. A rate at which
        training diverged is settled: it is not chosen.
        """
        for run in runs:
            if self._lacks_search(run, self.finished.get(run.id)):
                del self.finished[run.id]
                self.shown.note(f"{run.name} is run again: its rate was chosen without all its searches")
            if self._other_stages(run, self.finished.get(run.id)):
                del self.finished[run.id]
                self.shown.note(f"{run.name} is run again: a stage it stands on was trained again")
            lost = [run_id for run_id in _searches(run) if run_id not in self.diverged]
            lost = [run_id for run_id in (*_stages(run), *lost) if run_id in self.failed]
            if lost and self._left([run]):
                what = self.by_id[lost[0]].kind
                self.failed[run.id] = f"{run.name}: a {what} it waits for failed: {self.failed[lost[0]]}"

    def _other_stages(self, run: Run, record: RunRecord | None) -> bool:
        """Whether a stage that a finished run stands on has other weights by now."""
        if run.stages is None or record is None or record.unlabelled is None:
            return False
        known = {stage.run: stage.weights for stage in record.unlabelled.stages.values()}
        finished = [run_id for run_id in _stages(run) if run_id in self.finished]
        return any(known.get(run_id) != weights_digest(self.store / run_id) for run_id in finished)

    def _tell_of_missing_text(self) -> None:
        lines = ((run.label, run.stages.remark()) for run in self._left(self.runs) if run.stages is not None)
        for label, line in dict.fromkeys(lines):
            if line is not None:
                self.shown.note(f"{label}: {line}")

    def _lacks_search(self, run: Run, record: RunRecord | None) -> bool:
        """Whether a result's learning rate was chosen without one of its finished searches."""
        if run.search is None or record is None or record.search is None:
            return False
        known = {score["learning_rate"] for score in record.search.scores}
        pairs = zip(run.search.runs, run.search.rates, strict=True)
        return any(run_id in self.finished and rate not in known for run_id, rate in pairs)

    def _free(self, runs: Iterable[Run]) -> bool:
        """Whether any of these is ready and not locked by another process."""
        return any(not self.locks.held(run.id) for run in self._left(runs) if self._ready(run))

    def _take(self, run: Run, data: TaskData) -> None:
        with self.locks.acquire(run.id) as acquired:
            if acquired and not self._finished_elsewhere(run, data):
                self._make(run, data)
                self.shown.end(len(self.finished))

    def _finished_elsewhere(self, run: Run, data: TaskData) -> bool:
        """Whether another process has finished a run since the store was read; its lock is held here."""
        if (failure := failures.read(self.store).get(run.id)) is not None:
            self._fail(failure)
            return True
        if not (self.store / run.id / stored.CHECKSUMS).is_file():
            return False
        try:
            record = stored.read_run(self.store / run.id)
        except UserError:
            return False
        same_model = record.revision == self._loaded(run.model).lm.revision
        if (
            not same_model
            or record.closed_by != self._closed_by(run.model)
            or record.fingerprints != fingerprints(run, data)
        ):
            return False
        if self._lacks_search(run, record) or self._other_stages(run, record):
            return False
        self.finished[run.id] = record
        return True

    def _make(self, run: Run, data: TaskData) -> None:
        name, folder = run.name, self.store / stored.WORK / run.id
        stored.clean(self.store, run.id)
        self.shown.begin(name)
        loaded = self._loaded(run.model)
        try:
            run = resolve(run, self.finished)
            self.trackers.begin(run)
            # Counters tell of this machine alone.
            measured = parallel.on_this_machine() == parallel.processes()
            with Meter(_gpus(loaded.lm)) if measured else nullcontext() as meter:
                need = run.stages
                stages = None if need is None else FinishedStages(self.store, need.uses, need.runs)
                result = execute(run, loaded, data, self.shown, folder, self._searched(run), stages)
            joules = None if meter is None else meter.joules
            result.record.cost.energy_joules = None if joules is None else sum(joules.values())
            result.record.cost.energy_of = sorted(joules or ())
        except Exception as error:
            # One diverging learning rate must not cost the rest of a grid, nor must a fault nobody foresaw.
            self._fail(failures.keep(self.store, run.id, name, error))
            self.shown.note(f"failed: {self.failed[run.id]}")
            shutil.rmtree(folder, ignore_errors=True)
            if not loaded.untouched:  # a method that could not be taken off must not be in the next run
                self._model = None
                del loaded
                self._load(run.model)
            return
        result.save(self.store)
        self.trackers.finish(result.record, result.predictions)
        shutil.rmtree(folder, ignore_errors=True)
        self._model = (run.model, replace(loaded, seconds=0.0))  # what loading took counts once
        self.finished[run.id] = result.record
        self.done.append(run.id)
        self.shown.note(f"  {name}: {result.summary()}")

    def _searched(self, run: Run) -> Path | None:
        """The finished search run that trained exactly this: same seed, the rate that was chosen."""
        if run.search is None:
            return None
        assert run.train is not None
        for run_id, rate in zip(run.search.runs, run.search.rates, strict=True):
            if rate == run.train.learning_rate and self.by_id[run_id].seed == run.seed:
                return self.store / run_id
        return None

    # --- models and data ------------------------------------------------------------------------

    def _load(self, model: str) -> None:
        if self._model is None or self._model[0] != model:
            self._model = None  # the old one's memory first
            self.shown.note(f"loading {model}")
            self._model = (model, load_for(self.study, model))
            for remark in self._model[1].lm.remarks:
                self.shown.note(f"{model}: {remark}")

    def _loaded(self, model: str) -> LoadedModel:
        assert self._model is not None, "no model is loaded"
        assert self._model[0] == model, f"{self._model[0]} is loaded, not {model}"
        return self._model[1]

    def _read_data(self, entry: TaskEntry, runs: Sequence[Run]) -> TaskData:
        if self._data is None or self._data[0] != entry:
            data = read_for(entry.make(), runs)
            for remark in data.remarks() if entry.name not in self._remarked else ():
                self.shown.note(f"{entry.name}: {remark}")
            self._remarked.add(entry.name)
            self._data = (entry, data)
        return self._data[1]

    def _give_up(self, runs: Sequence[Run], error: Exception) -> None:
        """These cannot be started. Nothing is recorded, so the same command tries again."""
        left = self._left(runs)
        if not isinstance(error, UserError):
            error = UserError(f"{runs[0].model} cannot be loaded: {type(error).__name__}: {error}")
        self.failed |= {run.id: f"{run.name}: {error}" for run in left}
        self.causes.append(error)
        self.shown.note(f"failed: {len(left)} runs: {error}")

    def _drop_other_revisions(self, runs: Sequence[Run], revision: str | None) -> None:
        for run in runs:
            was = self.finished[run.id].revision if run.id in self.finished else None
            if None not in (was, revision) and was != revision:
                del self.finished[run.id]
                self.shown.note(f"{run.name} is run again: {run.model} was at {was}, now at {revision}")

    def _drop_closed_prompts(self, runs: Sequence[Run]) -> None:
        """Older runs of a model whose tokenizer closes texts: their prompts ended in end-of-text."""
        for run in runs:
            if run.id in self.finished and self.finished[run.id].closed_by != self._closed_by(run.model):
                del self.finished[run.id]
                self.shown.note(f"{run.name} is run again: its prompts were closed with end-of-text")

    def _closed_by(self, model: str) -> int | None:
        return self._loaded(model).lm.tokens.closed_by or None

    def _drop_other_data(self, runs: Sequence[Run], data: TaskData) -> None:
        for run in runs:
            if run.id not in self.finished:
                continue
            if self.finished[run.id].fingerprints != fingerprints(run, data):
                del self.finished[run.id]
                self.shown.note(f"{run.name} is run again: the task's examples have changed since")


def _searches(run: Run) -> tuple[str, ...]:
    return () if run.search is None else run.search.runs


def _stages(run: Run) -> tuple[str, ...]:
    return () if run.stages is None else tuple(run.stages.runs.values())


def _gpus(lm: LanguageModel) -> list[int]:
    """PyTorch's numbers of the NVIDIA GPUs that hold a model; of several processes all of theirs."""
    devices = {parameter.device for parameter in lm.model.parameters()}
    own = sorted(device.index or 0 for device in devices if device.type == "cuda")
    return [*range(parallel.processes())] if own and parallel.processes() > 1 else own
