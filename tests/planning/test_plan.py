"""The plan of a study on a tiny model: counts, what is done, estimates from calibration and from results."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crosstune.models.loading import known
from crosstune.models.loading.known import cheap_revision
from crosstune.planning import timings as measurements
from crosstune.planning.calibrate import calibrate
from crosstune.planning.plan import plan_study
from crosstune.planning.table import duration, plan_table, totals
from crosstune.planning.timings import Measured
from crosstune.running.runner import run_study
from crosstune.store.store import read_runs
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from saved_model import study_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path / "cache"))


def study(model: Path, tmp_path: Path, **changes: Any) -> Study:
    return Study(**study_of(model, tmp_path / "store", seeds=[0, 1], **changes))


def test_nothing_is_known_at_first(model: Path, tmp_path: Path) -> None:
    plan = plan_study(study(model, tmp_path, search={"learning_rates": [1e-3, 1e-2]}))
    entries = [(g.method, g.kind, g.runs, g.done, g.to_do, g.seconds) for g in plan.groups]
    assert entries == [
        ("none", "result", 1, 0, 1, None),
        ("few-shot k 2", "result", 2, 0, 2, None),
        ("lora", "search", 2, 0, 2, None),
        ("lora", "result", 2, 0, 2, None),
    ]
    # Rank 4 on queries (64 to 64) and values (64 to 32) in two layers.
    assert [group.parameters for group in plan.groups] == [0, 0, 1792, 1792]
    assert (plan.runs, plan.done, plan.unknown, plan.peak_bytes) == (7, 0, 7, None)
    text = io.StringIO()
    Console(file=text, width=160).print(plan_table(plan, "x.yaml"))
    assert "lora, search" in text.getvalue()
    assert "crosstune plan x.yaml --calibrate" in text.getvalue()


def test_calibration_gives_an_estimate_for_every_run(model: Path, tmp_path: Path) -> None:
    spec = study(model, tmp_path, search={"learning_rates": [1e-3, 1e-2]})
    messages: list[str] = []
    calibrate(spec, messages.append)
    # The search and the result step alike: timed once.
    assert messages == [
        f"loading {model}",
        "timing none on cldr-names",
        "timing few-shot k 2 on cldr-names",
        "timing lora on cldr-names",
    ]
    plan = plan_study(spec)
    assert plan.unknown == 0
    assert {group.basis for group in plan.groups} == {"calibration"}
    assert all(group.seconds > 0 and group.peak_bytes > 0 for group in plan.groups)
    assert plan.load_seconds > 0
    assert not (tmp_path / "store").exists()


def test_a_schedule_longer_than_what_is_timed(model: Path, tmp_path: Path) -> None:
    """AdaLoRA's ranks stay for 8 steps: more than calibration takes, fewer than the run has."""
    ranks = {"init_r": 4, "target_r": 2, "tinit": 8, "tfinal": 2}
    spec = study(model, tmp_path, methods=[{"name": "peft", "type": "ADALORA", **ranks}], train={"steps": 20})
    calibrate(spec, lambda line: None)
    assert plan_study(spec).unknown == 0


def test_an_estimate_is_arithmetic_on_what_was_measured(model: Path, tmp_path: Path) -> None:
    spec = study(model, tmp_path, train={"epochs": 2, "batch_size": 4, "evaluate_every": 7, "limit": 40})
    run = next(run for run in expand(spec) if run.method == "lora")
    measured = Measured("another revision", load_seconds=5.0)
    measured.steps[measurements.step_key(run)] = {"seconds": 0.5, "examples": 40, "dev": 10, "peak_bytes": 3}
    measured.answers[measurements.answer_key(run)] = {"seconds": 0.25, "peak_bytes": 7}
    measured.tests[measurements.test_key(run)] = 12
    measurements.keep(run, measured)
    assert plan_study(spec).unknown == 5, "another revision of the model was measured"
    revision = measurements.read(run).revision  # type: ignore[union-attr]
    assert revision == "another revision"
    measured.revision = str(cheap_revision(run.model))
    measurements.keep(run, measured)
    plan = plan_study(spec)
    lora = plan.groups[-1]
    # 20 steps, 3 scores on 10 development examples, 12 test examples; two seeds.
    assert lora.seconds == pytest.approx(2 * (20 * 0.5 + 3 * 10 * 0.25 + 12 * 0.25))
    assert lora.peak_bytes == 7
    assert plan.load_seconds == 5.0
    assert plan.seconds == pytest.approx(5 + lora.seconds)


