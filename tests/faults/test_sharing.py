"""Several processes on one store: every run made once, by one of them, and the same bits as by one alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crosstune.errors import UserError
from crosstune.running.resume.locks import RunLocks
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.store.provenance import _git
from crosstune.study.spec import Study
from saved_model import study_of, write_study

Outcome = Callable[[str, str], None]
METHODS: list[Any] = ["lora", "prefix", "soft-prompt", "none"]


def start(study: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "crosstune", "run", str(study)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_a_study_out(model: Path, tmp_path: Path, outcome: Outcome) -> None:
    settings = study_of(
        model, tmp_path / "shared", tasks=["number-words"], methods=METHODS, seeds=[0, 1, 2],
        search={"learning_rates": [1e-3, 1e-2]}, train={"steps": 4, "batch_size": 4, "dev_limit": 4},
    )  # fmt: skip
    file = write_study(tmp_path / "x.yaml", settings)
    both = [start(file), start(file)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    shared = Study(**settings)
    alone = shared.model_copy(update={"store": str(tmp_path / "alone")})
    ids = set(run_study(alone, console=Console(quiet=True)).done)
    assert store.finished(shared.folder) == ids
    assert len(ids) == 3 * 2 + 3 * 3 + 1
    made = [line for text in said for line in text.splitlines() if line.startswith("[")]
    assert len(made) == len(ids), "a run was made twice"
    for run_id in ids:
        for name in ("weights.safetensors", "predictions.parquet"):
            one, other = (s.folder / run_id / name for s in (shared, alone))
            assert one.is_file() == other.is_file()
            assert not one.is_file() or one.read_bytes() == other.read_bytes(), (run_id, name)
    for folder in (".work", ".failed", ".damaged"):
        assert not list((shared.folder / folder).glob("*"))
    outcome("two processes on one store", f"{len(ids)} runs, each executed once; same bytes as one process")


def test_a_claim_is_one_process_alone(tmp_path: Path) -> None:
    locks = RunLocks(tmp_path)
    code = (
        "import sys, pathlib; from crosstune.running.resume.locks import RunLocks\n"
        "with RunLocks(pathlib.Path(sys.argv[1])).acquire('a') as mine: print(mine)\n"
    )

    def other() -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with locks.acquire("a") as mine:
        assert mine
        assert other() == "False"
    assert other() == "True"
    assert not locks.held("a")


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from crosstune.running.resume.locks import RunLocks\n"
        "with RunLocks(Path(sys.argv[1])).acquire('a') as mine: print(mine, flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "True"
    assert RunLocks(tmp_path).held("a")
    holder.kill()
    holder.wait()
    assert not RunLocks(tmp_path).held("a")


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
