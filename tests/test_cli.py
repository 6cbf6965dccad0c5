"""The command line: what it prints, on which stream, with which exit code."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import MixtralConfig

import crosstune
from crosstune.cli import main as cli
from crosstune.store import store as stored
from saved_model import save_model, study_of, write_study

COMMAND = [sys.executable, "-m", "crosstune"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def call(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=ALONE,
        check=False,
        **more,
    )


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """``here("results", "x")``: exit code, stdout and stderr of a call in this process."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crosstune", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture(scope="module")
def store(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store."""
    folder = tmp_path_factory.mktemp("store")
    study = study_of(saved, folder / "runs", tasks=["cldr-names", "number-words"])
    crosstune.run(crosstune.Study(**study), console=Console(quiet=True))
    return folder / "runs"


def test_results_as_a_table(store: Path, here: Any) -> None:
    code, out, err = here("results", str(store))
    assert (code, err) == (0, "")
    assert "few-shot k 2" in out


def test_results_for_programs(store: Path, here: Any) -> None:
    code, out, _ = here("results", str(store), "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert len(rows) == 2 * 3 * 3
    assert {row["language"] for row in rows} == {"en", "de", "ru"}
    _, out, _ = here("results", str(store), "--format", "json")
    assert len(json.loads(out)["scores"]) == len(rows)
    assert {row["method"] for row in json.loads(out)["transfer"]} == {"none", "few-shot k 2", "lora"}


def test_runs_are_named_in_results(store: Path, here: Any) -> None:
    code, out, _ = here("results", str(store), "--runs")
    assert code == 0
    ids = {run.id for run in stored.read_runs(store)}
    assert len(ids) == 6
    assert {line.split()[0] for line in out.splitlines()[1:-1]} == ids


def test_a_study_is_run_with_other_settings(saved: Path, here: Any, tmp_path: Path) -> None:
    file = write_study(tmp_path / "x.yaml", study_of(saved, tmp_path / "runs", methods=["none"]))
    code, out, _ = here("run", str(file), "--limit", "2", "--seed", "3", "--set", "languages=[de]")
    assert code == 0, out
    (run,) = stored.read_runs(tmp_path / "runs")
    assert (run.seed, run.languages, run.evaluate["limit"]) == (3, ["en", "de"], 2)
    code, _, err = here("plan", str(file), "--set", "train.steps")
    assert (code, err) == (2, 'error: --set "train.steps": give KEY=VALUE, such as train.steps=10\n')


def test_init_asks_and_writes_a_study(here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nnumber-words\nnone, lora\nRussian, de\n"))
    assert here("init", "first study.yaml")[0] == 0
    study = crosstune.read_study("first study.yaml")
    assert (study.name, study.models) == ("first-study", ("demo:gemma-3-270m",))
    assert [c.languages for c in study.combinations()] == [("en", "ru", "de")] * 2
    code, _, err = here("init", "first study.yaml")
    assert (code, "is there already" in err) == (2, True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nno-such-task\n\n\n"))
    code, _, err = here("init", "other.yaml")
    assert code == 2
    assert 'other.yaml:8: unknown task "no-such-task"' in err
    assert [file.name for file in tmp_path.iterdir()] == ["first study.yaml"]


def test_ready_studies_are_reached_from_anywhere(
    here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "studies/demo.yaml" in here("list", "studies")[1]
    assert "docs/studies.md" in here("list", "docs")[1]
    code, out, _ = here("plan", "studies/demo.yaml", "--limit", "5")
    assert code == 0
    assert "lora" in out
    code, _, err = here("plan", "studies/../pyproject.toml")
    assert code == 2
    assert "pyproject.toml" in err


def test_version(here: Any) -> None:
    assert here("--version") == here("version") == (0, f"{crosstune.__version__}\n", "")


def test_what_results_cost(store: Path, here: Any) -> None:
    code, out, err = here("results", str(store), "--cost")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2].split()[:2] == ["all", "6"]
    _, out, _ = here("results", str(store), "--cost", "--format", "json")
    costs = json.loads(out)["costs"]
    assert {(row["task"], row["method"], row["runs"]) for row in costs} == {
        (task, method, 1)
        for task in ("cldr-names", "number-words")
        for method in ("none", "few-shot k 2", "lora")
    }
    assert all(row["evaluate_seconds"] > 0 and row["test_tokens"] > 0 for row in costs)


def test_a_store_is_checked(store: Path, here: Any, tmp_path: Path) -> None:
    code, out, err = here("check", str(store))
    assert (code, err) == (0, "")
    assert out.startswith("6 results are whole, ")
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    file = next(copy.glob("*/predictions.parquet"))
    file.write_bytes(file.read_bytes()[:-9])
    code, out, err = here("check", str(copy))
    assert code == 2
    assert out.splitlines()[0].startswith(f"{file} is damaged")
    assert err == f"error: 1 runs of {copy} are damaged; run the study again to mend them\n"


def test_report(store: Path, here: Any, tmp_path: Path) -> None:
    assert here("report", str(store)) == (0, f"{store / 'report.html'}\n", "")
    assert here("report", str(store), "--out", str(tmp_path / "r.html"))[0] == 0
    assert "few-shot k 2" in (tmp_path / "r.html").read_text(encoding="utf-8")


def run_of(store: Path, task: str, label: str) -> Path:
    runs = stored.read_runs(store)
    return store / next(run.id for run in runs if run.task.name == task and run.label == label)


def test_predict_a_choice(store: Path, here: Any) -> None:
    code, out, _ = here("predict", str(run_of(store, "cldr-names", "lora")), "--text", "Deutschland")
    assert code == 0
    shares = {name: float(share) for share, name in (line.split() for line in out.splitlines())}
    assert set(shares) == {"country", "language", "currency", "script"}
    assert sum(shares.values()) == pytest.approx(1, abs=0.01)
    _, out, _ = here(
        "predict",
        str(run_of(store, "cldr-names", "none")),
        "--raw",
        "--text",
        "x:",
        "--choice",
        "a",
        "--choice",
        "b",
    )
    assert {line.split()[1] for line in out.splitlines()} == {"a", "b"}


def test_predict_a_written_answer(store: Path, here: Any) -> None:
    code, out, _ = here("predict", str(run_of(store, "number-words", "few-shot k 2")), "--text", "17")
    assert code == 0
    assert out.endswith("\n")
    assert all(c.isprintable() for c in out[:-1])  # what a random model writes could act on a terminal


def test_predict_refuses(store: Path, here: Any, tmp_path: Path) -> None:
    words = run_of(store, "number-words", "lora")
    assert here("predict", str(words), "--text", "17", "--language", "zu")[2].startswith(
        'error: task number-words has no "zu" among its 42 languages'
    )
    assert here("predict", str(store), "--text", "17")[0] == 2
    weights = words / "weights.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1])
    try:
        code, _, err = here("predict", str(words), "--text", "17")
    finally:
        weights.write_bytes(kept)
    assert code == 2
    assert err == (
        f"error: {weights} is damaged (its checksum differs); run the study again, or delete {words}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (
            "params prefix --model llama-3.1-8b --set length=10 --set layers=30 --set space=hidden",
            "1,228,800 trained parameters, 0.0153% of llama-3.1-8b\n",
        ),
        ("params lora --set rank=8", "3,407,872 trained parameters, 0.0424% of llama-3.1-8b\n"),
        ("params none --model demo:gemma-3-270m", "0 trained parameters, 0.0000% of demo:gemma-3-270m\n"),
    ],
)
def test_params(here: Any, arguments: str, out: str) -> None:
    assert here(*arguments.split()) == (0, out, "")


def test_params_of_every_method(here: Any) -> None:
    out = here("params", "--model", "gemma-3-270m")[1]
    assert {"none", "prefix", "lora", "full"} <= {line.split()[0] for line in out.splitlines()}
    assert "115,200" in out


@pytest.mark.parametrize("more", [(), ("--budget", "900")])
def test_params_of_every_method_but_those_that_do_not_fit(
    here: Any, tmp_path: Path, more: Sequence[str]
) -> None:
    MixtralConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    ).save_pretrained(tmp_path)
    code, out, err = here("params", "--model", str(tmp_path), *more)
    assert (code, err) == (0, "")
    counted = {line.split()[0] for line in out.splitlines()}
    assert {"none", "prefix", "lora", "full"} <= counted
    assert "ia3" not in counted
    assert "refused: ia3: this model's MLP's last projection has no known name" in out


@pytest.mark.parametrize(
    ("thing", "some"),
    [
        ("methods", "llama-adapter"),
        ("tasks", "number-words"),
        ("models", "demo:gemma-3-270m"),
        ("languages", "Swahili"),
    ],
)
def test_list(here: Any, thing: str, some: str) -> None:
    code, out, _ = here("list", thing)
    assert code == 0
    assert some in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run nowhere.yaml", "nowhere.yaml: no such file"),
        ("run {tmp}", "{tmp}: cannot be read (Is a directory)"),
        ("run {bad}", '{bad}:4: unknown key "lenght" in method prefix; did you mean "length"?'),
        (
            "run {good} --device cudda",
            'unknown device "cudda"; did you mean "cuda"? (a second GPU is "cuda:1")',
        ),
        ("run {good} --dtype float7", 'unknown dtype "float7"; did you mean "float32"?'),
        (
            "run {good} --device cpu --dtype float32 --store {file}/s",
            "{file}/s: cannot be written (Not a directory)",
        ),
        ("results nowhere", "no store nowhere: run a study first (crosstune run studies/demo.yaml)"),
        ("results {tmp}", "{tmp} holds no finished runs: run a study first (crosstune run STUDY.yaml)"),
        ("report nowhere", "no store nowhere: run a study first (crosstune run studies/demo.yaml)"),
        (
            "predict nowhere --text x",
            "nowhere is not a finished run: give a run's folder, such as runs/demo/<id>",
        ),
        ("params prefx", 'unknown method "prefx"; did you mean "prefix"?'),
        (
            "params prefix --set lenght=1",
            '--set: unknown key "lenght" in method prefix; did you mean "length"?',
        ),
        (
            "params prefix --set length=0",
            "--set: method prefix: length should be greater than or equal to 1; found 0",
        ),
        ("params prefix --set length", '--set "length": give KEY=VALUE, such as length=10'),
        ("params prefix --set layers=99", "layers: 99 asked for, but the model has 32; give 1 to 32"),
        ("params --set length=1", "--set needs a method: crosstune params prefix --set length=10"),
        ("params lora --model lama-3.1-8b", 'unknown model "lama-3.1-8b"; did you mean "llama-3.1-8b"?'),
    ],
)
def test_a_mistake_is_one_red_line(
    here: Any, tmp_path: Path, saved: Path, arguments: str, message: str
) -> None:
    (tmp_path / "file").write_text("")
    places = {
        "tmp": tmp_path,
        "bad": tmp_path / "bad.yaml",
        "good": tmp_path / "good.yaml",
        "file": tmp_path / "file",
    }
    places["bad"].write_text(
        f"name: x\nmodel: {saved}\ntasks: number-words\nmethods: [{{name: prefix, lenght: 1}}]\n"
    )
    write_study(places["good"], study_of(saved, tmp_path / "s", tasks=["number-words"]))
    code, out, err = here(*arguments.format(**places).split())
    assert (code, out) == (2, "")
    assert err == f"error: {message.format(**places)}\n"


def test_a_hostile_name_cannot_act_on_the_terminal(here: Any, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text('name: x\n"\\e[31m[bold]evil\\n": 1\n')
    code, _, err = here("run", str(tmp_path / "x.yaml"))
    assert code == 2
    assert "\x1b" not in err
    assert "\\x1b[31m[bold]evil\\n" in err
    assert err.count("\n") == 1


def test_debug_shows_where(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("--debug", "results", "nowhere")
    assert "Traceback" in done.stderr
    done = call("results", "nowhere")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_wrong_usage(here: Any) -> None:
    for arguments in (["run"], ["list", "everything"], ["results", "x", "--format", "xml"], ["nothing"]):
        code, _, err = here(*arguments)
        assert code == 2
        assert "Traceback" not in err


@pytest.mark.parametrize("verb", ["", "run", "results", "report", "params", "list", "predict", "version"])
def test_help_has_an_example(here: Any, verb: str) -> None:
    code, out, _ = here(*verb.split(), "--help")
    assert code == 0
    assert "crosstune" in out.split("Usage")[1].split("\n", 1)[1] or verb == "version"


def test_help_is_light() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from crosstune.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: assert not {'torch', 'polars', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_closed_pipe_is_quiet(store: Path) -> None:
    command = subprocess.list2cmdline([*COMMAND, "results", str(store), "--format", "json"])
    done = subprocess.run(
        f"{command} | head -c 10", shell=True, capture_output=True, text=True, env=ALONE, check=False
    )
    assert len(done.stdout) == 10
    assert done.stderr == ""


def test_stopping_keeps_finished_runs(saved: Path, tmp_path: Path, here: Any) -> None:
    folder = tmp_path / "runs"
    study = study_of(saved, folder, tasks=["number-words"], methods=["none", "lora"])
    # No end in sight: it can only be stopped in the middle of training.
    file = write_study(tmp_path / "x.yaml", study | {"train": {"steps": 1_000_000, "batch_size": 4}})
    process = subprocess.Popen(
        [*COMMAND, "run", str(file)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ALONE
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/2]"):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err == f"stopped; 1 of 2 runs finished and kept in {folder}; run the same command to resume\n"
    assert len(stored.finished(folder)) == 1
    assert not list(folder.glob(".tmp*"))
    write_study(file, study)
    code, out, err = here("run", str(file))
    assert code == 0
    assert err.startswith(f"loading {saved}\n[2/2] number-words · lora · seed 0\n")  # none is not made again
    assert "Mean of 2" in out
    assert out.endswith(f"for a report: crosstune report {folder}\n")
    code, again, err = here("run", str(file))
    assert (code, again) == (0, out)
    assert err == f"nothing to do: all 2 runs of tiny are finished in {folder}\n"
