"""A refused model fails alone: the other models run, and plan, run and exit codes say so."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crosstune.cli import main as cli
from crosstune.errors import UserError
from crosstune.planning.plan import plan_study
from crosstune.planning.table import totals
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from saved_model import study_of
from tiny_encoders import save_encoder


@pytest.fixture
def models(model: Path, tmp_path: Path) -> list[str]:
    """One whose config is refused, one whose weights are not its config's, and one that is right."""
    for name in ("strange", "torn"):
        shutil.copytree(model, tmp_path / name)
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "abacus"}')
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "torn" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    return [str(tmp_path / "strange"), str(tmp_path / "torn"), str(model)]


def study(models: list[str], tmp_path: Path, **changes: Any) -> Study:
    facts = {"methods": ["none", "lora"], "tasks": ["cldr-names"], "train": {"steps": 1}} | changes
    spec = study_of(Path(models[0]), tmp_path / "store", **facts)
    spec.pop("model", None)
    return Study(**spec | {"models": models})


@pytest.mark.parametrize("budget", [None, 900])
def test_the_others_go_on(models: list[str], tmp_path: Path, budget: int | None) -> None:
    spec = study(models, tmp_path, budget=budget)
    plan = plan_study(spec)
    assert len(plan.refused) == 1
    assert "model_type" in plan.refused[0]
    assert [group.to_do for group in plan.groups] == [0, 0, 1, 1, 1, 1]
    assert ": 0 finished, 4 to do, 2 refused" in totals(plan)
    log = io.StringIO()
    with pytest.raises(UserError, match="4 of 6 runs failed, the others are kept in") as failed:
        run_study(spec, console=Console(file=log, width=400))
    assert "abacus" in str(failed.value)
    assert {run.model for run in store.read_runs(spec.folder)} == {models[2]}
    assert len(store.read_runs(spec.folder)) == 2
    lines = [line for line in log.getvalue().splitlines() if line.startswith("failed: 2 runs: ")]
    assert "abacus" in lines[0]
    assert "torn" in lines[1]
    assert len(lines) == 2
    assert plan_study(spec).done == 2


def test_what_does_not_fit_one_model_runs_on_the_others(model: Path, tmp_path: Path) -> None:
    encoder = str(save_encoder(tmp_path / "encoder"))
    methods = ["none", {"name": "few-shot", "k": 1}, "probe", "lora"]
    spec = study([encoder, str(model)], tmp_path, methods=methods)
    plan = plan_study(spec)
    reasons = (
        f"{encoder}: task cldr-names: its answers are told by a head, which method none does not train",
        f"{encoder}: few-shot: an encoder learns nothing from exemplars",
        f"{model}: probe: task cldr-names has no head to train",
    )
    assert [told.startswith(reason) for told, reason in zip(plan.refused, reasons, strict=True)] == [True] * 3
    assert [group.to_do for group in plan.groups] == [0, 0, 1, 1, 1, 1, 0, 1]
    with pytest.raises(UserError, match="3 of 8 runs failed, the others are kept in"):
        run_study(spec, console=Console(file=io.StringIO(), width=400))
    done = {(run.model, run.method.name) for run in store.read_runs(spec.folder)}
    assert done == {(encoder, "probe"), (encoder, "lora")} | {
        (str(model), method) for method in ("none", "few-shot", "lora")
    }


def test_what_does_not_fit_one_task_runs_on_the_others(model: Path, tmp_path: Path) -> None:
    for name, keys in {"tags": "train: t.conll\n", "bare": ""}.items():
        text = f"name: {name}\nkind: tags\nchoices: [A, B]\n{keys}test: 'test_{{code}}.conll'\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    for file in ("t", "test_en", "test_de"):
        (tmp_path / f"{file}.conll").write_text("x A\ny B\n")
    tasks = [str(tmp_path / "tags.yaml"), str(tmp_path / "bare.yaml"), "cldr-names"]
    spec = study([str(model)], tmp_path, tasks=tasks, languages=["de"])
    plan = plan_study(spec)
    reasons = (
        f"{model}: task tags: its answers are told by a head, which method none does not train",
        f"{model}: task bare: its answers are told by a head, which method none does not train",
        "lora: task bare has no training data, so only none can be run on it",
    )
    assert [told.startswith(reason) for told, reason in zip(plan.refused, reasons, strict=True)] == [True] * 3
    with pytest.raises(UserError, match="3 of 6 runs failed, the others are kept in"):
        run_study(spec, console=Console(file=io.StringIO(), width=400))
    done = {(run.task.name, run.method.name) for run in store.read_runs(spec.folder)}
    assert done == {("tags", "lora"), ("cldr-names", "none"), ("cldr-names", "lora")}


def test_a_combination_that_fits_no_model_is_a_mistake_of_the_file(tmp_path: Path) -> None:
    encoders = [str(save_encoder(tmp_path / name)) for name in ("one", "two")]
    with pytest.raises(Exception, match=f"{encoders[0]}: few-shot: an encoder learns nothing"):
        study(encoders, tmp_path, methods=["probe", "few-shot"])


def test_a_size_that_could_not_be_solved_has_an_id_of_its_own(models: list[str], tmp_path: Path) -> None:
    budgeted = {run.id for run in expand(study(models, tmp_path, budget=900)) if run.method == "lora"}
    plain = {run.id for run in expand(study(models, tmp_path)) if run.method == "lora"}
    assert len(budgeted) == len(plain) == 3
    assert not budgeted & plain


def test_nothing_goes_on_where_all_are_refused(models: list[str], tmp_path: Path) -> None:
    with pytest.raises(Exception, match="abacus"):
        study(models[:1], tmp_path)


def test_exit_codes_say_that_a_part_failed(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(study([models[0], models[2]], tmp_path, methods=["none"]).to_yaml())
    codes = []
    for verb in ("plan", "run", "plan"):
        monkeypatch.setattr("sys.argv", ["crosstune", verb, str(file)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        codes.append(stopped.value.code)
        told = capsys.readouterr()
        assert "abacus" in told.out + told.err
    assert codes == [2, 2, 2]
