"""A store of 200 runs: planned, read and checked, with few reads and in memory that stays flat."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

import crosstune
from crosstune.analysis.transfer import language_scores, transfer
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from saved_model import study_of, write_study

pytestmark = pytest.mark.slow

MIB = 2**20
MOST = 256 * MIB
GROWTH = 20 * MIB
RUNS = 200
SEEDS = RUNS // 5


@dataclass(frozen=True)
class Made:
    """A finished study and its file."""

    study: Study
    file: Path


def settings(model: Path, store: Path, seeds: int) -> dict[str, Any]:
    """Five runs a seed."""
    return study_of(
        model, store, tasks=[{"name": "number-words", "largest": 99}], languages=["de"],
        methods=["lora", "soft-prompt"], grid={"soft-prompt.length": [1, 2, 3, 4]}, seeds=list(range(seeds)),
        train={"steps": 1, "batch_size": 2}, evaluate={"limit": 2, "max_answer_tokens": 2},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def few(model: Path, folder: Path) -> Made:
    """A tenth of the runs, each trained and evaluated."""
    options = settings(model, folder / "few", SEEDS // 10)
    study = Study(**options)
    done = run_study(study, console=Console(file=io.StringIO())).done
    assert len(set(done)) == RUNS // 10
    return Made(study, write_study(folder / "few.yaml", options))


def _copy(file: Path, at: Path) -> None:
    shutil.copyfile(file, at)


@pytest.fixture(scope="module")
def many(model: Path, folder: Path, few: Made) -> Made:
    """All runs: what a seed of the few gave stands for ten seeds."""
    options = settings(model, folder / "many", SEEDS)
    study = Study(**options)
    trained = {(run.label, run.seed): few.study.folder / run.id for run in expand(few.study)}
    for run in expand(study):
        like = trained[run.label, run.seed % (SEEDS // 10)]
        record = store.read_run(like)
        train = {**(record.train or {}), "seed": run.seed}
        store.save(
            study.folder,
            record.model_copy(update={"id": run.id, "seed": run.seed, "train": train}),
            pl.read_parquet(like / store.PREDICTIONS),
            partial(_copy, like / store.WEIGHTS),
        )
    assert len(store.finished(study.folder)) == RUNS
    return Made(study, write_study(folder / "many.yaml", options))


@dataclass(frozen=True)
class Told:
    """What a command printed, how often it opened files in the store, and the most memory it held.

    Attributes:
        text: Standard output.
        opened: Times that each kind of file of a run was opened for reading, by its name.
        light: Whether PyTorch was never imported.
        peak: Bytes.
    """

    text: str
    opened: dict[str, int]
    light: bool
    peak: int


# A process starts with the memory of the one it was forked from, and its peak remembers: a small one between.
BETWEEN = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]), file=sys.stderr)
"""

# The command itself, with every file that Python opens counted by its name.
COUNTED = """
import atexit, collections, json, os, sys
store, counts = sys.argv.pop(1), collections.Counter()
def opened(event, arguments):
    # `open` with an opener of its own is told twice: once by itself, once by `os.open`, which has no mode.
    if event == "open" and arguments[1] is not None and str(arguments[0]).startswith(store + os.sep):
        counts[os.path.basename(str(arguments[0]))] += 1
sys.addaudithook(opened)
atexit.register(lambda: print(json.dumps([counts, "torch" not in sys.modules]), file=sys.stderr))
from crosstune.cli.main import main
main()
"""


def command(store: Path, *arguments: str) -> Told:
    """The real command, in a process of its own, with the files of a store counted that it opens."""
    python = [sys.executable, "-c", COUNTED, str(store), *arguments]
    done = subprocess.run(
        [sys.executable, "-c", BETWEEN, *python], capture_output=True, text=True, check=True
    )
    *_, counted, between = done.stderr.splitlines()
    code, peak = json.loads(between)
    assert code == 0, done.stderr
    opened, light = json.loads(counted)
    return Told(done.stdout, opened, light, peak * (1 if sys.platform == "darwin" else 1024))


def light_and_flat(of_many: Told, of_few: Told, *, most_reads: int) -> None:
    """No PyTorch, no file of a run read more often than so, and no memory that grows with the store.

    One run of a task is read once more, for its level of guessing.
    """
    assert of_many.light
    assert max(of_many.opened.values()) <= most_reads * RUNS + 1, of_many.opened
    assert of_many.peak < MOST
    assert of_many.peak - of_few.peak < GROWTH


def test_plan(many: Made, few: Made) -> None:
    command(many.study.folder, "plan", str(many.file))  # a model's shape is asked of transformers once
    told, small = (command(built.study.folder, "plan", str(built.file), "--json") for built in (many, few))
    plan = json.loads(told.text)
    assert (plan["runs"], plan["done"], json.loads(small.text)["done"]) == (RUNS, RUNS, RUNS // 10)
    light_and_flat(told, small, most_reads=1)
    assert told.opened["run.json"] == RUNS, "each record once: one that is broken is named"


def test_plan_of_what_is_not_done_yet(many: Made, model: Path, folder: Path) -> None:
    file = write_study(folder / "none.yaml", settings(model, folder / "none", SEEDS))
    command(folder / "none", "plan", str(file))
    told = command(folder / "none", "plan", str(file))
    assert f"{RUNS} runs on cpu in float32: 0 finished, {RUNS} to do" in told.text
    assert (told.light, told.opened) == (True, {})


def test_results(many: Made, few: Made) -> None:
    told, small = (command(built.study.folder, "results", str(built.study.folder)) for built in (many, few))
    assert f"{SEEDS} seeds per method" in " ".join(told.text.split())
    # Methods that score alike, as these do, have their answers read as well: are they the same?
    light_and_flat(told, small, most_reads=3)
    assert told.opened == {
        "run.json": RUNS,
        "predictions.parquet": 2 * RUNS + 1,
        "checksums.json": 3 * RUNS + 1,
    }
    csv = command(many.study.folder, "results", str(many.study.folder), "--format", "csv").text
    rows = pl.read_csv(csv.encode())
    assert rows.height == RUNS * 2
    # Each mean against the rows of that run's own file.
    for run, language, score in rows.sample(40, seed=0).select("run", "language", "score").iter_rows():
        table = pl.read_parquet(many.study.folder / run / "predictions.parquet")
        part = table.filter(pl.col("language") == language)["score"].to_list()
        assert score == pytest.approx(sum(part) / len(part))


def test_results_read_run_by_run(many: Made) -> None:
    """The same numbers as from all predictions in one table."""
    results = crosstune.results(many.study.folder)
    at_once = language_scores(results.runs, results.predictions)
    assert results.scores.equals(at_once)
    assert transfer(results.scores).equals(transfer(at_once))


def test_check_and_a_second_start(many: Made) -> None:
    assert f"{RUNS} results are whole" in command(many.study.folder, "check", str(many.study.folder)).text
    assert run_study(many.study, console=Console(file=io.StringIO())).done == []


def test_a_damaged_run_among_many_is_found(many: Made) -> None:
    run = sorted(expand(many.study), key=lambda run: run.id)[RUNS * 4 // 5].id
    file = many.study.folder / run / "predictions.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    try:
        for verb in ("results", "check"):
            argv = [sys.executable, "-m", "crosstune", verb, str(many.study.folder)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.returncode == 2
            assert f"{run}/predictions.parquet is damaged" in done.stdout + done.stderr
    finally:
        file.write_bytes(content)
