"""benchmarks/runs_together.py: one pass for many adapters gives each what its own pass does, or fails."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import runs_together
from saved_model import save_model


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("model"))
    options = "--task cldr-names --dtype float32 --runs 3 --examples 2 --rounds 2"
    return ["--model", str(folder), *options.split()]


def test_the_same_gradients(command, capsys):
    assert runs_together.main(command) == 0
    assert "3 runs of 2 examples" in capsys.readouterr().out


def test_updates_that_go_to_the_wrong_texts_fail(command, monkeypatch):
    """Every run's LoRA over the line's texts in another order."""
    in_order = runs_together.in_one_line
    monkeypatch.setattr(runs_together, "in_one_line", lambda lm, rows: in_order(lm, rows[::-1]))
    assert runs_together.main(command) == 1
