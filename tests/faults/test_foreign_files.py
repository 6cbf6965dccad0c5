"""Files of somebody else: none is overwritten, written through a link, or run because a store names it."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from crosstune.errors import UserError
from crosstune.running.predict import predict
from crosstune.running.runner import run_study
from crosstune.store import store as stored
from crosstune.study.spec import Study, read_study
from other_process import call
from saved_model import study_of, write_study

SPY = """\
from pathlib import Path
from crosstune.tasks.base import Example, Task

Path({mark!r}).write_text("run")


class Spy(Task):
    name, version, kind, metrics, summary = "spy", 1, "choice", ("accuracy",), "leaves a mark when it is run"
    split_names = {{"train": "made", "test": "made"}}

    def languages(self):
        return ["en"]

    def examples(self, split, language):
        return [Example(str(i), language, f"{{split}} {{i}}:", ("a",), ("a", "b")) for i in range(3)]
"""


def go(study: Study) -> str:
    log = io.StringIO()
    run_study(study, console=Console(file=log, width=300))
    return log.getvalue()


def test_predict_runs_no_file_that_only_the_store_names(model: Path, tmp_path: Path) -> None:
    mark, task = tmp_path / "mark", tmp_path / "spy.py"
    task.write_text(SPY.format(mark=str(mark)))
    study = Study(
        **study_of(model, tmp_path / "store", tasks=[str(task)], methods=["none"], languages=["en"])
    )
    go(study)
    (run,) = stored.read_runs(study.folder)
    mark.unlink()
    harmed = task.read_text() + "\n# and one line more\n"
    task.write_text(harmed)
    for told in (None, task):
        with pytest.raises(UserError):
            predict(study.folder / run.id, "train 0:", raw=True, task_file=told)
        assert not mark.exists(), "the file was run before it was compared"
    task.write_text(SPY.format(mark=str(mark)))
    # The same content in the same place, but only the store says so. A new process: it knows no task yet.
    command = ["predict", str(study.folder / run.id), "--raw", "--text", "train 0:"]
    code, _, err = call(tmp_path, *command)
    assert code == 2
    assert err == (
        f"error: run {run.id} was made with a Python task, which predict would run; if you trust it, add "
        f"--task {task}\n"
    )
    assert not mark.exists()
    moved = tmp_path / "moved.py"
    shutil.move(task, moved)
    assert call(tmp_path, *command, "--task", str(moved))[0] == 0
    assert mark.exists()


@pytest.mark.parametrize("inside", ["other.yaml", "study.yaml"])
def test_a_folder_with_a_study_of_ones_own_is_no_store(model: Path, tmp_path: Path, inside: str) -> None:
    home = tmp_path / "examples"
    home.mkdir()
    ours = home / "study.yaml"
    ours.write_text("# mine, with notes\nname: mine\n")
    settings = study_of(model, home, methods=["none"], languages=["de"])
    file = write_study(tmp_path / "x.yaml" if inside == "other.yaml" else ours, settings)
    before = ours.read_text()
    with pytest.raises(UserError, match=r"study\.yaml is there already, but .* is no store"):
        go(read_study(file))
    assert ours.read_text() == before
    assert [path.name for path in home.iterdir()] == ["study.yaml"]


def test_a_store_is_gone_on_with(model: Path, tmp_path: Path) -> None:
    first = Study(**study_of(model, tmp_path / "s", methods=["none"], languages=["de"]))
    go(first)
    again = first.model_copy(update={"name": "other"})
    assert "nothing to do" in go(again)
    assert (tmp_path / "s" / "study.yaml").read_text() == again.to_yaml()
    # Of a copy without hidden files, the runs tell that it is a store.
    shutil.rmtree(tmp_path / "s" / ".claims")
    assert "nothing to do" in go(first)


@pytest.mark.parametrize("words", [("run", "--store", ""), ("plan", "--store", ""), ("run", "--device", "")])
def test_an_empty_option_is_refused(model: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    file = write_study(tmp_path / "x.yaml", study_of(model, tmp_path / "s"))
    code, _, err = call(tmp_path, words[0], str(file), *words[1:])
    assert code == 2
    assert err == f"error: {words[1]} is empty; give it a value, or leave it out\n"
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_an_empty_store_is_refused(model: Path, tmp_path: Path) -> None:
    file = write_study(tmp_path / "x.yaml", study_of(model, tmp_path) | {"store": ""})
    with pytest.raises(UserError, match=r"x\.yaml:\d+: store: is empty"):
        read_study(file)


@pytest.mark.parametrize(
    "place", [".claims", ".claims/ID.lock", ".work", ".work/ID", ".work/ID/pass.json",
              ".work/ID/journal.jsonl", ".work/ID/resumed", ".failed", ".failed/ID.json",
              ".damaged", ".workers/1.log", "trackers"]
)  # fmt: skip
def test_nothing_is_written_through_a_link(model: Path, tmp_path: Path, place: str) -> None:
    study = Study(**study_of(model, tmp_path / "s", methods=["none"], languages=["de"]))
    victim = tmp_path / "victim"
    if place.endswith((".json", ".jsonl", "resumed", ".lock", ".log")):
        victim.write_text("precious")
    else:
        victim.mkdir()
        (victim / "file").write_text("precious")
    link = study.folder / place.replace("ID", "0123456789abcdef")
    link.parent.mkdir(parents=True)
    (study.folder / ".claims").mkdir(exist_ok=True) if place != ".claims" else None
    link.symlink_to(victim)
    with pytest.raises(UserError, match=f"{link} is a symbolic link"):
        go(study)
    if victim.is_dir():
        assert [path.name for path in victim.iterdir()] == ["file"]
    else:
        assert victim.read_text() == "precious"


def test_the_stores_study_takes_the_place_of_a_link(model: Path, tmp_path: Path) -> None:
    study = Study(**study_of(model, tmp_path / "s", methods=["none"], languages=["de"]))
    go(study)
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "s" / "study.yaml").unlink()
    (tmp_path / "s" / "study.yaml").symlink_to(tmp_path / "victim")
    go(study)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "s" / "study.yaml").is_symlink()
