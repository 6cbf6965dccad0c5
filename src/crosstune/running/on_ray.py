"""Runs a study with several Ray workers, on this machine or a cluster, that share one store.

Each worker is a Ray task that calls `crosstune.running.runner.run_study`. Locks in the store distribute the
runs, so workers need no communication. Ray restarts the task of a lost worker; any worker can resume its run.
"""

import logging
import os
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from crosstune.config import environment
from crosstune.errors import UserError, first_line
from crosstune.running.interrupts import Interrupts, Stopped
from crosstune.running.progress import Display, display
from crosstune.running.runner import Summary, run_study
from crosstune.store import failures
from crosstune.store import store as stored
from crosstune.study.spec import Study

LOGS = ".workers"
"""Folder in a store for the workers' logs, ``<number>.log``."""
RETRIES = 20
"""How often a lost worker's task is restarted."""
_POLL = 1.0  # seconds between checks of the store
_GRACE = 30.0  # seconds for workers to end by themselves after Ctrl-C
_OBJECTS = 100 * 2**20  # bytes of shared memory for a local Ray; no large objects are passed
# Passed to the workers, which a cluster starts with another environment.
_VARIABLES = (*environment.NAMES, "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class WorkerOrder:
    """The settings sent to a worker."""

    study: str  # the complete study as YAML, with the absolute path of its store
    text: str  # the original text of the study, for the store
    folder: str  # working directory of the command; paths in the study are relative to it
    variables: dict[str, str]  # those of `_VARIABLES` that are set
    cpus: int  # number of threads
    device: str  # replaces the study's
    dtype: str  # replaces the study's

    def read(self) -> Study:
        """Read the study on the worker's machine."""
        import torch

        os.environ.update(self.variables)
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        torch.set_num_threads(self.cpus)
        study = Study.model_validate(yaml.safe_load(self.study))
        study = study.model_copy(update={"device": self.device, "dtype": self.dtype})
        study._text = self.text
        return study


@dataclass(frozen=True)
class PlannedRun:
    """One run of the study: id, display name, and whether it is a result (not a search)."""

    id: str
    name: str
    result: bool


@dataclass(frozen=True)
class Resources:
    """Number of workers, with CPU cores and GPUs per worker."""

    workers: int
    cpus: int
    gpus: float


def run_on_ray(
    study: Study,
    *,
    console: Console | None = None,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    retry_failed: bool = False,
) -> Summary:
    """Execute all unfinished runs of a study with several workers.

    Args:
        study: From `read_study` or made in Python. All workers must have access to its store.
        console: For progress; standard error by default.
        address: Of a Ray cluster, "auto" or host:port; by default a local Ray is started.
        workers: Number of workers; by default one per GPU, or one per machine without GPUs.
        cpus: Cores and threads per worker; by default the machines' cores divided among their workers.
        gpus: GPUs per worker; by default one if the cluster has any and the study's device allows it.
        retry_failed: Also run what failed before.

    Raises:
        UserError: Ray is missing, the resources are not available, or (after all others ran) runs failed.
        Stopped: After Ctrl-C (a `KeyboardInterrupt`); all workers have stopped.
    """
    console = Console(stderr=True) if console is None else console
    environment.check()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("torchrun and --executor ray both start processes; take one of the two")
    began, ray = time.perf_counter(), _ray()
    stored.open_store(study.folder, study.to_yaml())
    with Interrupts() as interrupts, _cluster(ray, address):
        needs = _needs(
            [node["Resources"] for node in ray.nodes() if node["Alive"]], study, workers, cpus, gpus
        )
        options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_retries": RETRIES}
        order, runs = _planned(ray, options, _order(study, needs))
        by_id = {run.id: run for run in runs}
        if retry_failed:
            for run in runs:
                failures.forget(study.folder, run.id)
        before = _stamps(study.folder, by_id)
        tasks: list[Any] = []
        with display(console, len(runs), len(before), interrupts.check) as shown:
            share = f"{needs.cpus} cores" + (f" and {needs.gpus:g} GPUs" if needs.gpus else "")
            logs = study.folder / LOGS
            shown.note(f"{needs.workers} workers with {share} each; what they say is in {logs}")
            try:
                work = ray.remote(_work).options(**options, scheduling_strategy="SPREAD")
                tasks += [work.remote(order, number) for number in range(1, needs.workers + 1)]
                errors = _watch(ray, tasks, study.folder, by_id, shown)
            except KeyboardInterrupt:
                shown.note("stopping the workers")
                _stop(ray, tasks)
                raise Stopped(
                    f"stopped; {len(_stamps(study.folder, by_id))} of {len(runs)} runs finished and kept in "
                    f"{study.folder}; run the same command to resume",
                    interrupts.exit_code,
                ) from None
    after = _stamps(study.folder, by_id)
    if len(after) < len(runs):
        raise UserError(
            f"{len(runs) - len(after)} of {len(runs)} runs are not finished, the others are kept in "
            f"{study.folder}; {errors[0] if errors else 'run the study again'}"
        )
    return Summary(
        store=study.folder,
        runs=[run.id for run in runs if run.result],
        done=[run_id for run_id, stamp in after.items() if before.get(run_id) != stamp],
        seconds=time.perf_counter() - began,
    )


# --- on the workers ---------------------------------------------------------------------------------


def _plan(order: WorkerOrder) -> tuple[str, str, list[PlannedRun]] | str:
    """Device, dtype and runs on a worker's machine, which may differ from this one; or an error message."""
    from crosstune.study.runs import expand

    try:
        runs = expand(order.read())
    except UserError as error:
        return str(error)
    planned = [PlannedRun(run.id, run.name, run.kind == "result") for run in runs]
    return runs[0].device, runs[0].dtype, planned


def _work(order: WorkerOrder, number: int) -> str | None:
    """Execute runs of a study until none is left; returns an error message, if any."""
    study = order.read()
    log = study.folder / LOGS / f"{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", buffering=1) as file:
        file.write(f"worker {number}: process {os.getpid()} on {platform.node()}, {order.cpus} threads\n")
        try:
            run_study(study, console=Console(file=file, width=200))
        except UserError as error:
            file.write(f"error: {error}\n")
            return str(error)
    return None


