"""Running studies: nothing twice, nothing lost, nothing left on the model."""

import io
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.languages import LANGUAGES
from crosstune.methods import METHODS
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running import execute, prepared, progress, worker
from crosstune.running.interrupts import Stopped
from crosstune.running.predict import predict
from crosstune.running.progress import BarDisplay, display
from crosstune.running.runner import Summary, run_study
from crosstune.running.task_data import read_data
from crosstune.store import failures, store
from crosstune.store.record import Fingerprints, RunRecord
from crosstune.study.spec import Study
from crosstune.tasks import TASKS, make_task
from crosstune.tasks.base import Task
from crosstune.training.loop import Progress
from saved_model import save_model, study_of

KEYS = {
    "id", "study", "model", "model_parameters", "model_layers", "revision", "method", "label", "task",
    "source_language", "languages",
    "added_languages",
    "seed", "train", "evaluate", "trained_parameters", "zero_shot", "fingerprints", "overlap", "data",
    "versions", "hardware", "git", "cost", "device", "dtype", "kind", "search", "curve",
    "quantize", "device_map",
    "dev", "chosen_step", "started", "finished", "record_version", "method_facts", "merge",
    "closed_by", "held_out", "identifier", "unlabelled", "head_parameters", "target_language_tokens",
}  # fmt: skip


