"""Studies on Ray: runs shared out, nothing done twice, lost workers replaced, the same bits as without it."""

import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from crosstune.errors import UserError
from crosstune.running import on_ray as ray_executor
from crosstune.running.interrupts import Stopped
from crosstune.running.on_ray import LOGS, Resources, run_on_ray
from crosstune.running.runner import Summary, run_study
from crosstune.store import store
from crosstune.study.spec import Study, read_study
from saved_model import study_of, write_study

LONG = {"steps": 150, "batch_size": 4}
METHODS = ["lora", "soft-prompt", "prefix", "none"]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray of two cores for all tests here; `run_on_ray` joins it."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture
def long(model: Path, tmp_path: Path) -> Study:
    """Three runs that train for a second or two each, and one that does not."""
    return Study(
        **study_of(model, tmp_path / "store", tasks=["number-words"], methods=METHODS, train=LONG, seeds=[3])
    )


def go(study: Study, **more: Any) -> tuple[Summary, str]:
    log = io.StringIO()
    summary = run_on_ray(study, console=Console(file=log, width=300), **{"cpus": 1, "gpus": 0} | more)
    return summary, log.getvalue()


def logs(study: Study) -> list[str]:
    """What all workers said, line by line."""
    return [
        line for file in sorted((study.folder / LOGS).glob("*.log")) for line in file.read_text().splitlines()
    ]


def when(study: Study, pattern: str) -> str:
    """Wait for a line that a worker says."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for line in logs(study) if (study.folder / LOGS).is_dir() else []:
            if match := re.search(pattern, line):
                return match[match.lastindex or 0]
        time.sleep(0.02)
    raise AssertionError(f"no worker said {pattern}")


def in_the_background(what: Any) -> tuple[threading.Thread, list[BaseException]]:
    """A thread that acts while the study runs, and the errors it met."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            what()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def same_bits(one: Study, other: Study) -> None:
    """Weights and predictions of two stores."""
    runs = {run.id: run for run in store.read_runs(one.folder)}
    assert set(runs) == {run.id for run in store.read_runs(other.folder)}
    for run_id, run in runs.items():
        ours, reference = one.folder / run_id, other.folder / run_id
        assert pl.read_parquet(ours / store.PREDICTIONS).equals(
            pl.read_parquet(reference / store.PREDICTIONS)
        )
        if run.train is not None:
            first, second = load_file(ours / store.WEIGHTS), load_file(reference / store.WEIGHTS)
            assert all(torch.equal(first[name], second[name]) for name in first), run.label


