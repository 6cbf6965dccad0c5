"""The study over the real benchmarks, shrunk onto a tiny model: from published files to scores."""

import io
import os
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from crosstune.api import results
from crosstune.running.runner import run_study
from crosstune.study.spec import Study, read_study
from saved_model import save_model

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CROSSTUNE_DATA") or ROOT / "../shared/data").resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "xnli").is_dir(), reason=f"the benchmarks are not under {DATA} (set CROSSTUNE_DATA)"
)


@needs_data
def test_every_benchmark_from_its_files_to_a_score(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSTUNE_DATA", str(DATA))
    read = read_study(ROOT / "studies" / "benchmarks.yaml")
    study = Study(
        name=read.name,
        model=str(save_model(tmp_path / "model")),
        device="cpu",
        dtype="float32",
        # Not their own settings: in bytes all labels start alike, with the space.
        tasks=[task.name for task in read.tasks],
        methods=["none", {"name": "prefix", "length": 2}],
        languages={task.name: ["th" if task.name == "xcopa" else "de"] for task in read.tasks},
        train={"steps": 1, "batch_size": 2, "limit": 4, "tokens_per_pass": 4096},
        evaluate={"limit": 2, "max_answer_tokens": 3},
        store=str(tmp_path / "store"),
    )
    log = io.StringIO()
    run_study(study, console=Console(file=log, width=200))
    outcome = results(tmp_path / "store")
    assert outcome.scores.select("task").n_unique() == len(read.tasks) == 6
    assert outcome.scores["n"].unique().to_list() == [2]
    for run in outcome.runs:
        sources = run.data.sources
        assert {source["split"] for source in sources} >= {"train", "test"}, run.task.name
        assert set(run.overlap.exact.values()) == {0}, (run.task.name, run.overlap)
        assert run.zero_shot is True
    answers = outcome.predictions.filter(pl.col("answer_language").is_not_null())
    written = {run.id for run in outcome.runs if run.task.kind == "generation"}
    assert set(answers["run"]) == written
