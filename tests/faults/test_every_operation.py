"""The disk fails, or the process is killed, at each operation in turn: nothing is lost or half there."""

import errno
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from crosstune import api, files
from crosstune.cli import main as cli
from crosstune.errors import UserError
from crosstune.report import export as exporting
from crosstune.report.contents import contents
from crosstune.report.page import html, views
from crosstune.report.text import csv_text
from crosstune.running import worker
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.store.audit import audit
from crosstune.study.spec import Study
from failing_disk import FULL, Disk, watched
from saved_model import study_of
from simulated import simulate, write_store

Outcome = Callable[[str, str], None]
State = frozenset[tuple[str, int]]


def failing(command: Callable[[], object], folder: Path) -> Iterator[Disk]:
    """A disk for each operation of a command, at which that one fails; on a full disk where it could."""
    with watched(Disk(folder)) as whole:
        command()
    for number, (name, _) in enumerate(whole.done, 1):
        errors = (errno.ENOSPC, errno.EIO) if name in FULL else (errno.EACCES, errno.EIO)
        yield Disk(folder, number, errors[number % 2])


def outcome_of(command: Callable[[], Any], disk: Disk) -> Any:
    """What a command gives on this disk, or the error that the command line ends with in one line."""
    with watched(disk):
        try:
            return command()
        except (UserError, OSError) as error:
            return error


def state(folder: Path) -> State:
    """Names and sizes of all files, without what is another in every process."""
    return frozenset(
        (
            re.sub(r"-\d+-[0-9a-f]{8}\b|-[0-9a-f]{32}\b", "", str(file.relative_to(folder))),
            file.stat().st_size,
        )
        for file in folder.rglob("*")
    )


