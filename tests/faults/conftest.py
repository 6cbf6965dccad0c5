"""What happens to a study under each fault, and the table of it.

``CROSSTUNE_FAULTS=docs/reliability-table.md python -m pytest tests/faults`` writes the outcomes of the run.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saved_model import save_model

Outcome = Callable[[str, str], None]
_ROWS: list[tuple[str, str]] = []


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def outcome() -> Outcome:
    """Write down what a fault did, once the test has proved it."""
    return lambda fault, what: _ROWS.append((fault, what))


@pytest.fixture(scope="session", autouse=True)
def _table() -> Iterator[None]:
    yield
    if (file := os.environ.get("CROSSTUNE_FAULTS")) and _ROWS:
        lines = ["| fault | outcome |", "|---|---|", *(f"| {fault} | {what} |" for fault, what in _ROWS)]
        Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")
