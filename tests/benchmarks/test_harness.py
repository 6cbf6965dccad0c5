import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import harness
import machine
import training
from harness import Agreement, Block, Cost, Row, Setting

SETTING = Setting(device="cpu", dtype="float32", rounds=2)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """The machine's rates are still measured, on sizes that take no time."""
    monkeypatch.setattr(machine, "SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(machine, "COPIED", 2**20)


def timed(fixed, each, answer):
    """A side that says it took ``fixed + each * size`` seconds, and answers the same every time."""
    return lambda setting, folder: lambda size: Block([fixed + each * size] * 3, answer)


def row(**more):
    facts = {
        "name": "toy",
        "title": "a toy",
        "peer": "a peer",
        "prepare": lambda setting, folder: None,
        "ours": timed(1.0, 0.5, [1, 2]),
        "theirs": timed(4.0, 2.0, [1, 2]),
        "same": lambda setting, mine, other: Agreement(mine == other, f"{mine} {other}"),
        "cost": lambda setting, folder: Cost(flop=1e9, facts={"rows": 3}),
        "memory": False,
    }
    return Row(**facts | more)


def test_ratio_floor_and_spread(tmp_path):
    measured = harness.turns(row(), SETTING, tmp_path)
    assert measured["ratio"] == 4.0
    assert measured["passed"]
    assert measured["seconds"]["ours"]["all"] == [1.0] * 6
    assert measured["floor"]["seconds"] == pytest.approx(1e9 / (measured["matrix_gflops"] * 1e9))
    assert measured["share_of_floor"] == measured["floor"]["seconds"]


def test_sizes_give_slopes(tmp_path):
    """One line a turn: a machine that is slower in one of them shows in the spread."""
    slower = iter([1, 1, 1, 2, 2, 2])

    def theirs(setting, folder):
        return lambda size: Block([(4.0 + 2.0 * size) * next(slower)], [1, 2])

    told, toy = [], row(sizes=(1, 2, 4), theirs=theirs)
    measured = harness.turns(toy, SETTING, tmp_path) | {"memory": {}}
    ours, theirs = measured["lines"]["ours"], measured["lines"]["theirs"]
    assert (ours["slope"]["median"], ours["fixed"]["median"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert theirs["slope"]["all"] == [pytest.approx(2.0), pytest.approx(4.0)]
    assert theirs["fixed"]["all"] == [pytest.approx(4.0), pytest.approx(8.0)]
    assert measured["ratio"] == pytest.approx(6.0)
    harness.tell(toy, measured, told.append)
    assert "500.00 ms a unit more (500.00 to 500.00), 1.000 s fixed (1.00 to 1.00)" in told[0]
    assert "6.00 times as fast (4.00 to 8.00 in 2 turns)" in told[2]


def test_a_wrong_answer_fails_in_whatever_block_it_comes(tmp_path):
    answers = iter([[1, 2], [1, 3]])
    wrong = row(ours=lambda setting, folder: lambda size: Block([0.1], next(answers)))
    measured = harness.turns(wrong, SETTING, tmp_path)
    assert not measured["passed"]
    assert measured["answers"]["text"] == "[1, 3] [1, 2]"


def test_sides_change_who_goes_first(tmp_path):
    order = []

    def side(name):
        def work(size):
            order.append(name)
            return Block([1.0], None)

        return lambda setting, folder: work

    harness.turns(row(ours=side("ours"), theirs=side("theirs")), SETTING, tmp_path)
    assert order == ["ours", "theirs", "theirs", "ours"]


def test_loss_curves_that_drift_apart_are_not_the_same():
    assert training.same(SETTING, [2.0, 1.0], [2.0, 1.001]).same
    assert not training.same(SETTING, [2.0, 1.0], [2.0, 1.1]).same
    assert training.same(replace(SETTING, dtype="bfloat16"), [2.0, 1.0], [2.0, 1.08]).same
