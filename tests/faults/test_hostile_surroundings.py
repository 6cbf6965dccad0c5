"""Programs, links, names and texts of somebody else: none is run, followed, fetched or acted out."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from crosstune.analysis.predictions import as_predictions
from crosstune.data.source import FileLayout, find_places
from crosstune.data.tables import BadRow, read_json, read_rows
from crosstune.errors import UserError
from crosstune.models.loading import hub
from crosstune.report.page.html import write_report
from crosstune.report.sections import sections
from crosstune.report.text import csv_text
from crosstune.running.progress import display
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.store.provenance import _git
from crosstune.study.spec import Study
from saved_model import study_of
from simulated import simulate, write_store


def test_git_runs_no_program_that_a_checkout_names(tmp_path: Path) -> None:
    home, mark, program = tmp_path / "checkout", tmp_path / "mark", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)

    def git(folder: Path, *words: str) -> None:
        name = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", "-C", str(folder), *name, *words], check=True, capture_output=True)

    both = (home / "part", home)  # a checkout inside the other has settings of its own
    for folder in both:
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "-q")
        (folder / "a.txt").write_text("a")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", "x")
    for folder in both:
        git(folder, "config", "core.fsmonitor", str(program))
        for key in ("clean", "process"):
            git(folder, "config", f"filter.{folder.name}.{key}", str(program))
        git(folder, "config", f"filter.{folder.name}.required", "true")
        for place in ("info", "hooks"):
            (folder / ".git" / place).mkdir(exist_ok=True)
        (folder / ".git" / "info" / "attributes").write_text(f"*.txt filter={folder.name}\n")
        shutil.copy(program, folder / ".git" / "hooks" / "post-index-change")
        (folder / "a.txt").write_text("b")
    mark.unlink(missing_ok=True)
    state = _git(home)
    assert state is not None
    assert state["changed"] is True
    assert not mark.exists()


@pytest.mark.parametrize("named", ["*", "*.py", "setup.py", "../x.safetensors", "[a].safetensors"])
def test_an_index_names_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model-1.safetensors", "v": named}}))
    monkeypatch.setattr(hub.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", lambda *_, **__: str(index))
    with pytest.raises(UserError, match="which is no safetensors file; it is not fetched"):
        hub._weight_names("owner/model", "commit")
    index.write_text(json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors"}}))
    assert hub._weight_names("owner/model", "commit") == ["model-00001-of-00002.safetensors"]


def test_notes_do_not_act_on_a_terminal() -> None:
    log = io.StringIO()
    display(Console(file=log, width=200), 1, 0).note("label \x1b]0;title\x07 \x9b31m \r\n'x'")
    assert log.getvalue() == "label \\x1b]0;title\\x07 \\x9b31m \\r\\n'x'\n"


def test_csv_neither_acts_nor_computes() -> None:
    texts = ["=1+1", "@sum", "+cmd|x", "-2+3", "-0.5", "+3", "plain", "a\x1b[2J", "b\nc", None]
    table = pl.DataFrame({"text": texts, "score": [-0.5] * len(texts)})
    back = pl.read_csv(io.StringIO(csv_text(table)), infer_schema=False)
    assert back["text"].to_list() == [
        "'=1+1", "'@sum", "'+cmd|x", "'-2+3", "-0.5", "+3", "plain", "a⟨U+001B⟩[2J", "b⏎c", None
    ]  # fmt: skip
    assert set(back["score"]) == {"-0.5"}


@pytest.mark.parametrize("harm", ["a folder", "a link to nothing"])
def test_a_language_whose_file_is_none_is_named(tmp_path: Path, harm: str) -> None:
    (tmp_path / "test_de.csv").write_text("text\nx\n")
    other = tmp_path / "test_sw.csv"
    other.mkdir() if harm == "a folder" else other.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"test_sw\.csv is where test_\{code\}\.csv has a file, and is none"):
        find_places(tmp_path, [FileLayout("test_{code}.csv", ("text",))], "en")


def test_a_run_without_checksums_is_not_left_out_of_results(tmp_path: Path) -> None:
    runs, rows = simulate({"lora": 0.5, "none": 0.4}, seeds=(0,), examples=3, languages=["en", "de"])
    home = write_store(tmp_path, runs, rows)
    lost = next(home.glob("*/checksums.json"))
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost} is missing; run the study again"):
        store.read_runs(home)


def test_a_name_twice_and_numbers_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label,text\na,b,c\n")
    with pytest.raises(UserError, match=r"t\.csv:1: the column 'text' is there twice"):
        read_rows(tmp_path / "t.csv", ["text"])
    (tmp_path / "t.jsonl").write_text('{"text": "a", "text": "b"}\n{"text": NaN}\n{"text": "c"}\n')
    first, second, third = read_rows(tmp_path / "t.jsonl", ["text"])
    assert isinstance(first, BadRow)
    assert "t.jsonl:1: not JSON: the key 'text' is there twice" in str(first)
    assert isinstance(second, BadRow)
    assert "t.jsonl:2: not JSON: NaN is no number" in str(second)
    assert not isinstance(third, BadRow)
    (tmp_path / "t.json").write_text('{"a": Infinity}')
    with pytest.raises(UserError, match="Infinity is no number"):
        read_json(tmp_path / "t.json")


def test_variables_are_read_before_anything_runs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(**study_of(model, tmp_path / "s", methods=["none"]))
    for name in ("CROSSTUNE_CHECKPOINT_SECONDS", "CROSSTUNE_STATES_GB", "CROSSTUNE_GPU_OFF"):
        monkeypatch.setenv(name, "3O")
        with pytest.raises(UserError, match=name):
            run_study(study, console=Console(quiet=True))
        monkeypatch.delenv(name)
    assert not study.folder.exists()


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, rows = simulate({"lora": 0.5}, seeds=(0,), examples=3, languages=["en", "de"])
    parts, predictions = sections(runs, rows), as_predictions(rows)
    target, victim = tmp_path / "report.html", tmp_path / "victim"
    victim.write_text("precious")
    target.symlink_to(victim)
    write_report(parts, predictions, target, "first")
    assert (victim.read_text(), target.is_symlink()) == ("precious", False)
    good = target.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crosstune.files.os.fsync", full)
    with pytest.raises(UserError, match="cannot write the report there"):
        write_report(parts, predictions, target, "second")
    assert target.read_bytes() == good
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "victim"]
