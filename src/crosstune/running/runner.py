"""Runs a study: every run once, by this process or another, stored before the next one starts."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from crosstune.config import environment
from crosstune.errors import UserError, inert
from crosstune.running.execute import follow
from crosstune.running.interrupts import Interrupts, Stopped
from crosstune.running.progress import display
from crosstune.running.worker import Worker
from crosstune.store.store import open_store
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from crosstune.training import parallel


@dataclass
class Summary:
    """What a call of `run_study` did."""

    store: Path  # folder of the results
    # Ids of all the study's runs that have a result; those that only search a setting left out.
    runs: list[str]
    # Ids of those made now, by this process; searches among them.
    done: list[str] = field(default_factory=list)
    seconds: float = 0.0  # wall time


def run_study(study: Study, *, console: Console | None = None, retry_failed: bool = False) -> Summary:
    """Make every run of a study that its store does not hold yet.

    Each run is stored as soon as it is finished, and an unfinished one resumes from its last checkpoint, so
    an interrupted study resumes where it stopped. Finished runs are repeated only if their files are damaged,
    or the model or the data has changed. Several processes, on one or more machines with a shared store, may
    run the same study: they divide the runs among themselves.

    Args:
        study: From `read_study` or made in Python.
        console: For progress; standard error by default.
        retry_failed: Also try runs again that failed before.

    Several processes that torchrun starts together train each run together; all but the first end here.

    Raises:
        UserError: The model cannot be loaded, the disk is full, or some runs failed (after all others ran).
        Stopped: After Ctrl-C (a `KeyboardInterrupt`).
    """
    console = Console(stderr=True) if console is None else console
    began = time.perf_counter()
    environment.check()
    runs = expand(study)
    parallel.join()
    if parallel.rank():
        follow(study, runs)
        raise SystemExit  # what comes after a study is the first process's to do
    say = _saying(console)
    for line in study.absent:
        say(line)
    with Interrupts() as interrupts:
        open_store(study.folder, study.to_yaml())
        worker = Worker(study, runs)
        worker.read_store(retry_failed, say)
        before = len(worker.failed)
        with display(console, len(runs), len(worker.finished), interrupts.check) as shown:
            try:
                worker.go(shown)
                with parallel.ended_together():
                    parallel.from_the_first()  # nothing is left to follow
            except KeyboardInterrupt:
                raise Stopped(
                    f"stopped; {len(worker.finished)} of {len(runs)} runs finished and kept in "
                    f"{study.folder}; run the same command to resume",
                    interrupts.exit_code,
                ) from None
    if len(worker.causes) == 1 and not worker.finished:
        raise worker.causes[0]
    if worker.failed:
        some = next(iter(worker.failed.values()))
        again = "; --retry-failed runs them again" if before else ""
        kept = f", the others are kept in {study.folder}" if len(worker.failed) < len(runs) else ""
        raise UserError(f"{len(worker.failed)} of {len(runs)} runs failed{kept}; {some}{again}")
    if not worker.done:
        say(f"nothing to do: all {len(runs)} runs of {study.name} are finished in {study.folder}")
    return Summary(
        store=study.folder,
        runs=[run.id for run in runs if run.kind == "result"],
        done=worker.done,
        seconds=time.perf_counter() - began,
    )


def _saying(console: Console) -> Callable[[str], None]:
    def say(text: str) -> None:
        console.print(inert(text), markup=False, highlight=False, soft_wrap=True)

    return say