@pytest.fixture(scope="module")
def local(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same study without Ray, on one thread as on a worker with one core."""
    folder = tmp_path_factory.mktemp("local") / "store"
    study = Study(**study_of(model, folder, tasks=["number-words"], methods=METHODS, train=LONG, seeds=[3]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_study(study, console=Console(file=io.StringIO()))
    finally:
        torch.set_num_threads(threads)
    return study


def test_two_workers_share_a_study(ray: Any, long: Study, local: Study) -> None:
    summary, log = go(long, workers=2)
    runs = {run.id for run in store.read_runs(long.folder)}
    assert set(summary.done) == set(summary.runs) == runs
    assert "[4/4] " in log
    lines = [line for line in logs(long) if re.match(r"  .*: en ", line)]
    assert len(lines) == len(set(lines)) == 4
    same_bits(long, local)
    assert (long.folder / "study.yaml").read_text() == long.to_yaml()
    assert go(long, workers=1)[0].done == []


def test_a_killed_worker_is_replaced(ray: Any, long: Study, local: Study) -> None:
    """kill -9 in the middle of a run's training."""

    def kill() -> None:
        when(long, r"\] number-words · soft-prompt")
        time.sleep(0.2)
        log = next(
            file
            for file in (long.folder / LOGS).glob("*.log")
            if "] number-words · soft-prompt" in file.read_text()
        )
        os.kill(int(re.findall(r"process (\d+)", log.read_text())[-1]), signal.SIGKILL)

    thread, errors = in_the_background(kill)
    summary, _ = go(long, workers=2)
    thread.join()
    assert errors == []
    assert len(summary.done) == 4
    lines = [line for line in logs(long) if re.match(r"  .*: en ", line)]
    begun = [line for line in logs(long) if re.match(r"\[\d/4\] ", line)]
    assert len(lines) == len(set(lines)) == 4
    assert len(begun) == 5  # the killed run twice
    assert len([line for line in logs(long) if line.startswith("worker ")]) == 3
    same_bits(long, local)


def test_ctrl_c_stops_all_workers(ray: Any, long: Study, local: Study) -> None:
    def interrupt() -> None:
        when(long, r"\] number-words · (soft-prompt|prefix|lora)")
        os.kill(os.getpid(), signal.SIGINT)

    thread, errors = in_the_background(interrupt)
    with pytest.raises(
        Stopped, match=r"stopped; \d of 4 runs finished and kept in .*; run the same command to resume"
    ):
        go(long, workers=2)
    thread.join()
    assert errors == []
    kept = store.finished(long.folder)
    time.sleep(2)
    assert store.finished(long.folder) == kept
    assert len(kept) < 4
    summary, _ = go(long, workers=2)
    assert set(summary.done) == set(summary.runs) - kept
    same_bits(long, local)


def test_a_failing_run_costs_no_other(ray: Any, model: Path, tmp_path: Path) -> None:
    wild = {"name": "full", "train": {"learning_rate": 1e9, "steps": 9, "clip": 0}}
    spec = study_of(model, tmp_path / "store", tasks=["number-words"], methods=[wild, "none"])
    study = Study(**spec)
    for again in (False, True):
        with pytest.raises(
            UserError, match=r"1 of 2 runs are not finished, .*; worker 1: .* the loss became"
        ):
            go(study, workers=1, retry_failed=again)
    begun = [line for line in logs(study) if "] number-words · full" in line]
    assert len(begun) == 2
    assert len(store.read_runs(study.folder)) == 1


def test_overrides_and_relative_folders_reach_the_workers(
    ray: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").symlink_to(model.parent)
    monkeypatch.chdir(tmp_path)
    spec = study_of(Path("models", model.name), Path("elsewhere"), methods=["none"], tasks=["number-words"])
    study = read_study(write_study(tmp_path / "study.yaml", spec | {"dtype": "float32"}))
    study = study.model_copy(update={"store": "here", "dtype": "bfloat16"})
    go(study, workers=1)
    assert [run.dtype for run in store.read_runs(tmp_path / "here")] == ["bfloat16"]
    assert not (tmp_path / "elsewhere").exists()


def test_more_than_any_machine_has(ray: Any, long: Study) -> None:
    with pytest.raises(
        UserError, match=r"no machine of this Ray has 64 CPUs and 0 GPUs \(at most 2 CPUs and 0"
    ):
        go(long, workers=1, cpus=64)


def test_defaults_follow_the_machines(long: Study) -> None:
    def needs(nodes: list[dict[str, float]], device: str = "auto", **given: Any) -> Resources:
        study = long.model_copy(update={"device": device})
        return ray_executor._needs(nodes, study, **{"workers": None, "cpus": None, "gpus": None} | given)

    assert needs([{"CPU": 8}]) == Resources(1, 8, 0)
    assert needs([{"CPU": 8}], workers=4) == Resources(4, 2, 0)
    assert needs([{"CPU": 8}, {"CPU": 4}]) == Resources(2, 4, 0)
    assert needs([{"CPU": 8}, {"CPU": 4}], workers=4) == Resources(4, 2, 0)
    assert needs([{"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}]) == Resources(8, 8, 1)
    assert needs([{"CPU": 32, "GPU": 4}], gpus=2) == Resources(2, 16, 2)
    assert needs([{"CPU": 32, "GPU": 4}], device="cpu") == Resources(1, 32, 0)
    assert needs([{"CPU": 16}, {"CPU": 8, "GPU": 1}]) == Resources(1, 8, 1)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "auto"])
def test_no_cluster_there(address: str, long: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()  # the Ray of the tests above, which would be joined
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=f"no Ray cluster at {address}: .*; see docs/cluster.md"):
        go(long, address=address)


def test_without_ray(long: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'needs Ray: pip install "crosstune\[ray\]"'):
        go(long)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(UserError, match="both start processes"):
        go(long)
