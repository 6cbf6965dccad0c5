"""A study in small of the size that benchmarks/report_scale.py reports whole: its limits, by its share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from crosstune.analysis.predictions import Predictions
from crosstune.analysis.transfer import language_scores
from crosstune.store import store as stored

FILE = Path(__file__).parents[2] / "benchmarks" / "report_scale.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_scale", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def store(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("scale") / "store"
    benchmark.simulate(folder, runs=40, languages=20, examples=50)
    return folder


def test_report_of_many_runs_is_small(benchmark: ModuleType, store: Path, tmp_path: Path) -> None:
    measured = benchmark.measure(store, tmp_path / "report.html")
    # Most of these is the program itself; the whole size (250 times the rows) may take 60 s, 4 GiB and 20 MB.
    assert measured["cpu"] < 20
    assert measured["gib"] < 1
    assert measured["mb"] < 3


def test_scores_read_run_by_run_are_those_of_one_table(store: Path) -> None:
    runs = stored.read_runs(store)
    table = stored.read_predictions(store, runs)
    slow = table.group_by("run", "language").agg(pl.col("score").mean(), pl.col("metric.in_english").mean())
    keys = ["run", "language"]
    fast = language_scores(runs, Predictions(store))
    assert_frame_equal(
        fast.select(*keys, "score", "metric.in_english").sort(keys), slow.sort(keys), check_exact=False
    )
    shuffled = table.sample(fraction=1, shuffle=True, seed=0)
    assert_frame_equal(fast, language_scores(runs, shuffled))