def test_a_result_of_the_searchs_seed_is_not_trained_again(model: Path, tmp_path: Path) -> None:
    """The estimate counts what `run_study` does: the search's own weights are taken for the first seed."""
    train = {"steps": 6, "batch_size": 4, "evaluate_every": 3, "dev_limit": 8}
    spec = study(model, tmp_path, methods=["lora"], train=train, search={"learning_rates": [1e-3, 1e-2]})
    run = next(run for run in expand(spec) if run.kind == "result")
    measured = Measured(str(cheap_revision(run.model)))
    measured.steps[measurements.step_key(run)] = {"seconds": 1.0, "examples": 40, "dev": 8, "peak_bytes": 3}
    measured.answers[measurements.answer_key(run)] = {"seconds": 0.5, "peak_bytes": 7}
    measured.tests[measurements.test_key(run)] = 12
    measurements.keep(run, measured)
    search, result = plan_study(spec).groups
    once = 6 * 1.0 + 2 * 8 * 0.5
    assert search.seconds == pytest.approx(2 * once)
    assert result.seconds == pytest.approx(once + 2 * 12 * 0.5), "two seeds, one of them trained"
    run_study(spec, console=Console(file=io.StringIO()))
    records = read_runs(spec.folder)
    assert sum(record.cost.train_from is None for record in records) == 1
    # From finished runs likewise: take the result that was trained away, then the one that was not.
    for record in records:
        folder = spec.folder / record.id
        folder.rename(tmp_path / "aside")
        left = plan_study(spec).groups[1]
        other = next(run_record.cost for run_record in records if run_record is not record)
        trained = record.cost.train_from is None
        known = [entry.cost.train_seconds for entry in read_runs(spec.folder, None)]
        expected = other.evaluate_seconds + trained * sum(known) / len(known)
        assert (left.basis, left.seconds) == ("finished runs", pytest.approx(expected))
        (tmp_path / "aside").rename(folder)


def test_a_calibration_is_of_one_way_to_load_the_model(model: Path, tmp_path: Path) -> None:
    spec = study(model, tmp_path, methods=["none"])
    (run,) = expand(spec)
    measurements.keep(run, Measured("plain"))
    packed = replace(run, quantize="4bit")
    assert measurements.read(packed) is None
    measurements.keep(packed, Measured("packed"))
    spread = replace(run, device_map="auto")
    assert measurements.read(spread) is None
    measured = [measurements.read(item) for item in (run, packed)]
    assert [entry.revision for entry in measured if entry is not None] == ["plain", "packed"]


def test_finished_runs_give_better_figures(model: Path, tmp_path: Path) -> None:
    run_study(study(model, tmp_path).model_copy(update={"seeds": (0,)}), console=Console(file=io.StringIO()))
    plan = plan_study(study(model, tmp_path))
    assert [(group.method, group.done, group.to_do) for group in plan.groups] == [
        ("none", 1, 0),
        ("few-shot k 2", 1, 1),
        ("lora", 1, 1),
    ]
    assert [group.basis for group in plan.groups] == ["finished runs"] * 3
    done = expand(study(model, tmp_path).model_copy(update={"seeds": (0,)}))[-1]
    cost = json.loads((tmp_path / "store" / done.id / "run.json").read_bytes())["cost"]
    assert plan.groups[-1].seconds == pytest.approx(cost["train_seconds"] + cost["evaluate_seconds"])
    assert plan.groups[0].seconds == 0.0
    (tmp_path / "store" / ".failed").mkdir()
    left = expand(study(model, tmp_path))[-1]
    for run_id in (left.id, done.id):  # of the second, a result came later
        (tmp_path / "store" / ".failed" / f"{run_id}.json").write_text("{}", encoding="utf-8")
    plan = plan_study(study(model, tmp_path))
    assert (plan.failed, plan.groups[-1].failed, plan.groups[-1].to_do) == (1, 1, 1)
    assert "(1 failed before)" in totals(plan)
    assert json.loads(json.dumps(plan.as_dict()))["groups"][-1]["to_do"] == 1


def test_ten_times_the_seeds_ask_no_more_often_for_the_shape_of_their_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    shape = known.geometry_in
    monkeypatch.setattr(known, "geometry_in", lambda *given: looked.append(given[1]) or shape(*given))
    grid = {"lora.rank": list(range(1, 26)), "train.steps": [1, 2]}
    few = study(model, tmp_path, methods=["none", "lora"], grid=grid)
    many = few.model_copy(update={"seeds": tuple(range(10))})
    looked.clear()
    assert plan_study(few).runs == 101  # two seeds
    once = len(looked)
    assert plan_study(many).runs == 501
    assert len(looked) == 2 * once > 0


def test_a_damaged_calibration_is_no_calibration(model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "calibration.json").write_text('{"x": ', encoding="utf-8")
    assert plan_study(study(model, tmp_path)).unknown == 5
    calibrate(study(model, tmp_path, methods=["none"]), lambda line: None)
    assert plan_study(study(model, tmp_path, methods=["none"])).unknown == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (101, "2 min"), (7800, "2 h 10 min"), (360000, "4 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
