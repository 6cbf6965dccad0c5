"""Whole studies of a user's own tasks: run, resumed, changed, asked again."""

import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError
from rich.console import Console

from crosstune.analysis.transfer import language_scores
from crosstune.errors import UserError
from crosstune.running import execute
from crosstune.running.predict import predict
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.study.runs import expand
from crosstune.study.spec import Study, read_study
from saved_model import study_of, write_study

ROWS = [
    {"key": f"{i}", "text": f"The {what} is {how}.", "label": label, "lang": "en"}
    for i, (what, how, label) in enumerate(
        [("sea", "calm", "good"), ("bread", "old", "bad"), ("sun", "out", "good"), ("road", "closed", "bad")]
    )
]
CHOICE = """\
name: weather
kind: choice
prompt: "{text}\\nNews:"
choices: [good, bad]
answer: label
id: key
train: train.SUFFIX
test: test_{code}.SUFFIX
"""
WRITTEN = """\
name: copy
kind: generation
prompt: "{text}\\nCopy:"
answer: label
metric: squad_f1
max_answer_tokens: 3
train: train.jsonl
test: test_{code}.jsonl
"""
PYTHON = '''\
from crosstune.tasks.base import Example, Task


class Letters(Task):
    """Which letter comes first?"""

    name = "letters"
    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    summary = "a test's own"
    split_names = {"train": "made", "test": "made"}

    def languages(self):
        return ["en", "de"]

    def examples(self, split, language):
        pairs = {"train": ["ab", "cd", "fe"], "test": ["ef", "hg"]}[split]
        return [Example(pair, language, f"First of {pair}:", (min(pair),), tuple(pair)) for pair in pairs]
'''


def write_data(folder: Path, suffix: str) -> None:
    folder.mkdir(exist_ok=True)
    frame = pl.DataFrame(ROWS)
    for name in ("train", "test_en", "test_de"):
        rows = frame if name == "train" else frame.with_columns(pl.col("text") + f" ({name})")
        file = folder / f"{name}.{suffix}"
        if suffix == "parquet":
            rows.write_parquet(file)
        elif suffix == "jsonl":
            rows.write_ndjson(file)
        else:
            rows.write_csv(file, separator="\t" if suffix == "tsv" else ",")


def study_with(folder: Path, model: Path, tasks: list[Any], **changes: Any) -> Study:
    """A study file in ``folder``, read."""
    methods = ["lora", {"name": "few-shot", "k": 1}, "none"]
    content = {"tasks": tasks, "methods": methods, "languages": "all"} | changes
    return read_study(write_study(folder / "study.yaml", study_of(model, folder / "store", **content)))


def go(study: Study) -> list[str]:
    """Ids of the runs made now."""
    return run_study(study, console=Console(file=io.StringIO())).done


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_choice_task_from_every_format(
    model: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path / "own", suffix)
    (tmp_path / "own" / "weather.yaml").write_text(CHOICE.replace("SUFFIX", suffix))
    study = study_with(tmp_path, model, ["own/weather.yaml"], methods=["lora", "none"])
    outcome = go(study)
    assert len(outcome) == 2
    runs = {run.label: run for run in store.read_runs(study.folder)}
    table = store.read_predictions(study.folder, list(runs.values()))
    assert table.group_by("run", "language").len().sort("language")["len"].to_list() == [4] * 4
    assert set(table["gold"]) == set(table["prediction"]) | {"good", "bad"} == {"good", "bad"}
    merge = runs["lora"].merge
    assert merge is not None
    assert 0 <= merge.merged <= merge.tensors > 0
    assert runs["none"].merge is None
    facts = runs["lora"].task
    assert (facts.name, facts.version, facts.metrics) == ("weather", 1, ["accuracy"])
    assert facts.splits == {"train": f"train.{suffix}", "test": f"test_{{code}}.{suffix}"}
    assert facts.file["path"] == str(tmp_path / "own" / "weather.yaml")
    assert len(facts.file["sha256"]) == 64
    monkeypatch.setattr(execute, "load", None)
    assert go(study) == []


