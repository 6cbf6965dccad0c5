"""Several processes on one store: every run made once, by one of them, and the same bits as by one alone."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from crosstune import api
from crosstune.errors import UserError
from crosstune.running.resume.locks import RunLocks
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.store.provenance import _git
from crosstune.store.record import RunRecord
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from failing_disk import Disk, watched
from other_process import ended, log_of, slowly, start
from saved_model import study_of
from simulated import simulate, write_store

Outcome = Callable[[str, str], None]


def test_two_processes_share_a_study_out(model: Path, tmp_path: Path, outcome: Outcome) -> None:
    shared, alone = (
        Study(
            **study_of(
                model, tmp_path / name, tasks=["number-words"], methods=["lora", "soft-prompt", "none"],
                seeds=[0, 1], search={"learning_rates": [1e-3, 1e-2]},
                train={"steps": 3, "batch_size": 4, "evaluate_every": 3, "dev_limit": 4},
            )
        )
        for name in ("shared", "alone")
    )  # fmt: skip
    both = [start(shared), start(shared)]
    log = log_of(shared.folder)
    assert [ended(process) for process in both] == [0, 0], log.read_text(encoding="utf-8")
    ids = set(run_study(alone, console=Console(quiet=True)).done)
    assert store.finished(shared.folder) == ids
    assert len(ids) == 2 * 2 + 2 * 2 + 1
    lines = log.read_text(encoding="utf-8").splitlines()
    matching = [line for line in lines if line.startswith("[")]
    assert len(matching) == len(ids), "a run was made twice"
    assert the_same(shared.folder, alone.folder)
    outcome("two processes on one store", f"{len(ids)} runs, each executed once; same bytes as one process")


def the_same(folder: Path, other: Path) -> bool:
    """Whether two stores hold the same weights and predictions, and nothing beside them."""
    for beside in (".work", ".failed", ".damaged"):
        assert not list((folder / beside).glob("*"))
    contents = [
        {f"{file.parent.name}/{file.name}": file.read_bytes()
         for name in (store.WEIGHTS, store.PREDICTIONS) for file in home.glob(f"*/{name}")}
        for home in (folder, other)
    ]  # fmt: skip
    return contents[0] == contents[1] != {}


def one_run(model: Path, folder: Path) -> Study:
    return Study(**study_of(model, folder, methods=["lora"], languages=["de"]))


def wait_for(file: Path, text: str) -> None:
    for _ in range(2000):
        if file.is_file() and text in file.read_text(encoding="utf-8"):
            return
        time.sleep(0.02)
    pytest.fail(f"{file} never holds {text!r}")


@pytest.mark.parametrize("first_dies", [False, True])
def test_one_run_that_two_processes_want(
    model: Path, tmp_path: Path, outcome: Outcome, first_dies: bool
) -> None:
    """The second waits for the first, and makes the run itself where the first is killed."""
    shared, alone = one_run(model, tmp_path / "shared"), one_run(model, tmp_path / "alone")
    log = log_of(shared.folder)
    first = start(shared, partial(slowly, 60 if first_dies else 0.3))
    wait_for(log, "[1/1]")
    second = start(shared)
    wait_for(log, "waiting for 1 runs that other processes are making")
    if first_dies:
        first.kill()
    assert [ended(first), ended(second)] == [-signal.SIGKILL if first_dies else 0, 0]
    run_study(alone, console=Console(quiet=True))
    assert the_same(shared.folder, alone.folder)
    lines = log.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("[1/1]")]) == 1 + first_dies
    if first_dies:
        outcome("killed while another process waits for its run", "the other process executes it; same bytes")


def two_versions(folder: Path) -> tuple[RunRecord, dict[str, pl.DataFrame]]:
    """A store of two runs, and the predictions of one of them before and after it is replaced."""
    runs, rows = simulate({"none": 0.4, "lora": 0.6}, seeds=(0,), examples=3, languages=["en", "de"])
    write_store(folder, runs, rows)
    table = store.read_table(folder, runs[0].id)
    return runs[0], {"old": table, "new": table.with_columns(score=pl.lit(1.0), prediction=pl.lit("new"))}


def read_version(folder: Path, run: RunRecord, versions: dict[str, pl.DataFrame]) -> str:
    """Which version a reader sees; both runs are there in either."""
    outcome = api.results(folder)
    assert len(outcome.runs) == 2
    return next(
        name
        for name, table in versions.items()
        if outcome.predictions.filter(run=run.id).drop("run").equals(table)
    )


def read_all(folder: Path) -> int:
    """Read what a report reads; how many runs there are."""
    outcome = api.results(folder)
    assert set(outcome.predictions["run"]) == set(outcome.scores["run"]) == {run.id for run in outcome.runs}
    return len([outcome.source.texts(run.id) for run in outcome.runs])


def test_a_run_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Whatever moment of the writer a reader meets: it reads one version or the other, whole."""
    run, versions = two_versions(tmp_path)
    seen: list[str] = []
    with watched(Disk(tmp_path, before_change=lambda: seen.append(read_version(tmp_path, run, versions)))):
        store.save(tmp_path, run, versions["new"])
    assert set(seen) == {"old", "new"}
    assert seen == sorted(seen, reverse=True), "first the old one, from some moment on the new one"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(store.finished(tmp_path))


def test_a_reader_during_whose_every_step_a_run_is_replaced(tmp_path: Path) -> None:
    run, versions = two_versions(tmp_path)
    with watched(Disk(tmp_path)) as whole:
        read_all(tmp_path)
    problems = []
    for moment in range(1, len(whole.done) + 1):
        store.save(tmp_path, run, versions["old"])

        def replace(moment: int = moment) -> None:
            if len(disk.done) == moment:
                store.save(tmp_path, run, versions["new"])

        with watched(Disk(tmp_path, before_any=replace)) as disk:
            try:
                assert read_all(tmp_path) == 2
            except UserError as error:
                problems.append(f"{disk.done[moment - 1]}: {error}")
    assert problems == []


def acquires(folder: Path, name: str) -> bool:
    with RunLocks(folder).acquire(name) as acquired:
        return acquired


def test_a_lock_is_one_process_alone_and_ends_with_it(model: Path, tmp_path: Path) -> None:
    study = one_run(model, tmp_path / "s")
    (run,) = expand(study)
    holder = start(study, partial(slowly, 60))
    wait_for(log_of(study.folder), "[1/1]")
    assert RunLocks(study.folder).held(run.id)
    assert not acquires(study.folder, run.id)
    assert acquires(study.folder, "0123456789abcdef")
    holder.kill()
    holder.join()
    assert not RunLocks(study.folder).held(run.id)
    assert acquires(study.folder, run.id)


def test_where_files_cannot_be_locked_it_is_said(tmp_path: Path) -> None:
    locks = RunLocks(tmp_path)
    (tmp_path / ".claims" / "a.lock").mkdir()
    with pytest.raises(UserError, match="cannot be locked"), locks.acquire("a"):
        pass


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    assert _git(tmp_path) is None
    for words in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert _git(tmp_path) is None, "nothing here belongs to the checkout"
    (tmp_path / "a.txt").write_text("a")
    subprocess.run(["git", "-C", str(tmp_path), "add", "a.txt"], check=True)
    state = _git(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["changed"] is True
    assert json.loads(json.dumps(state)) == state
