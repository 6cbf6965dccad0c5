"""Whatever stands in the place of a user's file or folder: soon one line that names it, and exit code 2."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from crosstune.cli import main as cli
from crosstune.data.source import FileLayout, find_places
from crosstune.errors import UserError
from crosstune.files import sha256_of
from crosstune.store import failures
from crosstune.store.store import open_store, read_runs
from crosstune.tasks.custom.load import load_task
from simulated import simulate, write_store
from test_cli import call

SECONDS = 30
"""What takes longer hangs: all of these are refused in milliseconds."""

Call = Callable[..., tuple[int, str]]
Door = Callable[[Path, str], list[str]]


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"still at work after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def crosstune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command in this process: exit code and standard error."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crosstune", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of finished runs."""
    runs, rows = simulate({"lora": 0.5, "none": 0.4}, seeds=(0,), examples=3, languages=["en", "de"])
    return write_store(tmp_path_factory.mktemp("store"), runs, rows)


def refused(end: tuple[int, str], name: str = "") -> None:
    """One line and exit code 2; the line names the file and acts on no terminal."""
    code, text = end
    *before, last = text.splitlines() or [""]
    assert code == 2, text
    assert last.startswith("error: "), text
    assert before == [], text
    assert last.isprintable()
    assert name in last


def study(home: Path, **changes: Any) -> list[str]:
    """The command that reads a study with these settings."""
    content = {
        "name": "bad",
        "model": "meta-llama/Llama-3.1-8B",
        "device": "cpu",
        "dtype": "float32",
        "tasks": ["cldr-names"],
        "methods": ["none"],
        "languages": ["de"],
    }
    file = home / "x.yaml"
    file.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return ["plan", str(file)]


FILES: dict[str, Door] = {
    "study": lambda home, path: ["plan", path],
    "include": lambda home, path: study(home, include=path),
    "task": lambda home, path: study(home, tasks=[f"{path}.yaml"]),
    "Python task": lambda home, path: study(home, tasks=[f"{path}.py"]),
    "claims": lambda home, path: ["verdict", str(home / "store"), "--claims", path],
}
FOLDERS: dict[str, Door] = {
    "results": lambda home, path: ["results", path],
    "check": lambda home, path: ["check", path],
    "report": lambda home, path: ["report", path],
    "verdict": lambda home, path: ["verdict", path],
    "export": lambda home, path: ["export", path, str(home / "out")],
    "predict": lambda home, path: ["predict", path, "--text", "x"],
    "params": lambda home, path: ["params", "--model", path],
    "model": lambda home, path: study(home, model=path),
}
"""Doors that lead to a file or a folder, in words for the command line."""
STORES: dict[str, Door] = {
    "store": lambda home, path: study(home, store=path),
    "--store": lambda home, path: [*study(home), "--store", path],
    "--out": lambda home, path: ["report", str(home / "store"), "--out", path],
    "export to": lambda home, path: ["export", str(home / "store"), path],
}
"""Doors to what need not be there yet."""


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(2**40)


HARMS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a loop of links": lambda path: path.symlink_to(path),
    "Latin-1": lambda path: path.write_bytes("name: café\n".encode("latin-1")),
    "too much": _sparse,
    "an empty file": Path.touch,
    "noise": lambda path: path.write_bytes(bytes(range(256))),
    "a deep nest": lambda path: path.write_bytes(b"[" * 1_200),
}
NAMES = {
    "a long name": "n" * 300,
    "a long path": "/".join(["n" * 200] * 30),
    "nobody's home": "~nouser",
    "half a character": "h\udc80",
}


@pytest.fixture
def home(tmp_path: Path, finished: Path) -> Path:
    (tmp_path / "store").symlink_to(finished)
    return tmp_path


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("door", [*FILES, *FOLDERS])
def test_in_place_of_a_file(door: str, harm: str, home: Path, crosstune: Call) -> None:
    path = home / "victim"
    HARMS[harm](path.with_suffix({"task": ".yaml", "Python task": ".py"}.get(door, "")))
    refused(crosstune(*(FILES | FOLDERS)[door](home, str(path))), "victim")


@pytest.mark.parametrize("harm", sorted({*HARMS} - {"nothing", "a folder"}))
@pytest.mark.parametrize("door", ["store", "--store"])
def test_in_place_of_a_store(door: str, harm: str, home: Path, crosstune: Call) -> None:
    HARMS[harm](home / "victim")
    refused(crosstune(*STORES[door](home, str(home / "victim"))), "victim")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", [*FILES, *FOLDERS, *STORES])
def test_a_name_that_no_file_has(door: str, name: str, home: Path, crosstune: Call) -> None:
    refused(crosstune(*(FILES | FOLDERS | STORES)[door](home, NAMES[name])))


@pytest.mark.parametrize("door", ["include", "task", "Python task", "model", "store"])
def test_a_zero_byte_in_a_path_of_a_study(door: str, home: Path, crosstune: Call) -> None:
    refused(crosstune(*(FILES | FOLDERS | STORES)[door](home, "a\0b")), "a\\x00b")