def test_written_answers_and_a_python_task(model: Path, tmp_path: Path) -> None:
    write_data(tmp_path, "jsonl")
    (tmp_path / "copy.yml").write_text(WRITTEN)
    (tmp_path / "letters.py").write_text(PYTHON)
    tasks = [{"file": "copy.yml", "train": {"steps": 2}, "evaluate": {"limit": 3}}, "letters.py"]
    study = study_with(tmp_path, model, tasks, languages={"copy": ["de"], "letters": "all"})
    assert len(go(study)) == 6
    assert read_study(study.folder / "study.yaml").tasks == study.tasks
    runs = store.read_runs(study.folder)
    table = store.read_predictions(study.folder, runs).join(
        pl.DataFrame({"run": [r.id for r in runs], "task": [r.task.name for r in runs]}), on="run"
    )
    assert table.group_by("task", "language").len().sort("task", "language").rows() == [
        ("copy", "de", 9), ("copy", "en", 9), ("letters", "de", 6), ("letters", "en", 6)
    ]  # fmt: skip
    assert table.filter(task="copy")["metric.squad_f1"].is_between(0, 1).all()
    assert {run.train["steps"] for run in runs if run.train} == {2, 3}
    for run in runs:
        custom = run.task.name == "copy"
        language, text = ("de", f"{ROWS[0]['text']} (test_de)") if custom else ("en", "First of ef:")
        prediction = predict(
            study.folder / run.id, text, raw=not custom, choices=() if custom else "ef", language="de",
            task_file=None if custom else tmp_path / "letters.py",
        )  # fmt: skip
        first = table.filter(run=run.id, language=language, example="1" if custom else "ef")
        assert prediction.answer == first["prediction"].item()


def test_a_changed_definition_is_another_task(model: Path, tmp_path: Path) -> None:
    write_data(tmp_path, "csv")
    file = tmp_path / "weather.yaml"
    text = CHOICE.replace("SUFFIX", "csv")
    file.write_text(text)
    study = study_with(tmp_path, model, ["weather.yaml"], methods=["none"])
    (first,) = go(study)
    assert predict(study.folder / first, "The sea is calm.").answer in ("good", "bad")
    file.write_text(text.replace("News:", "Report:"))
    with pytest.raises(UserError, match=r"weather\.yaml has changed since run .* was made with it; run the"):
        predict(study.folder / first, "The sea is calm.")
    (second,) = go(study_with(tmp_path, model, ["weather.yaml"], methods=["none"]))
    assert second != first
    file.write_text(text)
    assert go(study_with(tmp_path, model, ["weather.yaml"], methods=["none"])) == []
    file.unlink()
    with pytest.raises(UserError, match=r"weather\.yaml: no such file"):
        predict(study.folder / first, "The sea is calm.")


def test_changed_data_is_noticed(model: Path, tmp_path: Path) -> None:
    write_data(tmp_path, "csv")
    (tmp_path / "weather.yaml").write_text(CHOICE.replace("SUFFIX", "csv"))
    study = study_with(tmp_path, model, ["weather.yaml"], methods=["none"])
    go(study)
    test = tmp_path / "test_de.csv"
    test.write_text(test.read_text().replace("sea", "lake"))
    assert go(study_with(tmp_path, model, ["weather.yaml"], methods=["none", "lora"])) == [
        run.id for run in expand(study_with(tmp_path, model, ["weather.yaml"], methods=["none", "lora"]))
    ]