def content(folder: Path) -> dict[str, bytes]:
    """Weights and predictions of all runs."""
    files = [file for name in (store.WEIGHTS, store.PREDICTIONS) for file in folder.glob(f"[0-9a-f]*/{name}")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def put(before: Path, folder: Path) -> None:
    """A folder as another one."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)


class Running:
    """A study of two runs, of which the first is finished; what it ends with when nothing happens."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.store, self.before = folder / "store", folder / "before"
        settings = study_of(
            model, self.store, languages=["de"], evaluate={"limit": 2},
            train={"steps": 2, "batch_size": 2, "warmup_steps": 0},
        )  # fmt: skip
        self.study = Study(**settings | {"methods": ["none", "soft-prompt"]})
        run_study(Study(**settings | {"methods": ["none"]}), console=Console(quiet=True))
        put(self.store, self.before)
        self.finished = content(self.before)
        self.seen: set[State] = set()

    def go(self, *, retry_failed: bool = False) -> None:
        run_study(self.study, console=Console(quiet=True), retry_failed=retry_failed)

    def whole(self) -> list[Disk]:
        """Run it to its end; the same with each of its operations failing."""
        disks = list(failing(self.go, self.store))
        self.expected = content(self.store)
        assert len(self.expected) == len(self.finished) + 2
        return disks

    def mended(self) -> list[str]:
        """What is wrong now, and what after the same command has run once more on a disk not seen before."""
        wrong = [] if self.finished.items() <= content(self.store).items() else ["lost what was finished"]
        wrong += audit(self.store).problems
        if (now := state(self.store)) in self.seen:
            return wrong
        self.seen.add(now)
        self.go(retry_failed=any((self.store / ".failed").glob("*")))
        wrong += [] if content(self.store) == self.expected else ["ends with other bytes"]
        # A study's text that a killed process was writing may be another process's at this moment: it stays.
        notes = [note for note in audit(self.store).notes if "/.tmp-study.yaml-" not in note]
        return [*wrong, *audit(self.store).problems, *notes]


@pytest.fixture
def running(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setenv("CROSSTUNE_CHECKPOINT_SECONDS", "0")
    loaded: dict[str, Any] = {}
    real = worker.load_for
    # A run leaves the model as it found it: one is loaded for all of them.
    monkeypatch.setattr(
        worker, "load_for", lambda *which: loaded.get("model") or loaded.setdefault("model", real(*which))
    )
    return Running(model, tmp_path)


def test_a_run_whose_disk_fails(running: Running, outcome: Outcome) -> None:
    problems, ended = [], {"stopped": 0, "failed": 0, "finished": 0}
    disks = running.whole()
    for disk in disks:
        put(running.before, running.store)
        error = outcome_of(running.go, disk)
        end = (
            "finished"
            if error is None
            else "failed"
            if any((running.store / ".failed").glob("*"))
            else "stopped"
        )
        ended[end] += 1
        if error is None and content(running.store) != running.expected:
            problems.append(f"{disk}: said nothing")
        problems += [f"{disk}: {problem}" for problem in running.mended()]
    assert problems == []
    assert min(ended.values()) > 0
    outcome(
        f"an I/O error, no space or no permission at each of {len(disks)} file operations of a run",
        f"{ended['stopped']} times a one-line error, {ended['failed']} times the run alone failed, else the "
        "study went on; finished runs kept; the same command then finished, byte-identical",
    )


def test_a_run_killed_at_every_operation(running: Running, tmp_path: Path, outcome: Outcome) -> None:
    """A kill leaves on the disk what is there at that moment: each of these is copied, then gone on from."""
    running.whole()
    put(running.before, running.store)
    kept: dict[State, Path] = {}

    def keep() -> None:
        if (now := state(running.store)) not in kept:
            kept[now] = tmp_path / f"killed-{len(kept)}"
            shutil.copytree(running.store, kept[now])

    with watched(Disk(running.store, before_change=keep)):
        running.go()
    problems = []
    for folder in kept.values():
        put(folder, running.store)
        problems += [f"{folder.name}: {problem}" for problem in running.mended()]
    assert problems == []
    outcome(
        "killed at each file operation of a run, and in the middle of each write",
        f"{len(kept)} states of the disk; finished runs kept; the same command then finished, byte-identical",
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs, rows = simulate({"none": 0.4}, seeds=(0,), examples=3, languages=["en", "de"])
    return write_store(tmp_path_factory.mktemp("results") / "store", runs, rows)


READERS: dict[str, Callable[[Path], object]] = {
    "results": lambda folder: csv_text(api.results(folder).scores),
    "check": audit,
    "report": lambda folder: api.report(folder, folder / "out" / "report.html").read_bytes(),
    "export": lambda folder: [
        path.read_bytes() for path in api.results(folder).export(folder / "out", ["csv", "tex"])
    ],
}


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_run_is_replaced_or_stays(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    if not in_one_step:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    folder, problems = tmp_path / "store", []
    put(results, folder)
    (run,), before = store.read_runs(folder), content(folder)
    fresh = store.read_table(folder, run.id).with_columns(prediction=pl.lit("new"))

    def replace() -> None:
        store.save(folder, run, fresh)

    disks = list(failing(replace, folder))
    after = content(folder)
    for disk in disks:
        put(results, folder)
        error = outcome_of(replace, disk)
        # An error behind the exchange itself, as of the folder's fsync, finds the new run in place.
        if audit(folder).problems or content(folder) not in ((before, after) if error else (after,)):
            problems.append(f"{disk}: {error}: {audit(folder)}")
    assert problems == []


@pytest.mark.parametrize("name", READERS)
def test_a_command_whose_disk_fails(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(api, "placed_claims", lambda claims: [])
    monkeypatch.setattr(html, "vega_bundle", lambda: "")
    for module in (exporting, views):  # without charts, which take long and meet no file of their own
        monkeypatch.setattr(module, "contents", lambda part: [x for x in contents(part) if x.chart is None])
    folder, problems = tmp_path / "store", []
    put(results, folder)
    expected = READERS[name](folder)
    whole = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()
    }
    told = 0
    for disk in failing(lambda: READERS[name](folder), folder):
        end = outcome_of(lambda: READERS[name](folder), disk)
        told += end != expected
        if end != expected and not isinstance(end, Exception) and not getattr(end, "problems", ()):
            problems.append(f"{disk}: left something out without a word")
        now = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()
        }
        if now != whole:
            problems.append(f"{disk}: other files: {now.keys() ^ whole.keys()}")
    assert problems == []
    assert told > 0
    assert READERS[name](folder) == expected


def test_an_error_of_the_disk_is_one_line(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["crosstune", "results", str(results)])
    with watched(Disk(results, 4, errno.EIO)), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"error: {results}: Input/output error\n")
    monkeypatch.setattr(sys, "argv", ["crosstune", "--debug", "results", str(results)])
    with watched(Disk(results, 4, errno.EIO)), pytest.raises(OSError, match="Input/output error"):
        cli.main()