def go(study: Study) -> tuple[Summary, str]:
    """Run a study; what it did and what it said."""
    said = io.StringIO()
    summary = run_study(study, console=Console(file=said, width=200))
    return summary, said.getvalue()


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {run.label: run for run in store.read_runs(folder)}


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study of every method; tests do not change it."""
    methods: list[Any] = [
        "full", "lora", "llama-adapter", {"name": "prefix", "reparameterise": 8}, "prefix", "soft-prompt",
        {"name": "few-shot", "k": 2}, "none",
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("done") / "store"
    train = {"steps": 3, "batch_size": 4, "evaluate_every": 2, "dev_limit": 4}
    study = Study(**study_of(model, folder, tasks=["number-words"], methods=methods, train=train))
    go(study)
    return study


def test_the_record_says_everything(done: Study, model: Path) -> None:
    runs = records(done.folder)
    assert list(runs)[:2] == ["none", "few-shot k 2"]
    for run in runs.values():
        assert set(json.loads((done.folder / run.id / "run.json").read_bytes())) == KEYS
        assert run.languages == ["en", "de", "ru"]
        assert run.zero_shot is True
        assert set(run.fingerprints.test) == {"en", "de", "ru"}
        assert run.overlap.entries() == {"prompts": 0, "exact": {}, "normalised": {}}
        rows = run.data.entries()
        used = rows.pop("train_examples")
        assert used == (0 if run.train is None else 2000)
        assert rows == {"sources": [], "skipped_rows": 0, "skipped": [], "repeats": {}}
        assert run.model_layers == 2
        assert run.model_parameters > 0
        assert run.started <= run.finished
        assert (run.device, run.dtype) == ("cpu", "float32")
        assert run.cost.evaluate_seconds > 0
        assert run.cost.peak_memory_bytes > 2**20
    lora = runs["lora"]
    assert lora.train["learning_rate"] == METHODS["lora"].learning_rate
    assert (lora.train["steps"], lora.cost.steps) == (3, 3)
    assert [point["step"] for point in lora.curve] == [1, 2, 3]
    assert [point["step"] for point in lora.dev] == [2, 3]
    assert lora.chosen_step in (2, 3)
    assert lora.trained_parameters == 2 * 4 * (64 + 64 + 64 + 32)
    assert lora.fingerprints.dev is not None
    assert runs["none"].train is None
    assert runs["none"].fingerprints.dev is None


def test_predictions_are_one_row_an_example(done: Study) -> None:
    table = store.read_predictions(done.folder, list(records(done.folder).values()))
    assert table.columns[0] == "run"
    counts = table.group_by("run", "language").len()
    assert set(counts["len"]) == {4}
    assert counts.height == 8 * 3


def test_weights_on_disk_are_the_trained_ones(done: Study, model: Path) -> None:
    runs = records(done.folder)
    for label, run in runs.items():
        file = done.folder / run.id / "weights.safetensors"
        assert file.is_file() == (run.train is not None), label
    full = load_file(done.folder / runs["full"].id / "weights.safetensors")
    base = load_file(model / "model.safetensors")
    assert set(full) == set(base)
    assert any(not torch.equal(full[name], base[name]) for name in base)


def test_a_finished_run_answers_as_it_did(done: Study) -> None:
    """From the weights on disk: attach, load, project or merge, and write the same words."""
    runs = records(done.folder)
    table = store.read_predictions(done.folder, list(runs.values()))
    for run in runs.values():
        rows = table.filter((pl.col("run") == run.id) & (pl.col("language") == "de"))
        number, answer = rows.select("example", "prediction").row(0)
        assert predict(done.folder / run.id, number, language="de").answer == answer, run.label


def test_a_second_run_loads_nothing(done: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "load", None)
    summary, said = go(done)
    assert summary.done == []
    assert said == f"nothing to do: all 8 runs of tiny are finished in {done.folder}\n"


@pytest.fixture
def small(model: Path, tmp_path: Path) -> Study:
    return Study(**study_of(model, tmp_path / "store", tasks=["number-words"]))


def test_the_same_study_gives_the_same_bits(small: Study, tmp_path: Path) -> None:
    other = small.model_copy(update={"store": str(tmp_path / "other")})
    go(small)
    go(other)
    run = records(small.folder)["lora"].id
    first, second = (load_file(s.folder / run / "weights.safetensors") for s in (small, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert records(small.folder)["lora"].curve == records(other.folder)["lora"].curve


def test_only_what_is_missing_is_made(small: Study) -> None:
    go(small)
    methods = ["prefix", "lora", {"name": "few-shot", "k": 2}, "none"]
    more = study_of(Path(small.models[0]), small.folder, tasks=["number-words"], methods=methods)
    summary, _ = go(Study(**more))
    assert [records(small.folder)["prefix"].id] == summary.done


def test_what_a_kill_after_the_last_write_left_is_cleared(small: Study) -> None:
    go(small)
    run_id = min(store.finished(small.folder))
    left = small.folder / store.WORK / run_id
    left.mkdir(parents=True)
    (left / "resumed").write_text("1", encoding="utf-8")
    summary, _ = go(small)
    assert not summary.done
    assert not left.exists()


def test_a_damaged_run_is_made_again(small: Study) -> None:
    go(small)
    run = records(small.folder)["lora"].id
    file = small.folder / run / "predictions.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    summary, said = go(small)
    assert summary.done == [run]
    assert f"lora · seed 0 is run again: {file} is damaged" in said
    (aside,) = (small.folder / ".damaged").iterdir()
    assert f"set aside as {aside}" in said
    assert aside.name.startswith(run)
    assert len(store.read_runs(small.folder)) == 3


def test_other_weights_under_the_same_name_are_another_model(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m")
    study = Study(**study_of(model, tmp_path / "store", tasks=["number-words"], methods=["none"]))
    go(study)
    was = records(study.folder)["none"]
    save_model(model, seed=1)
    summary, said = go(study)
    now = records(study.folder)["none"]
    assert summary.done == [was.id]
    assert f"is run again: {model} was at {was.revision}, now at {now.revision}" in said
    save_model(model, seed=2)
    with pytest.raises(UserError, match="has changed"):
        predict(study.folder / now.id, "17")


def test_one_diverging_run_does_not_cost_the_others(small: Study) -> None:
    wild = {"name": "full", "train": {"learning_rate": 1e9, "steps": 9, "clip": 0}}
    study = Study(
        **study_of(
            Path(small.models[0]), small.folder, tasks=["number-words"], methods=[wild, "lora", "none"]
        )
    )
    with pytest.raises(UserError, match=r"1 of 3 runs failed, the others are kept in .*: the loss became"):
        go(study)
    assert set(records(small.folder)) == {"none", "lora"}
    # The failure is written down: the same command does not pay for it again, --retry-failed does.
    (failure,) = failures.read(small.folder).values()
    assert failure.error.startswith("the loss became")
    with pytest.raises(UserError, match=r"1 of 3 runs failed.*--retry-failed runs them again"):
        go(study)
    said = io.StringIO()
    with pytest.raises(UserError, match="1 of 3 runs failed"):
        run_study(study, console=Console(file=said, width=200), retry_failed=True)
    assert "[3/3] number-words · full" in said.getvalue()
    assert failures.read(small.folder)[failure.id].when > failure.when


def test_a_model_that_a_method_cannot_be_taken_off_is_loaded_anew(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = execute.execute, []

    def stuck(*_: object) -> None:
        raise RuntimeError("a fault of detach")

    def spy(run: Any, loaded: Any, *more: Any) -> Any:
        seen.append([type(module).__name__ for module in loaded.lm.model.modules()])
        return real(run, loaded, *more)

    monkeypatch.setattr(METHODS["lora"], "_unwrap", stuck)
    monkeypatch.setattr(worker, "execute", spy)
    settings = study_of(Path(small.models[0]), small.folder, tasks=["number-words"], methods=["lora"])
    with pytest.raises(UserError, match=r"2 of 2 runs failed.*a fault of detach"):
        go(Study(**settings | {"seeds": [0, 1]}))
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_a_test_text_too_long_costs_no_training(small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise UserError("de 7: too long")

    monkeypatch.setattr(execute, "train", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(prepared, "fitted", refused)
    more = {"tasks": ["number-words"], "methods": ["lora"], "evaluate": {"on_too_long": "error"}}
    with pytest.raises(UserError, match="de 7: too long"):
        go(Study(**study_of(Path(small.models[0]), small.folder, **more)))


def test_an_unforeseen_fault_is_written_down_with_its_traceback(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: \n an illegal memory access")

    with monkeypatch.context() as patched:
        patched.setattr(execute, "training_rows", broken)
        with pytest.raises(UserError, match="RuntimeError: CUDA error: an illegal memory access"):
            go(small)
    (file,) = (small.folder / ".failed").glob("*.json")
    assert "in broken" in json.loads(file.read_text())["traceback"]
    summary = run_study(small, console=Console(quiet=True), retry_failed=True)
    assert summary.done == [file.stem]
    assert failures.read(small.folder) == {}


def test_a_model_that_cannot_be_loaded_does_not_stop_the_others(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    settings = study_of(model, tmp_path / "store", tasks=["number-words"], methods=["none"])
    del settings["model"]
    study = Study(**settings, models=[str(broken), str(model)])
    with pytest.raises(UserError, match="1 of 2 runs failed, the others are kept"):
        go(study)
    assert len(store.read_runs(study.folder)) == 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("lost", [False, True], ids=["at once", "lost in a finaliser"])
def test_an_interrupt_keeps_what_is_finished(
    small: Study, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, code: int, lost: bool
) -> None:
    real = execute.training_rows
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def interrupted(*given: Any, **more: Any) -> Any:
        with suppress(KeyboardInterrupt) if lost else nullcontext():
            signal.raise_signal(sent)
        return real(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(execute, "training_rows", interrupted)
        with pytest.raises(Stopped) as stopped:
            go(small)
    assert str(stopped.value) == (
        f"stopped; 2 of 3 runs finished and kept in {small.folder}; run the same command to resume"
    )
    assert stopped.value.exit_code == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not list(small.folder.glob(".tmp*"))
    summary, _ = go(small)
    assert len(summary.done) == 1
    assert len(store.read_runs(small.folder)) == 3


def test_a_full_disk_stops_and_keeps(small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    real, saved = store.save, []

    def save(folder: Path, run: Any, *rest: Any) -> Path:
        saved.append(run.id)
        if len(saved) == 2:
            raise UserError("no room on disk: x")
        return real(folder, run, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(store, "save", save)
        with pytest.raises(UserError, match="no room on disk"):
            go(small)
    assert len(saved) == 2
    assert len(store.read_runs(small.folder)) == 1


def test_a_folder_that_cannot_be_made(small: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        go(small.model_copy(update={"store": str(tmp_path / "file" / "store")}))


def test_bars_on_a_terminal(small: Study) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    run_study(small, console=console)
    assert "number-words · lora · seed 0: en " in screen.getvalue()
    with display(console, 3, 1) as shown:
        assert isinstance(shown, BarDisplay)
        shown.begin("[bold]x · lora")
        shown.trained(Progress(1, 2, 0.5, 1000, 0.5))
        shown.bars.refresh()
        assert "[bold]x · lora" in screen.getvalue()
        assert "loss 0.500, 2,000 tokens/s" in screen.getvalue()
        shown.evaluating(10)
        shown.evaluated(5)
        shown.bars.refresh()
        assert "examples/s" in screen.getvalue()


def test_lines_now_and_then_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    shown = display(Console(file=said, width=80), 3, 1)
    shown.begin("lora")
    shown.evaluating(10)
    for count in (2, 3):
        shown.trained(Progress(count, 4, 0.5, 1000, 2.0))
        shown.evaluated(count)
        monkeypatch.setattr(progress, "_EVERY", 0.0)
    lines = said.getvalue().splitlines()
    assert lines[:2] == ["[2/3] lora", "  training 3/4, loss 0.500, 500 tokens/s, 1 s left"]
    assert lines[2].startswith("  evaluation 5/10, ")
    assert len(lines) == 3


class Leaky(Task):
    """Its training data holds a German example."""

    name = "leaky"
    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    summary = "a test's own"
    split_names = {"train": "-", "test": "-"}  # noqa: RUF012
    bad = "de"

    def languages(self) -> list[str]:
        return ["en", "de"]

    def examples(self, split: str, language: str) -> list[Example]:
        if split == "train":
            return [
                Example("1", "en", "a\nKind:", ("x",), ("x", "y")),
                Example("2", self.bad, "b\nKind:", ("y",), ("x", "y")),
            ]
        return [
            Example("1", language, "a\nKind:", ("x",), ("x", "y")),
            Example("3", language, "c\nKind:", ("y",), ("x", "y")),
        ]


def test_target_language_data_in_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="training example 2 is in de, not in en: the result would"):
        read_data(Leaky(), ["en", "de"], EvaluateSettings(), False)
    monkeypatch.setattr(Leaky, "bad", "en")
    assert read_data(Leaky(), ["en", "de"], EvaluateSettings(), False).overlap(None)["prompts"] == 2


def test_changed_examples_are_noticed(small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    go(small)
    run = records(small.folder)["lora"].id
    kept = [run.id for label, run in records(small.folder).items() if label != "lora"]
    store.save(
        small.folder,
        records(small.folder)["none"].model_copy(update={"fingerprints": Fingerprints()}),
        pl.DataFrame({"score": [1.0]}),
    )
    (small.folder / run / "checksums.json").unlink()
    summary, said = go(small)
    assert set(summary.done) == {run, records(small.folder)["none"].id}
    assert "none · seed 0 is run again: the task's examples have changed since" in said
    assert len(kept) == 2


def write_sib(root: Path) -> None:
    """SIB-200 with training data in two languages, one row of it broken, and a test sentence from it."""
    for code, word in (("eng_Latn", "one"), ("deu_Latn", "eins")):
        folder = root / "sib200" / "annotated" / code
        folder.mkdir(parents=True)
        train = [f"{i}\thealth\t{word} {i}" for i in range(8)] + ["8\thealth"]
        test = [f"{i}\ttravel\t{word} {i}!" for i in (3, 20, 21)] + [f"22\thealth\t{word} 20!"]
        for split, rows in (("train", train), ("test", test)):
            text = "\n".join(["index_id\tcategory\ttext", *rows])
            (folder / f"{split}.tsv").write_text(text, encoding="utf-8")


def test_other_training_languages_are_asked_for_by_name_and_labelled(model: Path, tmp_path: Path) -> None:
    write_sib(tmp_path)
    task = {"name": "sib200", "data": str(tmp_path), "on_bad_rows": "skip"}
    both = {"name": "lora", "train": {"languages": ["en", "German"]}}
    changes: dict[str, Any] = {"tasks": [task], "methods": ["lora", both], "languages": ["de"]}
    study = Study(**study_of(model, tmp_path / "store", **changes))
    summary, said = go(study)
    assert len(summary.done) == 2
    runs = {run.zero_shot: run for run in store.read_runs(study.folder)}
    assert set(runs[True].fingerprints.train) == {"en"}
    assert set(runs[False].fingerprints.train) == {"en", "de"}
    assert runs[False].train["languages"] == ["en", "German"]
    # What was left out, what leaks and what repeats is said.
    assert "sib200: 2 rows left out, the first: " in said
    assert "sib200: the text of 1 test examples is in the training data" in said
    assert "sib200: 2 test questions are asked twice, 2 of them with different answers" in said
    assert runs[True].data.skipped_rows == 2
    assert runs[True].overlap.exact == {"text": 0}
    assert runs[True].overlap.normalised == {"text": 1}
    assert runs[False].overlap.normalised == {"text": 2}
    assert runs[True].data.repeats == {
        "test en": {"repeated": 1, "conflicting": 1},
        "test de": {"repeated": 1, "conflicting": 1},
    }
    files = [source["files"] for source in runs[True].data.sources]
    assert ["sib200/annotated/deu_Latn/test.tsv"] in files


def test_every_registered_task_leaks_nothing() -> None:
    compared = set()
    for name in TASKS:
        task = make_task(name)
        try:
            languages = task.languages()
        except UserError:
            continue  # its files are not here
        assert set(languages) <= set(LANGUAGES)
        if name == "tydiqa":
            continue  # the answers of the dev files at hand are blank, which is an error of its own
        if task.kind == "tags":
            continue  # published sentences of a few words ("Thanks!") repeat; run.json has their number
        try:
            shared = read_data(task, languages[:4], EvaluateSettings(), False).overlap(None)
        except UserError:
            continue  # some of its files are not here
        assert shared["prompts"] == 0, name
        compared.add(name)
    assert compared >= {"number-words", "cldr-names"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices are faster on one thread, and the machine may be shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_json_in_a_run_is_plain(done: Study) -> None:
    for run in records(done.folder).values():
        text = (done.folder / run.id / "run.json").read_text()
        assert json.loads(text) == run.model_dump()
        assert RunRecord.model_validate_json(text) == run
