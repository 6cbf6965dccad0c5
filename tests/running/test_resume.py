"""A run killed at any moment and made again in its work folder is the run that was never stopped."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crosstune.models.loading.load import load
from crosstune.running.execute import LoadedModel, execute
from crosstune.running.progress import display
from crosstune.running.task_data import read_data
from crosstune.store import store
from crosstune.store.record import RunRecord
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from saved_model import study_of

# Makes one run, and ends at the step or the batch it is told to, with no chance to tidy up.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch
from rich.console import Console
from crosstune.models.loading.load import load
from crosstune.running.task_data import read_data
from crosstune.running.execute import LoadedModel, execute
from crosstune.study.runs import expand
from crosstune.running.progress import Display
from crosstune.study.spec import Study

torch.set_num_threads(1)
given = json.loads(sys.argv[1])
run = expand(Study(**given["study"]))[0]

class Deadly(Display):
    steps = batches = 0

    def trained(self, progress):
        self.steps += 1
        if self.steps == given["step"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def evaluated(self, count):
        self.batches += 1
        if self.batches == given["batch"]:
            os.kill(os.getpid(), signal.SIGKILL)

shown = Deadly(Console(file=sys.stdout, width=200), 1, 0, lambda: None)
lm = load(run.model, device="cpu", dtype="float32")
data = read_data(run.task.make(), run.languages, run.evaluate.limit, True, [run.train])
made = execute(run, LoadedModel(lm, 0.0), data, shown, work=Path(given["work"]))
made.save(Path(given["store"]))
"""

LORA = {"name": "lora", "dropout": 0.2}
SETTINGS = {"steps": 6, "batch_size": 4, "evaluate_every": 2, "dev_limit": 4}
# Several batches of the test examples.
EVALUATE = {"limit": 6, "max_answer_tokens": 4, "tokens_per_pass": 120}


def study(model: Path, folder: Path, method: Any, task: str) -> dict[str, Any]:
    changes: dict[str, Any] = {"tasks": [task], "methods": [method], "train": SETTINGS, "evaluate": EVALUATE}
    return study_of(model, folder, **changes)


def make(tmp_path: Path, name: str, given: dict[str, Any], step: int = 0, batch: int = 0) -> tuple[int, str]:
    """Make a run in a process of its own; how it ended and what it said."""
    told = {"study": given, "work": str(tmp_path / "work" / name), "store": str(tmp_path / name)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(told | {"step": step, "batch": batch})],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def content(folder: Path) -> tuple[RunRecord, dict[str, bytes]]:
    record = store.read_runs(folder)[0]
    run_folder = folder / record.id
    names = ("weights.safetensors", "predictions.parquet")
    return record, {name: (run_folder / name).read_bytes() for name in names if (run_folder / name).exists()}


@pytest.mark.parametrize(
    ("method", "task"), [(LORA, "number-words"), ("prefix", "cldr-names")], ids=["written", "choices"]
)
def test_killed_in_training_and_in_evaluation(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any, task: str
) -> None:
    monkeypatch.setenv("CROSSTUNE_CHECKPOINT_SECONDS", "0")
    spec = study(model, tmp_path / "store", method, task)
    assert make(tmp_path, "whole", spec)[0] == 0
    assert make(tmp_path, "killed", spec, step=4) == (-9, "")
    code, log = make(tmp_path, "killed", spec, batch=2)
    assert (code, log) == (-9, "  training resumes after step 3\n")
    code, log = make(tmp_path, "killed", spec)
    assert code == 0, log
    assert log.startswith("  training resumes after step 6\n  evaluation resumes after ")
    wanted, files = content(tmp_path / "whole")
    record, after = content(tmp_path / "killed")
    assert set(files) == {"weights.safetensors", "predictions.parquet"}
    assert after == files
    assert (record.cost.resumed, wanted.cost.resumed) == (2, 0)
    for name in ("curve", "dev", "chosen_step", "fingerprints", "trained_parameters"):
        assert getattr(record, name) == getattr(wanted, name)
    for name in ("train_tokens", "train_padded_tokens", "test_tokens", "steps", "halvings"):
        assert getattr(record.cost, name) == getattr(wanted.cost, name)
    assert record.cost.test_tokens > 0


def test_an_untrained_run_goes_on_in_evaluation(model: Path, tmp_path: Path) -> None:
    spec = study(model, tmp_path / "store", "none", "cldr-names")
    assert make(tmp_path, "whole", spec)[0] == 0
    assert make(tmp_path, "killed", spec, batch=3)[0] == -9
    code, log = make(tmp_path, "killed", spec)
    assert code == 0, log
    assert "evaluation resumes after" in log
    assert content(tmp_path / "killed")[1] == content(tmp_path / "whole")[1]


def test_work_of_other_data_is_not_gone_on_from(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTUNE_CHECKPOINT_SECONDS", "0")
    run = expand(Study(**study(model, tmp_path / "store", LORA, "cldr-names")))[0]
    loaded = LoadedModel(load(run.model, device="cpu", dtype="float32"), 0.0)
    work, log = tmp_path / "work", io.StringIO()
    shown = display(Console(file=log, width=200), 1, 0)
    data = read_data(run.task.make(), run.languages, 4, True, [run.train])
    execute(run, loaded, data, shown, work)
    changed = read_data(run.task.make(), run.languages, 4, True, [run.train])
    changed.fingerprints["train"]["en"] = "another"
    outcome = execute(run, loaded, changed, shown, work)
    assert outcome.record.cost.resumed == 0
    assert "is not used: trained from the start" in log.getvalue()
    assert "are not used: starting again" in log.getvalue()
    again = execute(run, loaded, changed, shown, work)
    # All of it was there: training and evaluation, with the time they took.
    assert again.record.cost.train_seconds == outcome.record.cost.train_seconds
    assert again.predictions.equals(outcome.predictions)


def test_a_work_folder_that_cannot_be_made(model: Path, tmp_path: Path) -> None:
    run = expand(Study(**study(model, tmp_path / "store", LORA, "cldr-names")))[0]
    loaded = LoadedModel(load(run.model, device="cpu", dtype="float32"), 0.0)
    log = io.StringIO()
    data = read_data(run.task.make(), run.languages, 2, True, [run.train])
    (tmp_path / "file").write_text("")
    shown = display(Console(file=log, width=200), 1, 0)
    outcome = execute(run, loaded, data, shown, tmp_path / "file" / "work")
    assert outcome.predictions.height == 2 * len(run.languages)
    assert "cannot be written" in log.getvalue()
