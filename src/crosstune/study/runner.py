"""Run a study: every model loaded once, every run finished and kept before the next begins."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
from rich.console import Console

from crosstune.errors import UserError
from crosstune.models.load import load
from crosstune.study import store as stored
from crosstune.study.data import TaskData, read_data
from crosstune.study.execute import Loaded, execute
from crosstune.study.grid import Run, expand
from crosstune.study.model_names import cheap_revision
from crosstune.study.progress import Display, display
from crosstune.study.spec import Study
from crosstune.study.stopping import Interrupts, Stopped

Records = dict[str, dict[str, Any]]
"""run.json of finished runs, by id."""


@dataclass
class Summary:
    """What a call of `run_study` did.

    Attributes:
        store: Folder of the results.
        runs: Ids of all the study's runs.
        done: Ids of those made now.
        failed: One line for each run that could not be made.
        seconds: Wall time.
    """

    store: Path
    runs: list[str]
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_study(study: Study, *, console: Console | None = None) -> Summary:
    """Make every run of a study that its store does not hold yet.

    A run is kept as soon as it is finished, so an interrupted study goes on where it stopped. Finished runs
    are made again only if their files are damaged, or the model or the data has changed since.

    Args:
        study: From `read_study` or made in Python.
        console: Where progress goes; standard error by default.

    Raises:
        UserError: The model cannot be loaded, the disk is full, or some runs failed (after all others ran).
        Stopped: After Ctrl-C (a `KeyboardInterrupt`).
    """
    console = Console(stderr=True) if console is None else console
    began = time.perf_counter()
    runs = expand(study)
    summary = Summary(store=study.folder, runs=[run.id for run in runs])
    with Interrupts() as interrupts, _locked(study.folder):
        stored.clean(study.folder)
        stored.write_text(study.folder, "study.yaml", study.to_yaml())
        finished = _still_good(study.folder, runs, console)
        with display(console, len(runs), len(finished), interrupts.check) as shown:
            work = _Work(study, summary, finished, shown)
            try:
                for model in study.models:
                    work.run_model(model, [run for run in runs if run.model == model])
            except KeyboardInterrupt:
                raise Stopped(
                    f"stopped; {len(finished)} of {len(runs)} runs finished and kept in {study.folder}; "
                    "the same command goes on",
                    interrupts.exit_code,
                ) from None
    summary.seconds = time.perf_counter() - began
    if summary.failed:
        raise UserError(
            f"{len(summary.failed)} of {len(runs)} runs failed, the others are kept in {study.folder}; "
            f"{summary.failed[0]}"
        )
    if not summary.done:
        _say(console, f"nothing to do: all {len(runs)} runs of {study.name} are finished in {study.folder}")
    return summary


@dataclass
class _Work:
    """What one call of `run_study` carries along."""

    study: Study
    summary: Summary
    finished: Records
    shown: Display

    def run_model(self, model: str, runs: Sequence[Run]) -> None:
        """Make a model's missing runs."""
        if any(run.id in self.finished for run in runs) and (revision := cheap_revision(model)) is not None:
            self._drop_other_revisions(runs, revision)
        if self._all_done(runs):
            return
        self.shown.note(f"loading {model}")
        began = time.perf_counter()
        lm = load(model, device=self.study.device, dtype=self.study.dtype)
        loaded = Loaded(lm, time.perf_counter() - began)
        self._drop_other_revisions(runs, lm.revision)
        for entry in self.study.tasks:
            of_task = [run for run in runs if run.task == entry]
            if self._all_done(of_task):
                continue
            with_dev = any(run.train is not None and run.train.evaluate_every for run in of_task)
            first = of_task[0]
            settings = [run.train for run in of_task]
            data = read_data(entry.make(), first.languages, first.evaluate.limit, with_dev, settings)
            for remark in data.remarks():
                self.shown.note(f"{entry.name}: {remark}")
            self._drop_other_data(of_task, data)
            for run in of_task:
                if run.id not in self.finished:
                    self._make(run, loaded, data)

    def _make(self, run: Run, loaded: Loaded, data: TaskData) -> None:
        self.shown.begin(_name(run))
        try:
            made = execute(run, loaded, data, self.shown)
        except UserError as error:
            # One diverging learning rate must not cost the rest of a grid.
            self.summary.failed.append(f"{_name(run)}: {error}")
            self.shown.note(f"failed: {self.summary.failed[-1]}")
            return
        made.save(self.study.folder)
        self.finished[run.id] = made.record
        self.summary.done.append(run.id)
        self.shown.note(f"  {_name(run)}: {made.summary()}")
        self.shown.end(len(self.finished))

    def _all_done(self, runs: Sequence[Run]) -> bool:
        return all(run.id in self.finished for run in runs)

    def _drop_other_revisions(self, runs: Sequence[Run], revision: str) -> None:
        for run in runs:
            if run.id in self.finished and (was := self.finished[run.id]["revision"]) != revision:
                del self.finished[run.id]
                self.shown.note(f"{_name(run)} is run again: {run.model} was at {was}, now at {revision}")

    def _drop_other_data(self, runs: Sequence[Run], data: TaskData) -> None:
        for run in runs:
            if run.id in self.finished and self.finished[run.id]["fingerprints"] != data.of(run.train):
                del self.finished[run.id]
                self.shown.note(f"{_name(run)} is run again: the task's examples have changed since")


def _still_good(store: Path, runs: Sequence[Run], console: Console) -> Records:
    """run.json of the runs that are finished and whole."""
    kept = {}
    there = stored.finished(store)
    for run in runs:
        if run.id not in there:
            continue
        try:
            kept[run.id] = stored.read_run(store / run.id)
        except UserError as error:
            _say(console, f"{_name(run)} is run again: {str(error).partition(';')[0]}")
    return kept


def _name(run: Run) -> str:
    return f"{run.task.name} · {run.label} · seed {run.seed}"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Keep two processes from running into one store at once."""
    with stored.disk_errors(store):
        store.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(store / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f"{store}: another crosstune is running into it; wait for it to end, or give another --store"
            ) from None
    try:
        yield
    finally:
        lock.release()
