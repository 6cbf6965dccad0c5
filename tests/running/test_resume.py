"""A run killed at any moment and made again in its work folder is the run that was never stopped."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crosstune.models.loading.load import load
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.execute import LoadedModel, execute
from crosstune.running.progress import display
from crosstune.running.task_data import read_data
from crosstune.store import store
from crosstune.store.record import RunRecord
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from other_process import ended, killed_in, log_of, start
from saved_model import study_of

LORA = {"name": "lora", "dropout": 0.2}
SETTINGS = {"steps": 6, "batch_size": 4, "evaluate_every": 2, "dev_limit": 4}
# Several batches of the test examples.
EVALUATE = {"limit": 6, "max_answer_tokens": 4, "tokens_per_pass": 120}


def study(model: Path, folder: Path, method: Any, task: str) -> Study:
    changes: dict[str, Any] = {"tasks": [task], "methods": [method], "train": SETTINGS, "evaluate": EVALUATE}
    return Study(**study_of(model, folder, **changes))


def make(spec: Study, step: int = 0, batch: int = 0) -> tuple[int, str]:
    """Run a study in a process of its own, killed at a step or a batch; how it ended and what it said."""
    log = log_of(spec.folder)
    log.unlink(missing_ok=True)
    code = ended(start(spec, partial(killed_in, step, batch)))
    return code, log.read_text(encoding="utf-8")


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
    whole, killed = (study(model, tmp_path / name, method, task) for name in ("whole", "killed"))
    assert make(whole)[0] == 0
    code, log = make(killed, step=4)
    assert (code, "resumes" in log) == (-9, False)
    code, log = make(killed, batch=2)
    assert code == -9
    assert "  training resumes after step 3\n" in log
    assert "evaluation resumes" not in log
    code, log = make(killed)
    assert code == 0, log
    assert "  training resumes after step 6\n  evaluation resumes after " in log
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
    whole, killed = (study(model, tmp_path / name, "none", "cldr-names") for name in ("whole", "killed"))
    assert make(whole)[0] == 0
    assert make(killed, batch=3)[0] == -9
    code, log = make(killed)
    assert code == 0, log
    assert "evaluation resumes after" in log
    assert content(tmp_path / "killed")[1] == content(tmp_path / "whole")[1]


def test_work_of_other_data_is_not_gone_on_from(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTUNE_CHECKPOINT_SECONDS", "0")
    run = expand(study(model, tmp_path / "store", LORA, "cldr-names"))[0]
    loaded = LoadedModel(load(run.model, device="cpu", dtype="float32"), 0.0)
    work, log = tmp_path / "work", io.StringIO()
    shown = display(Console(file=log, width=200), 1, 0)
    data = read_data(run.task.make(), run.languages, EvaluateSettings(limit=4), True, [run.train])
    execute(run, loaded, data, shown, work)
    changed = read_data(run.task.make(), run.languages, EvaluateSettings(limit=4), True, [run.train])
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
    run = expand(study(model, tmp_path / "store", LORA, "cldr-names"))[0]
    loaded = LoadedModel(load(run.model, device="cpu", dtype="float32"), 0.0)
    log = io.StringIO()
    data = read_data(run.task.make(), run.languages, EvaluateSettings(limit=2), True, [run.train])
    (tmp_path / "file").write_text("")
    shown = display(Console(file=log, width=200), 1, 0)
    outcome = execute(run, loaded, data, shown, tmp_path / "file" / "work")
    assert outcome.predictions.height == 2 * len(run.languages)
    assert "cannot be written" in log.getvalue()
