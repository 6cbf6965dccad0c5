"""Stages: parts trained on unlabelled text first, as runs of their own that others stand on."""

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pydantic import ValidationError
from rich.console import Console

from crosstune.errors import UserError
from crosstune.methods.sparse import add_sparse
from crosstune.methods.staged.lt_sft import LtSft
from crosstune.methods.staged.mad_x import MadX
from crosstune.methods.staged.stage import terms
from crosstune.models.loading.load import load
from crosstune.models.tensor_file import read_tensors
from crosstune.planning.plan import plan_study
from crosstune.running.earlier.stages import FinishedStages
from crosstune.running.predict import predict
from crosstune.running.progress import Display
from crosstune.running.runner import run_study
from crosstune.store import store as stored
from crosstune.store.record import RunRecord
from crosstune.study.runs import Run, expand
from crosstune.study.spec import Study
from crosstune.tasks import make_task
from crosstune.training.checkpoint import Checkpoint
from hub_server import COMMIT, OWNER, Repository, serving
from saved_model import study_of

TEXTS = {
    "en": "The hen sat on a hat.\nNo one saw the cat.\nA red rose is a rose.",
    "de": "Die Henne saß auf einem Hut.\nNiemand sah die Katze im Garten.",
    "cs": "Slepice seděla na klobouku.\nNikdo neviděl kočku.",
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for code, lines in TEXTS.items():
        (folder / f"{code}.txt").write_text(lines, encoding="utf-8")
    return folder


def study(model: Path, text: Path, **changes: Any) -> Study:
    settings: dict[str, Any] = {"text": changes.pop("source", str(text))}
    settings |= {"text_train": {"steps": 2, "batch_size": 2}, "missing": "nearest"}
    settings |= {"width": 4, "language_width": 8} | changes
    of_study: Any = settings.pop("study", {})
    methods = [{"name": "mad-x", **settings}]
    return Study(**study_of(model, text.parent / "store", methods=methods, **of_study))


def run(study: Study) -> str:
    log = io.StringIO()
    run_study(study, console=Console(file=log, width=300))
    return log.getvalue()


def records(study: Study) -> dict[str, RunRecord]:
    return {record.id: record for record in stored.read_runs(study.folder, kind=None)}


def of_kind(study: Study, kind: str) -> list[Run]:
    return [run for run in expand(study) if run.kind == kind]


def test_a_stage_is_a_run_that_results_name_and_share(model: Path, text: Path) -> None:
    small = study(model, text, study={"seeds": [0, 1]})
    stages, results = of_kind(small, "stage"), of_kind(small, "result")
    assert [stage.train.languages for stage in stages if stage.train] == [("en",), ("de",), ("cs",)]
    assert len(results) == 2
    assert [(group.kind, group.runs, group.to_do) for group in plan_study(small).groups] == [
        ("stage", 3, 3),
        ("result", 2, 2),
    ]
    log = run(small)
    assert "used in place of unlabelled text of their own: ru cs" in log
    by_id = records(small)
    assert list(by_id) == [run.id for run in expand(small)], "stages first"
    record = by_id[results[0].id]
    assert record.unlabelled is not None
    assert record.unlabelled.uses == {"en": "en", "de": "de", "ru": "cs"}
    assert {code: stage.run for code, stage in record.unlabelled.stages.items()} == {
        stage.train.languages[0]: stage.id for stage in stages if stage.train and stage.train.languages
    }
    assert record.unlabelled.stages["de"].text["lines"] == 2
    assert record.unlabelled.stages["de"].text["files"] == ["de.txt"]
    assert not record.zero_shot
    assert record.label.endswith(", unlabelled target text used")
    stage = by_id[stages[1].id]
    assert (stage.kind, stage.unlabelled, stage.label) == ("stage", None, "language adapter")
    assert [source["language"] for source in stage.data.sources] == ["de"]
    assert stage.trained_parameters == 2 * (2 * 64 * 8 + 8 + 64) + 2 * (2 * 32 * 16 + 16 + 32)
    assert "nothing to do" in run(small)
    answers = {code: predict(small.folder / record.id, "Berlin", language=code) for code in ("de", "ru")}
    table = stored.read_table(small.folder, record.id)
    assert set(answers["de"].choices) != set(answers["ru"].choices), "each language has its adapter"
    assert table.height == 3 * 4


def test_changed_text_is_trained_on_again_with_all_that_stands_on_it(model: Path, text: Path) -> None:
    small = study(model, text)
    run(small)
    before = records(small)
    (text / "de.txt").write_text("Ein Hund bellt.", encoding="utf-8")
    (result,) = of_kind(small, "result")
    (small.folder / result.id / stored.CHECKSUMS).unlink()  # something is left to do: the text is read
    log = run(small)
    after = records(small)
    changed = {run.name for run in expand(small) if before[run.id].started != after[run.id].started}
    assert changed == {"language adapter · de", result.name}, log


@pytest.mark.parametrize(
    ("missing", "languages", "uses"),
    [
        ("none", ["ru", "sw"], {"en": "en", "ru": None, "sw": None}),
        ("nearest", ["ru", "sw"], {"en": "en", "ru": "cs", "sw": None}),
        ("neighbours", ["ru", "sw"], {"en": "en", "ru": "1/2 cs + 1/3 de + 1/6 en", "sw": None}),
        (
            "similar",
            ["ru", "sw"],
            {"en": "en", "ru": "51/130 cs + 4/13 de + 3/10 en", "sw": "55/164 de + 55/164 cs + 27/82 en"},
        ),
    ],
)
def test_a_language_without_text(
    model: Path, text: Path, missing: str, languages: list[str], uses: dict[str, str | None]
) -> None:
    small = study(model, text, missing=missing, study={"languages": languages})
    (result,) = of_kind(small, "result")
    assert result.stages is not None
    assert result.stages.uses == uses


def test_a_sum_of_the_user_s(model: Path, text: Path) -> None:
    """For a language with text or without; it is in the run's id, and the order of keys is not."""

    def result(mix: Any) -> Run:
        (run,) = of_kind(
            study(model, text, missing="none", mix=mix, study={"languages": ["ru", "de"]}), "result"
        )
        return run

    mixed = result({"rus": {"cs": 1.5, "de": -0.5}, "de": {"en": 0.25}})
    assert mixed.stages is not None
    assert mixed.stages.uses == {"en": "en", "ru": "3/2 cs + -1/2 de", "de": "1/4 en"}
    assert set(mixed.stages.runs) == {"en", "cs", "de"}
    assert terms("3/2 cs + -1/2 de") == {"cs": 1.5, "de": -0.5}
    assert "mix" not in result({}).config.model_dump()
    assert len({mixed.id, result({}).id, result({"ru": {"cs": 1.5}}).id}) == 3
    for mix, wrong in {
        "en": {"en": {"de": 1}},
        "sw, which has no text": {"ru": {"sw": 1}},
        "unknown language": {"ru": {"nowhere": 1}},
        "no weights": {"ru": {}},
    }.items():
        with pytest.raises(ValidationError, match=f"mix: .*{mix}"):
            result(wrong)


def test_mistakes_are_told_before_anything_is_computed(model: Path, text: Path) -> None:
    for changes, wrong in {
        "missing: error": (
            {"missing": "error"},
            "has nothing in ru; set missing: nearest, neighbours, similar or none",
        ),
        "no source": ({"study": {"languages": ["de"]}}, "has nothing in en; bring some"),
        "no text": ({"source": ""}, "method mad-x needs text:"),
        "no folder": ({"source": "nowhere"}, "nowhere is no folder"),
        "training": ({"text_train": {"step": 3}}, 'unknown key "step" in text_train of method mad-x'),
        "languages": ({"train": {"languages": ["en", "de"]}}, "is trained on en alone"),
        "options": (
            {"source": {"source": "udhr", "file": "x"}},
            'unknown key "file" in text of method mad-x',
        ),
    }.values():
        if "bring" in wrong:
            (text / "en.txt").unlink()
        with pytest.raises((UserError, ValidationError), match=wrong.replace("(", r"\(")):
            expand(study(model, text, **changes))
        (text / "en.txt").write_text(TEXTS["en"], encoding="utf-8")


def test_text_held_out_of_a_stage_is_measured(model: Path, text: Path) -> None:
    """Every second block, before and after, as transformers' own loss of the model has it."""
    source = {"source": str(text), "characters": 25}
    training = {"steps": 6, "batch_size": 2, "learning_rate": 1e-2}
    plain = study(model, text, source=source, text_train=training, study={"languages": ["de"]})
    held = study(
        model, text, source=source | {"held_out": 2}, text_train=training, study={"languages": ["de"]}
    )
    assert "held_out" not in of_kind(plain, "stage")[0].task.options.model_dump()
    assert {run.id for run in expand(plain)}.isdisjoint(run.id for run in expand(held))
    log = run(held)
    stage = next(run for run in of_kind(held, "stage") if run.train and run.train.languages == ("de",))
    record = records(held)[stage.id]
    lines = TEXTS["de"].replace("\n", " ").split()
    task = stage.task.make()
    learnt, out = ([e.prompt for e in task.examples(split, "de")] for split in ("train", "dev"))
    assert sorted(" ".join([*learnt, *out]).split()) == sorted(lines)
    lm = load(str(model), device="cpu", dtype="float32")
    ids = [torch.tensor([row]) for row in lm.tokens.prompts(out)]

    @torch.no_grad()
    def loss() -> float:
        sums = [float(lm.model(row, labels=row).loss) * (row.shape[1] - 1) for row in ids]
        return sum(sums) / sum(row.shape[1] - 1 for row in ids)

    assert record.held_out is not None
    assert (record.held_out.texts, record.held_out.tokens) == (len(out), sum(row.shape[1] - 1 for row in ids))
    assert record.held_out.before == pytest.approx(loss(), abs=1e-5)
    adapter = stage.new_method()
    adapter.attach(lm)
    adapter.load_state(read_tensors(held.folder / stage.id / stored.WEIGHTS, torch.device("cpu")))
    assert record.held_out.after == pytest.approx(loss(), abs=1e-5)
    assert abs(record.held_out.after - record.held_out.before) > 1e-3
    assert f"held-out text {record.held_out.before:.2f} before, {record.held_out.after:.2f} after" in log


def test_text_that_holds_a_test_example_is_counted(model: Path, text: Path) -> None:
    small = study(model, text)
    run(small)
    (record,) = stored.read_runs(small.folder)
    assert record.unlabelled is not None
    assert (record.unlabelled.in_text, record.unlabelled.compared) == (0, 0)  # names are short


# The hub's library reads its address when it is imported.
RUN_ALL = """
import json, sys
from crosstune.errors import UserError
from crosstune.running.runner import run_study
from crosstune.study.spec import Study
for study in json.loads(sys.argv[1]):
    try:
        run_study(Study(**study))
    except UserError as error:
        print("refused:", error)
"""


def test_text_of_a_dataset_on_the_hub(model: Path, tmp_path: Path) -> None:
    """Pinned to a commit, a file a language; a language without files is named."""

    def rows(*lines: str) -> bytes:
        return "".join(json.dumps({"text": line}) + "\n" for line in lines).encode()

    files = {f"data/{code}/1.jsonl": rows(*TEXTS[code].splitlines()) for code in ("en", "de")}
    source = {"source": f"hub:{OWNER}/text", "files": "data/{code}/*.jsonl", "revision": COMMIT}
    method = {"name": "mad-x", "text": source, "text_train": {"steps": 2}, "width": 4, "language_width": 8}
    spec = study_of(model, tmp_path / "store", methods=[method])
    studies = [spec | {"languages": ["de"]}, spec | {"languages": ["ru"]}]
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as hub:
        hub.datasets[f"{OWNER}/text"] = Repository({COMMIT: files}, {"main": COMMIT})
        command = [sys.executable, "-c", RUN_ALL, json.dumps(studies)]
        environment = hub.environment(tmp_path / "home")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = stored.read_runs(tmp_path / "store")
    assert record.unlabelled is not None
    text = record.unlabelled.stages["de"].text
    assert [text[name] for name in ("repo", "commit", "files", "lines")] == [
        f"{OWNER}/text", COMMIT, ["1.jsonl"], 2
    ]  # fmt: skip
    refused = done.stdout.splitlines()[-1]
    assert refused.startswith("refused: ")
    assert "data/ru/*.jsonl" in refused


STAGED: dict[str, dict[str, Any]] = {
    "mad-x": {"width": 4, "language_width": 8, "dropout": 0.2, "residual": "paper"},
    "lt-sft": {"keep": 50, "dense": 0.5, "language": {"keep": 40, "dense": 0.5}},
    "adamergex": {"rank": 2, "dropout": 0.2},
}


@pytest.mark.parametrize("name", STAGED)
def test_stopped_behind_every_checkpoint_it_comes_to_the_same_bits(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Stages and what stands on them, a step at a time, and in evaluation."""
    monkeypatch.setenv("CROSSTUNE_CHECKPOINT_SECONDS", "0")
    method = {"name": name, "text": str(text), "missing": "nearest", **STAGED[name]}
    method["text_train"] = {"steps": 2, "batch_size": 2}
    whole = Study(**study_of(model, tmp_path / "whole", methods=[method], languages=["de"]))
    run(whole)
    stopped = whole.model_copy(update={"store": str(tmp_path / "stopped")})
    stops: Counter[str] = Counter()
    seen: set[Any] = set()

    def stop_once(what: str, *at: Any) -> None:
        if (what, *at) not in seen:
            seen.add((what, *at))
            stops.update([what])
            raise KeyboardInterrupt

    def breaking(kind: Any, name: str, at: Callable[..., Any]) -> None:
        true = getattr(kind, name)

        def call(self: Any, *told: Any) -> None:
            true(self, *told)
            stop_once(name, len(list(stopped.folder.glob("*/run.json"))), at(self, *told))

        monkeypatch.setattr(kind, name, call)

    breaking(Display, "evaluated", lambda self, count: None)
    breaking(Checkpoint, "save", lambda self, step, tensors, facts: (step, facts["finished"]))
    for _ in range(30):
        with suppress(KeyboardInterrupt):
            run(stopped)
            break
    assert stops == {"save": 2 + 2 + 3, "evaluated": 1}, "two stages of two steps, and a task of three"
    for made in expand(whole):
        files = [stored.WEIGHTS, *[stored.PREDICTIONS] * (made.kind == "result")]
        for file in files:
            one, other = (store / made.id / file for store in (whole.folder, stopped.folder))
            assert one.read_bytes() == other.read_bytes(), f"{made.name}: {file}"
    assert all(record.cost.resumed for record in records(stopped).values())


def test_a_sum_of_neighbours(model: Path, text: Path) -> None:
    """Russian gets 1/2 of Czech, 1/3 of German and 1/6 of English, and run.json says so."""
    mixed = study(model, text, missing="neighbours", study={"languages": ["ru"]})
    run(mixed)
    (result,) = of_kind(mixed, "result")
    made = records(mixed)
    unlabelled = made[result.id].unlabelled
    assert unlabelled is not None
    assert unlabelled.uses["ru"] == "1/2 cs + 1/3 de + 1/6 en"
    assert set(unlabelled.stages) == {"en", "de", "cs"}
    ids = {code: stage.run for code, stage in unlabelled.stages.items()}
    method = MadX()
    FinishedStages(mixed.folder, unlabelled.uses, ids).give(method)
    whole = method.weights[unlabelled.uses["ru"]]
    for name, x in whole.items():
        parts = (method.weights[code][name].double() * w for code, w in (("cs", 3), ("de", 2), ("en", 1)))
        assert torch.allclose(x.double(), sum(parts) / 6, atol=1e-6), name
    sparse = LtSft().summed(
        [
            (0.5, {"w.at": torch.tensor([1, 4]), "w.change": torch.tensor([2.0, 6.0])}),
            (0.25, {"w.at": torch.tensor([4]), "w.change": torch.tensor([8.0])}),
        ]
    )
    total = torch.zeros(6)
    add_sparse(total, "w", sparse)
    assert total.tolist() == [0, 1, 0, 0, 5, 0]


def test_methods_of_sums_run_resume_and_answer(model: Path, text: Path) -> None:
    """LT-SFT, AdaMergeX and a stack from a study's file to the store, and asked again from there."""
    staged = {"text": str(text), "text_train": {"steps": 2, "batch_size": 2}, "missing": "none"}
    methods = [
        {"name": "lt-sft", "keep": 50, "language": {"keep": 40, "dense": 0.5}, **staged},
        {"name": "adamergex", "rank": 2, **staged},
        {"stack": [{"name": "lora", "rank": 2}, {"name": "prefix", "length": 2}]},
    ]
    small = Study(**study_of(model, text.parent / "store", methods=methods))
    run(small)
    made = records(small)
    results = {made[result.id].method.name: made[result.id] for result in of_kind(small, "result")}
    stages = {made[stage.id].method.name for stage in of_kind(small, "stage")}
    assert stages == {"sparse", "lora"}
    for name, record in results.items():
        assert record.zero_shot == (name == "stack"), name
        if name != "stack":
            assert record.unlabelled is not None
            assert record.unlabelled.uses == {"en": "en", "de": "de", "ru": None}
        table = stored.read_predictions(small.folder, [record])
        first = table.filter(pl.col("language") == "de").row(0, named=True)
        examples = make_task("cldr-names").examples("test", "de")
        prompt = next(example.prompt for example in examples if example.id == first["example"])
        assert (
            predict(small.folder / record.id, prompt, language="de", raw=True).answer == first["prediction"]
        )
    assert results["lt-sft"].trained_parameters == 50
    assert results["stack"].label == "lora rank 2 + prefix length 2"
