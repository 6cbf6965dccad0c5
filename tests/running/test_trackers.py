"""Trackers: what a library shows of a run is what the run's own record says, and none can cost a run."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest
from rich.console import Console

from crosstune.errors import UserError
from crosstune.running.runner import run_study
from crosstune.running.watch.trackers import KINDS, Trackers
from crosstune.store.record import RunRecord
from crosstune.store.store import read_predictions, read_runs
from crosstune.study.runs import Run, expand
from crosstune.study.spec import Study, read_study
from crosstune.training.loop import Progress
from records import as_record
from saved_model import study_of, write_study

TRAIN = {"steps": 3, "batch_size": 4, "evaluate_every": 2, "dev_limit": 4, "warmup_steps": 1}


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, RunRecord, pl.DataFrame]:
    """A finished run with a training curve and development scores."""
    store = tmp_path_factory.mktemp("tracked") / "store"
    study = Study(**study_of(model, store, tasks=["number-words"], methods=["lora"], train=TRAIN))
    run_study(study, console=Console(file=io.StringIO()))
    records = read_runs(store)
    return expand(study)[0], records[0], read_predictions(store, records)


def tell(trackers: Trackers, done: tuple[Run, RunRecord, pl.DataFrame], start: int = 1) -> None:
    """Tell of the run as the runner does, from a step on."""
    run, record, predictions = done
    trackers.begin(run)
    for point in record.curve[start - 1 :]:
        step = int(point["step"])
        trackers.trained(Progress(step, 3, point["loss"], 100 * step, 0.5 * step))
    trackers.finish(record, predictions)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard reads: value by step, for each name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {tag: {entry.step: entry.value for entry in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def test_tensorboard_shows_what_the_record_says(done: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run, record, predictions = done
    notes: list[str] = []
    trackers = Trackers(["tensorboard"], tmp_path, notes.append)
    tell(trackers, done)
    trackers.close()
    shown = scalars(tmp_path / "trackers" / "tensorboard" / run.id)
    for name, key in (("train/loss", "loss"), ("train/learning_rate", "learning_rate")):
        assert shown[name] == pytest.approx({point["step"]: point[key] for point in record.curve})
    assert shown["train/tokens_per_second"] == {1: 200, 2: 200, 3: 200}
    assert shown["dev/score"] == pytest.approx({point["step"]: point["score"] for point in record.dev})
    means = {key[0]: table["score"].mean() for key, table in predictions.group_by("language")}
    entries = {
        name.removeprefix("score/"): value[3] for name, value in shown.items() if name.startswith("score/")
    }
    assert entries == pytest.approx(means)
    assert notes == []


def test_a_run_taken_up_again_goes_on_in_its_own_curve(done: Any, tmp_path: Path) -> None:
    """Cut off after step 2, taken up from step 1's checkpoint: step 2 is there once, as written last."""
    pytest.importorskip("tensorboard")
    run = done[0]
    first = Trackers(["tensorboard"], tmp_path, print)
    first.begin(run)
    first.trained(Progress(1, 3, 9.0, 100, 1.0))
    first.trained(Progress(2, 3, 8.0, 200, 2.0))
    first.close()
    tell(Trackers(["tensorboard"], tmp_path, print), done, start=2)
    losses = scalars(tmp_path / "trackers" / "tensorboard" / run.id)["train/loss"]
    assert losses == pytest.approx({1: 9.0} | {p["step"]: p["loss"] for p in done[1].curve[1:]})
    # And once more, with nothing left but evaluation: the curve stays.
    tell(Trackers(["tensorboard"], tmp_path, print), done, start=4)
    assert scalars(tmp_path / "trackers" / "tensorboard" / run.id)["train/loss"] == losses