@pytest.mark.parametrize("variable", ["CROSSTUNE_CACHE", "CROSSTUNE_DATA"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_variable(
    variable: str, name: str, home: Path, crosstune: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, NAMES[name])
    refused(crosstune("run", *study(home)[1:], "--store", str(home / "new")))


TASK = """\
name: own
kind: choice
prompt: "{text}:"
choices: [a, b]
answer: label
train: train.csv
test: test_{code}.SUFFIX
"""


@pytest.mark.parametrize("harm", sorted({*HARMS} - {"nothing"}))
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_in_place_of_a_table(suffix: str, harm: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(TASK.replace("SUFFIX", suffix))
    (tmp_path / f"test_en.{suffix}").write_text("text,label\nx,a\n")
    HARMS[harm](tmp_path / f"test_de.{suffix}")
    task = load_task(tmp_path / "own.yaml").task()
    with pytest.raises(UserError, match=rf"test_de\.{suffix}"):
        task.examples("test", task.languages()[1])


def _signed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a run.json, and its checksum with it."""
    record = json.loads((folder / "run.json").read_text())
    change(record)
    (folder / "run.json").write_text(json.dumps(record))
    sums = json.loads((folder / "checksums.json").read_text())
    sums["run.json"] = sha256_of(folder / "run.json")
    (folder / "checksums.json").write_text(json.dumps(sums))


RECORDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no method": lambda record: record.pop("method"),
    "a task that is a text": lambda record: record.update(task="topics"),
    "languages that are numbers": lambda record: record.update(languages=[1, 2]),
    "a seed beyond every table": lambda record: record.update(seed=10**30),
    "tokens below none": lambda record: record["cost"].update(train_tokens=-1),
    "an infinite setting": lambda record: record["method"].update(rank=float("inf")),
    "a rate that is a list": lambda record: record["train"].update(learning_rate=[]),
    "a form of answers unheard of": lambda record: record["task"].update(kind="song"),
    "half a character": lambda record: record["task"].update(kind="\ud800"),
}


@pytest.mark.parametrize("verb", ["check", "results", "verdict", "report", "export", "predict"])
@pytest.mark.parametrize("change", RECORDS)
def test_a_signed_record_of_another_shape(
    change: str, verb: str, tmp_path: Path, finished: Path, crosstune: Call
) -> None:
    shutil.copytree(finished, tmp_path / "store")
    run = next(run for run in read_runs(finished) if run.train is not None)
    _signed(tmp_path / "store" / run.id, RECORDS[change])
    folder = tmp_path / "store" / run.id if verb == "predict" else tmp_path / "store"
    more = {"export": [str(tmp_path / "out"), "--format", "csv"], "predict": ["--text", "x"]}.get(verb, [])
    code, text = crosstune(verb, str(folder), *more)
    assert (code, text.startswith("error: "), text.count("\n")) == (2, True, 1), text


@pytest.mark.parametrize("option", ["--text", "--choice"])
def test_half_a_character_to_predict(option: str, finished: Path, crosstune: Call) -> None:
    run = read_runs(finished)[0].id
    words = ["--text", "x", "--choice", "y"]
    words[words.index(option) + 1] = "\udc80"
    refused(crosstune("predict", str(finished / run), *words), "U+DC80")


@pytest.mark.parametrize("place", [".failed/0123456789abcdef.json", ".work/0123456789abcdef/journal.jsonl"])
def test_a_pipe_in_a_store(place: str, tmp_path: Path) -> None:
    pipe = tmp_path / "store" / place
    pipe.parent.mkdir(parents=True)
    (tmp_path / "store" / ".claims").mkdir()
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=f"{pipe} is no file; remove it"):
        open_store(tmp_path / "store", "name: x")
    assert failures.read(tmp_path / "store") == {}


@contextmanager
def _nobody() -> Iterator[None]:
    """Without the rights of root, whom every file is open to."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_language_whose_folder_may_not_be_read(open_folder: Path) -> None:
    for name in ("de", "sw", "private"):
        (open_folder / name).mkdir()
        (open_folder / name / "test.csv").write_text("text\nx\n")
    layouts = [FileLayout("{code}/test.csv", ("text",))]
    (open_folder / "private").chmod(0)
    with _nobody():
        assert set(find_places(open_folder, layouts, "en")) == {"de", "sw"}
    (open_folder / "sw").chmod(0)
    with _nobody(), pytest.raises(UserError, match=r"sw: cannot be read \(Permission denied"):
        find_places(open_folder, layouts, "en")


@pytest.mark.parametrize(
    "door", ["study", "include", "task", "Python task", "results", "check", "params", "model"]
)
def test_what_may_not_be_read(door: str, open_folder: Path, crosstune: Call) -> None:
    path = (open_folder / "victim").with_suffix({"task": ".yaml", "Python task": ".py"}.get(door, ""))
    if door in FILES:
        path.touch()
    else:
        path.mkdir()
    words = (FILES | FOLDERS)[door](open_folder, str(open_folder / "victim"))
    path.chmod(0)
    with _nobody():
        refused(crosstune(*words), "victim")


def test_control_characters_of_a_variable(
    home: Path, crosstune: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTUNE_STATES_GB", "\x1b]0;title\x07")
    refused(crosstune("run", *study(home)[1:], "--store", str(home / "new")), "\\x1b]0;title\\x07")


def test_the_command_itself(tmp_path: Path) -> None:
    """In a process of its own: a pipe is not waited for, and Python prints no traceback of its own."""
    os.mkfifo(tmp_path / "x.yaml")
    ended = call("plan", str(tmp_path / "x.yaml"), timeout=120)
    refused((ended.returncode, ended.stderr), "x.yaml")
