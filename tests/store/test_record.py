"""RunRecord: old run.json are read, new ones come back as they went, and what is wrong is one line."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosstune.errors import UserError
from crosstune.store.record import RECORD_VERSION, RunRecord
from simulated import simulate, write_store

OLD = Path(__file__).parent / "records"
"""run.json as crosstune wrote them before they had a version: a result, one without training, a search."""


@pytest.mark.parametrize(
    ("name", "kind", "facts"),
    [
        ("result", "result", (True, True, False)),
        ("search", "search", (True, True, False)),
        ("untrained", "result", (False, False, True)),
    ],
)
def test_an_old_record_is_read(name: str, kind: str, facts: tuple[bool, bool, bool]) -> None:
    content = json.loads((OLD / f"{name}.json").read_text())
    assert "record_version" not in content
    record = RunRecord.read(OLD / f"{name}.json")
    told = record.method_facts
    assert (record.kind, told.trains, told.random, told.untuned) == (kind, *facts)
    assert record.record_version == RECORD_VERSION
    assert record.method.settings == {key: value for key, value in content["method"].items() if key != "name"}
    # Every key is kept as it was, those that the model does not name among them.
    written = record.model_dump(mode="json")
    for key in content:
        if isinstance(content[key], dict):
            assert written[key].items() >= content[key].items(), key
        else:
            assert written[key] == content[key], key


def test_few_shot_draws_but_is_untuned(tmp_path: Path) -> None:
    content = json.loads((OLD / "untrained.json").read_text())
    content["method"] = {"name": "few-shot", "k": 4}
    (tmp_path / "run.json").write_text(json.dumps(content))
    told = RunRecord.read(tmp_path / "run.json").method_facts
    assert (told.trains, told.random, told.untuned) == (False, True, True)


def test_an_older_label_is_read_as_one_of_today(tmp_path: Path) -> None:
    """Else the seeds of one method would have two names."""
    content = json.loads((OLD / "untrained.json").read_text())
    content["method"] = {"name": "few-shot", "k": 4, "turns": True}
    content |= {"label": "few-shot k 2 turns True", "train": {"by_length": True}}
    for label, read in {
        "few-shot turns True by length True": "few-shot turns by length",
        "True": "True",
    }.items():
        (tmp_path / "run.json").write_text(json.dumps(content | {"label": label}))
        assert RunRecord.read(tmp_path / "run.json").label == read


def test_a_record_says_what_its_method_is_whatever_its_name(tmp_path: Path) -> None:
    content = RunRecord.read(OLD / "untrained.json").model_dump(mode="json")
    content["method_facts"] = {"trains": False, "random": True, "untuned": False}
    (tmp_path / "run.json").write_text(json.dumps(content))
    told = RunRecord.read(tmp_path / "run.json").method_facts
    assert (told.trains, told.random, told.untuned) == (False, True, False)


def _without(*path: str) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return change


def _with(value: Any, *path: str | int) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


WRONG = [
    (_without("task"), "has no task;"),
    (_without("task", "version"), "has no task.version;"),
    (_without("seed"), "has no seed;"),
    (_without("cost"), "has no cost;"),
    (_with("0", "seed"), 'seed should be a whole number; found "0";'),
    (_with(None, "cost"), "cost should be an object; found null;"),
    (_with("en", "languages"), 'languages should be a list; found "en";'),
    (_with([], "task", "metrics"), "task.metrics list should have at least 1 item"),
    (_with("high", "curve", 0, "loss"), 'curve.0.loss should be a number; found "high";'),
    (_with(3, "fingerprints", "test", "en"), "fingerprints.test.en should be text; found 3;"),
    (_with("draft", "kind"), "kind should be 'result', 'search' or 'stage'; found \"draft\";"),
    (_with(99, "record_version"), f"record_version should be {RECORD_VERSION} or less: a newer crosstune"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    content = copy.deepcopy(json.loads((OLD / "result.json").read_text()))
    change(content)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        RunRecord.read(file)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "should be a mapping; found a list"),
        ("{}", "has no id"),
        ("", "is no JSON"),
    ],
)
def test_what_is_no_record(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        RunRecord.read(tmp_path / "run.json")


@pytest.mark.parametrize("verb", ["results", "report", "export", "verdict", "check"])
def test_every_command_says_it_in_one_line(tmp_path: Path, verb: str) -> None:
    """The real commands, on a store whose checksums are right and whose record lacks its task."""
    from crosstune.files import sha256_of

    store = write_store(tmp_path / "s", *simulate({"lora": 0.5, "none": 0.4}, languages=["en", "de"]))
    folder = sorted(store.glob("[0-9a-f]*"))[0]
    content = json.loads((folder / "run.json").read_text())
    del content["task"]
    (folder / "run.json").write_text(json.dumps(content))
    sums = json.loads((folder / "checksums.json").read_text())
    sums["run.json"] = sha256_of(folder / "run.json")
    (folder / "checksums.json").write_text(json.dumps(sums))
    options = [verb, str(store), *([str(tmp_path / "out")] if verb == "export" else [])]
    command = [sys.executable, "-m", "crosstune", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    message = " ".join((done.stdout + done.stderr).split())
    assert f"{folder / 'run.json'}: has no task;" in message
    assert "Traceback" not in message


def test_it_needs_no_torch_and_no_polars() -> None:
    code = "import sys, crosstune.store.record; assert not {'torch', 'polars'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