# --- on the machine that runs the command ------------------------------------------------------------


def _ray() -> Any:
    # Read when Ray is imported: disables usage reports.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            'the ray executor needs Ray: pip install "crosstune[ray]", or use --executor local'
        ) from error
    return ray


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to the cluster, or start a local Ray for the block. An existing connection is left alone."""
    if ray.is_initialized():
        yield
        return
    silent: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECTS, **silent)
        else:
            host, _, port = address.rpartition(":")
            if host and port.isdigit():
                # Ray itself would retry for minutes.
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=address, **silent)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        where = f"no Ray cluster at {address}" if address else "Ray cannot be started on this machine"
        raise UserError(f"{where}: {first_line(error)}; see docs/cluster.md") from error
    try:
        yield
    finally:
        ray.shutdown()


def _needs(
    nodes: Sequence[dict[str, float]], study: Study, workers: int | None, cpus: int | None, gpus: float | None
) -> Resources:
    """The requested resources, with defaults from the machines."""
    if gpus is None:
        gpus = 1 if study.device.startswith(("auto", "cuda")) and any(n.get("GPU") for n in nodes) else 0
    hosts = [n for n in nodes if n.get("GPU", 0) >= gpus and n.get("CPU", 0) >= (cpus or 1)]
    if not hosts:
        most = " and ".join(f"{max(n.get(kind, 0) for n in nodes):g} {kind}s" for kind in ("CPU", "GPU"))
        raise UserError(
            f"no machine of this Ray has {cpus or 1} CPUs and {gpus:g} GPUs (at most {most}); ask for less"
        )
    if workers is None:
        workers = sum(int(n["GPU"] // gpus) for n in hosts) if gpus else len(hosts)
    if cpus is None:
        beside = -(-workers // len(hosts))
        cpus = max(1, min(int(n["CPU"] // (n["GPU"] // gpus if gpus else beside)) for n in hosts))
    return Resources(workers, cpus, gpus)


def _order(study: Study, needs: Resources) -> WorkerOrder:
    whole = study.model_copy(update={"store": str(study.folder.absolute())})
    text = study.to_yaml()
    whole._text = None  # so that `to_yaml` includes changes from the command line
    device = "cpu" if study.device == "auto" and not needs.gpus else study.device
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return WorkerOrder(whole.to_yaml(), text, str(Path.cwd()), variables, needs.cpus, device, study.dtype)


def _planned(ray: Any, options: dict[str, Any], order: WorkerOrder) -> tuple[WorkerOrder, list[PlannedRun]]:
    """The runs, and the order with device and dtype resolved, so that all workers agree on the run ids."""
    plan = ray.get(ray.remote(_plan).options(**options).remote(order))
    if isinstance(plan, str):
        raise UserError(plan)
    device, dtype, runs = plan
    device_name = order.device if order.device.partition(":")[0] == device else device
    return replace(order, device=device_name, dtype=dtype), runs


def _watch(
    ray: Any, tasks: Sequence[Any], store: Path, runs: dict[str, PlannedRun], shown: Display
) -> list[str]:
    """Show finished runs until all workers have ended; returns the workers' error messages."""
    known, pending = set(_stamps(store, runs)), list(tasks)
    while pending:
        _, pending = ray.wait(pending, num_returns=len(pending), timeout=_POLL)
        shown.check()
        for run_id in sorted(set(_stamps(store, runs)) - known):
            known.add(run_id)
            shown.note(f"[{len(known)}/{len(runs)}] {runs[run_id].name}")
            shown.end(len(known))
    errors = []
    for number, task in enumerate(tasks, start=1):
        try:
            message = ray.get(task)
        except ray.exceptions.RayError as error:
            message = " ".join((str(error).strip() or type(error).__name__).split())
        if message is not None:
            shown.note(f"worker {number}: {message}")
            errors.append(f"worker {number}: {message}")
    return errors


def _stop(ray: Any, tasks: Sequence[Any]) -> None:
    """Stop all workers: first like Ctrl-C, so that they write their checkpoints; then by force."""
    for force in (False, True):
        _, left = ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
        for task in left:
            ray.cancel(task, force=force)
        ray.wait(list(tasks), num_returns=len(tasks), timeout=_GRACE)


def _stamps(store: Path, runs: dict[str, PlannedRun]) -> dict[str, int]:
    """When each finished run of the study was kept, by id."""
    ids = {run_id for run_id in stored.finished(store) if run_id in runs}
    return {run_id: (store / run_id / stored.CHECKSUMS).stat().st_mtime_ns for run_id in sorted(ids)}