def test_the_id_is_made_of_the_content_not_the_place(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CHOICE.replace("SUFFIX", "csv")
    ids = []
    for name in ("here", "there"):
        write_data(tmp_path / name, "csv")
        (tmp_path / name / f"{name}.yaml").write_text(text)
        study = study_with(tmp_path / name, model, [f"{name}.yaml"])
        ids.append([run.id for run in expand(study)])
        # In the store the file is named from the root.
        monkeypatch.chdir("/")
        (tmp_path / "again.yaml").write_text(study.to_yaml())
        assert read_study(tmp_path / "again.yaml").tasks == study.tasks
    assert ids[0] == ids[1]
    monkeypatch.chdir(tmp_path / "here")
    spec = Study(
        **study_of(model, tmp_path / "store", tasks=["here.yaml"], methods=["none"], languages="all")
    )
    assert [run.id for run in expand(spec)] == [ids[0][0]]
    copy = study_of(model, tmp_path / "store", tasks=list(spec.tasks), languages="all")
    assert Study(**copy).tasks == spec.tasks
    (tmp_path / "here" / "here.yaml").write_text(text + "version: 2\n")
    again = Study(
        **study_of(model, tmp_path / "store", tasks=["here.yaml"], methods=["none"], languages="all")
    )
    assert [run.id for run in expand(again)] != [ids[0][0]]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            "[none.yaml]",
            "study.yaml:3: file: there is no .*none.yaml; give its path from the study file's folder",
        ),
        ("\n  - sib200\n  - {file: none.py}", "study.yaml:5: file: there is no .*none.py"),
        ("\n  - {file: weather.txt}", r"study.yaml:4: file: a task's file ends in .yaml, .yml, .py"),
        ("\n  - {file: weather.yaml, name: x}", "study.yaml:4: give name or file, not both"),
        (
            "[{file: weather.yaml, source: hub}]",
            "study.yaml:3: task weather: source should be 'local'; found",
        ),
        (
            "[{file: weather.yaml, smallest: 3}]",
            'study.yaml:3: unknown key "smallest" in task weather; known: dat',
        ),
        (
            "[weather.yaml, weather.yaml]",
            "study.yaml:3: tasks: weather is listed twice with the same settings",
        ),
        ("[weather.yaml, other.yaml]", 'study.yaml:3: tasks: two files are called "weather"'),
        ("[sib.yaml]", 'study.yaml:3: .*sib.yaml: "sib200" is a task of crosstune; give yours'),
        ("[broken.yaml]", 'broken.yaml:2: unknown key "knd" in a task; did you mean "kind"'),
        ("[broken.py]", "broken.py:1: NameError: name 'x' is not defined"),
    ],
)
def test_mistakes_name_their_line(model: Path, tmp_path: Path, tasks: str, message: str) -> None:
    write_data(tmp_path, "csv")
    text = CHOICE.replace("SUFFIX", "csv")
    for name, content in {
        "weather.yaml": text,
        "other.yaml": text + "version: 2\n",
        "sib.yaml": text.replace("name: weather", "name: sib200"),
        "broken.yaml": text.replace("kind:", "knd:"),
        "broken.py": "x\n",
    }.items():
        (tmp_path / name).write_text(content)
    file = tmp_path / "study.yaml"
    file.write_text(f"name: t\nmodel: {json.dumps(str(model))}\ntasks: {tasks}\nmethods: [none]\n")
    with pytest.raises(UserError, match=message) as caught:
        read_study(file)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_python_is_told_too(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"file: there is no none\.yaml"):
        Study(**study_of(model, tmp_path, tasks=["none.yaml"]))


def test_a_missing_test_in_the_source_does_not_stop_the_others_and_a_damaged_one_does(
    model: Path, tmp_path: Path
) -> None:
    write_data(tmp_path, "jsonl")
    (tmp_path / "weather.yaml").write_text(CHOICE.replace("SUFFIX", "jsonl"), encoding="utf-8")
    test = tmp_path / "test_en.jsonl"
    test.write_text("{}\n", encoding="utf-8")
    study = study_with(tmp_path, model, [{"file": "weather.yaml"}], methods=["none"], languages=["de"])
    with pytest.raises(UserError, match=r"test_en\.jsonl:1"):
        go(study)
    test.unlink()
    study = study_with(tmp_path, model, [{"file": "weather.yaml"}], methods=["none"], languages=["de"])
    (run,) = go(study)
    assert store.read_run(study.folder / run).languages == ["de"]


def test_written_answers_of_beams_are_a_protocol_of_their_own(model: Path, tmp_path: Path) -> None:
    write_data(tmp_path, "jsonl")
    (tmp_path / "copy.yaml").write_text(WRITTEN, encoding="utf-8")
    evaluates: list[dict[str, Any]] = [{}, {"beams": 3, "length_penalty": 0.5, "early_stopping": True}]
    for evaluate in evaluates:
        go(study_with(tmp_path, model, [{"file": "copy.yaml"}], methods=["none"], evaluate=evaluate))
    runs = store.read_runs(tmp_path / "store")
    assert sorted(run.evaluate.get("beams", 1) for run in runs) == [1, 3]
    scores = language_scores(runs, store.read_predictions(tmp_path / "store", runs))
    assert scores["protocol"].n_unique() == 2