def test_wandb_offline(done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    notes: list[str] = []
    seen: dict[str, Any] = {}
    trackers = Trackers(["wandb"], tmp_path, notes.append)
    end = trackers.live["wandb"].end

    def look(*given: Any) -> None:
        seen.update(id=wandb.run.id, project=wandb.run.project, config=dict(wandb.run.config))
        end(*given)

    monkeypatch.setattr(trackers.live["wandb"], "end", look)
    tell(trackers, done)
    trackers.close()
    assert notes == []
    assert (seen["id"], seen["project"], seen["config"]["method.rank"]) == (done[0].id, "tiny", 4)
    assert len(list((tmp_path / "trackers" / "wandb").glob(f"offline-run-*/run-{done[0].id}.wandb"))) == 1


def test_trackio(done: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    notes: list[str] = []
    trackers = Trackers(["trackio"], tmp_path, notes.append)
    tell(trackers, done)
    trackers.close()
    assert notes == []
    assert list((tmp_path / "trackio").glob("tiny*"))


def test_a_failing_tracker_is_said_once_and_left_out(done: Any, tmp_path: Path) -> None:
    """A file stands where TensorBoard's folder should be."""
    pytest.importorskip("tensorboard")
    (tmp_path / "trackers").write_text("")
    notes: list[str] = []
    trackers = Trackers(["tensorboard"], tmp_path, notes.append)
    tell(trackers, done)
    tell(trackers, done)
    assert len(notes) == 1
    assert notes[0].startswith("tensorboard is not used any more: ")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_missing_library_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        UserError, match=rf'trackers: {name} is not installed; pip install "crosstune\[{name}\]"'
    ):
        Trackers([name], tmp_path, print)


def test_trackers_are_no_part_of_a_run(model: Path, tmp_path: Path) -> None:
    plain = study_of(model, tmp_path / "s")
    with_them = read_study(write_study(tmp_path / "study.yaml", plain | {"trackers": "tensorboard"}))
    assert with_them.trackers == ("tensorboard",)
    assert [run.id for run in expand(with_them)] == [run.id for run in expand(Study(**plain))]
    with pytest.raises(UserError, match=r"study.yaml:\d+: .*tensorboard"):
        read_study(write_study(tmp_path / "study.yaml", plain | {"trackers": ["tensorbord"]}))


def test_a_run_given_up_is_ended_before_the_next(done: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    other = replace(done[0], seed=1)
    trackers = Trackers(["tensorboard"], tmp_path, print)
    trackers.begin(other)
    trackers.trained(Progress(1, 3, 7.0, 100, 1.0))
    tell(trackers, done)
    folder = tmp_path / "trackers" / "tensorboard"
    assert scalars(folder / other.id) == {
        "train/loss": {1: 7.0}, "train/learning_rate": {1: pytest.approx(1e-3)},
        "train/tokens_per_second": {1: 100.0},
    }  # fmt: skip


def test_a_study_tells_its_trackers(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    settings = study_of(
        model, tmp_path / "store", tasks=["number-words"], methods=["none", "lora"], train=TRAIN,
        search={"learning_rates": [1e-3, 1e-2]}, trackers=["tensorboard"],
    )  # fmt: skip
    run_study(Study(**settings), console=Console(quiet=True))
    folder = tmp_path / "store" / "trackers" / "tensorboard"
    (record,) = (run for run in read_runs(tmp_path / "store") if run.label == "lora")
    for search in record.search.runs:
        shown = scalars(folder / search)
        assert set(shown["train/loss"]) == {1, 2, 3}
        assert list(shown["dev/best"].values()) == pytest.approx([max(shown["dev/score"].values())])
    assert {"score/en", "score/de"} <= set(scalars(folder / record.id))


def test_a_score_that_is_no_mean_is_told_as_the_report_has_it(tmp_path: Path) -> None:
    told: dict[str, float] = {}
    trackers = Trackers([], tmp_path, print)
    seen: Any = SimpleNamespace(end=lambda scores, step: told.update(scores))
    trackers.live["seen"], trackers.run = seen, cast(Any, "a run")
    task = {"name": "tone", "kind": "choice", "metrics": ["macro_f1"], "sums": 6}
    # Two classes, of which the first is always picked: twice rightly, once wrongly.
    right, wrong = (1, 1, 1, 0, 0, 0), (0, 1, 0, 0, 0, 1)
    rows = [(1.0, *right), (1.0, *right), (0.0, *wrong)]
    columns = ["score", *(f"sum.{i}" for i in range(6))]
    table = pl.DataFrame(rows, columns, orient="row").with_columns(language=pl.lit("de"))
    trackers.finish(as_record({"id": "a", "task": task}), table)
    assert told == {"score/de": pytest.approx((2 * 2 / 5 + 0) / 2)}
