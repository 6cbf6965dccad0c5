"""Search runs: trained and scored on development data alone; their weights serve the result they decide."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from crosstune.data.forms import FORMS
from crosstune.models.loading.load import load
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.execute import LoadedModel, RunResult, execute
from crosstune.running.progress import Display, display
from crosstune.running.task_data import TaskData, read_data
from crosstune.study.runs import LAST_STEP, Run, Search, expand
from crosstune.study.spec import Study
from saved_model import study_of

SOFT = {"name": "prefix", "reparameterise": 4}


@pytest.fixture(scope="module")
def loaded(model: Path) -> LoadedModel:
    return LoadedModel(load(str(model), device="cpu", dtype="float32"), 0.0)


def result_run(model: Path, method: Any, **train: Any) -> Run:
    settings = {"steps": 3, "batch_size": 4, "learning_rate": 0.01, "dev_limit": 4} | train
    study = Study(**study_of(model, Path("store"), tasks=["number-words"], methods=[method], train=settings))
    return expand(study)[0]


def search_of(run: Run) -> Run:
    assert run.train is not None
    every = run.train.evaluate_every or LAST_STEP
    train = run.train.model_copy(update={"evaluate_every": every})
    return replace(run, kind="search", languages=(), train=train)


def data_of(run: Run) -> TaskData:
    return read_data(run.task.make(), ["en", "de"], EvaluateSettings(limit=3), True, [run.train])


def quiet() -> tuple[Display, io.StringIO]:
    log = io.StringIO()
    return display(Console(file=log, width=200), 1, 0), log


def saved(made: RunResult, store: Path) -> Path:
    made.save(store)
    return store / str(made.record.id)


def same_weights(a: RunResult, b: RunResult) -> bool:
    assert a.weights is not None
    assert b.weights is not None
    return all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


def test_a_search_run_is_scored_on_development_data_alone(model: Path, loaded: LoadedModel) -> None:
    run = search_of(result_run(model, "lora"))
    shown, _ = quiet()
    outcome = execute(run, loaded, data_of(run), shown)
    assert (outcome.predictions.height, dict(outcome.predictions.schema)) == (0, FORMS["generation"].schema())
    assert outcome.record.kind == "search"
    assert [point["step"] for point in outcome.record.dev] == [3]
    assert outcome.record.fingerprints.test == {}
    assert outcome.record.cost.evaluate_seconds == 0
    assert outcome.summary() == f"dev {100 * outcome.record.dev[0]['score']:.1f}, " + outcome.summary()[-3:]
    assert outcome.weights is not None


@pytest.mark.parametrize("method", ["lora", SOFT, "full"], ids=["lora", "prefix-mlp", "full"])
@pytest.mark.parametrize("every", [None, 2], ids=["last step", "best on dev"])
def test_a_search_runs_weights_are_those_of_training_again(
    model: Path, loaded: LoadedModel, tmp_path: Path, method: Any, every: int | None
) -> None:
    run = result_run(model, method, evaluate_every=every)
    search = search_of(run)
    data, (shown, message) = data_of(run), quiet()
    folder = saved(execute(search, loaded, data, shown), tmp_path)
    run = replace(run, search=Search((search.id,), (0.01,), search.seed), chosen={0.01: 0.5})
    took = execute(run, loaded, data, shown, searched=folder)
    again = execute(run, loaded, data, shown)
    assert took.record.cost.train_from == search.id
    assert again.record.cost.train_from is None
    assert same_weights(took, again)
    assert took.predictions.equals(again.predictions)
    for name in ("curve", "chosen_step"):
        assert getattr(took.record, name) == getattr(again.record, name)
    assert took.record.dev
    assert took.record.search.entries() == {
        "runs": [search.id],
        "scores": [{"learning_rate": 0.01, "dev_score": 0.5}],
        "chosen": 0.01,
        "seed": 0,
    }
    assert message.getvalue() == ""


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"steps": 4}, {"learning_rate": 0.02}, {"evaluate_every": 2}, {"method": "rank"}]
)
def test_a_search_run_of_other_settings_is_not_taken(
    model: Path, loaded: LoadedModel, tmp_path: Path, other: dict[str, Any]
) -> None:
    run = result_run(model, "lora")
    data, (shown, _) = data_of(run), quiet()
    folder = saved(execute(search_of(run), loaded, data, shown), tmp_path)
    if "seed" in other:
        run = replace(run, seed=1)
    elif "method" in other:
        run = result_run(model, {"name": "lora", "rank": 2})
    else:
        run = result_run(model, "lora", **other)
    assert execute(run, loaded, data, shown, searched=folder).record.cost.train_from is None


def test_a_damaged_search_run_is_not_taken(model: Path, loaded: LoadedModel, tmp_path: Path) -> None:
    run = result_run(model, "lora")
    data, (shown, message) = data_of(run), quiet()
    folder = saved(execute(search_of(run), loaded, data, shown), tmp_path)
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert execute(run, loaded, data, shown, searched=folder).record.cost.train_from is None
    assert f"trained again: {file} is damaged" in message.getvalue()
    assert json.loads((folder / "run.json").read_bytes())["kind"] == "search"
