import sys
from pathlib import Path

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode hides the module beside this one
from synthetic import METHODS, TASKS, frame, make_predictions, make_run

from crosstune.store.record import RunRecord


@pytest.fixture(scope="session")
def runs() -> list[RunRecord]:
    return [
        make_run(task, method, seed) for task in TASKS for method in range(len(METHODS)) for seed in (0, 1)
    ]


@pytest.fixture(scope="session")
def predictions(runs: list[RunRecord]) -> pl.DataFrame:
    return frame([row for run in runs for row in make_predictions(run)])
