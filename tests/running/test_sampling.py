"""Which examples a run trains on (so many, a share, so many a label), and which of a passage it tests."""

import random
from collections import Counter

import pytest
from pydantic import ValidationError

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.sampling import draw
from crosstune.training.settings import TrainSettings

LABELS = ("a", "b", "c")
LABELLED = [Example(str(i), "en", f"{i}:", (LABELS[min(i % 7, 2)],), LABELS) for i in range(100)]
OWN_CHOICES = [Example(str(i), "en", f"{i}:", (f"x{i}",), (f"x{i}", f"y{i}")) for i in range(100)]
FREE = [Example(str(i), "en", f"{i}:", (str(i),)) for i in range(100)]


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


def test_all_in_their_own_order() -> None:
    for options in ({}, {"limit": 100}, {"limit": 5000}):
        assert draw(FREE, TrainSettings(**options), 3) == FREE


def test_a_number_is_the_draw_of_earlier_versions() -> None:
    assert draw(FREE, TrainSettings(limit=7), 3) == random.Random(3).sample(FREE, 7)


@pytest.mark.parametrize(("share", "wanted"), [(0.1, 10), (0.25, 25), (0.999, 100), (0.0001, 1)])
def test_a_share(share: float, wanted: int) -> None:
    drawn = draw(FREE, TrainSettings(limit=share), 0)
    assert len(drawn) == len(set(ids(drawn))) == wanted


def test_k_of_each_label() -> None:
    drawn = draw(LABELLED, TrainSettings(per_label=4), 1)
    assert Counter(example.answers[0] for example in drawn) == {"a": 4, "b": 4, "c": 4}
    assert ids(drawn) != ids(draw(LABELLED, TrainSettings(per_label=4), 2))
    assert drawn == draw(list(LABELLED), TrainSettings(per_label=4), 1)
    # A label with fewer gives what it has.
    counts = Counter(example.answers[0] for example in draw(LABELLED, TrainSettings(per_label=40), 1))
    assert counts == {"a": 15, "b": 15, "c": 40}
    # The labels do not come one after the other.
    assert len({example.answers[0] for example in drawn[:4]}) > 1


@pytest.mark.parametrize("examples", [OWN_CHOICES, FREE], ids=["own choices", "free answers"])
def test_without_labels_k_in_all(examples: list[Example]) -> None:
    drawn = draw(examples, TrainSettings(per_label=9), 0)
    assert len(set(ids(drawn))) == len(drawn) == 9


@pytest.mark.parametrize("limit", [0, -1, 1.5, "many", True])
def test_limits_that_are_none(limit: object) -> None:
    with pytest.raises(ValidationError, match="a whole number from 1 up, or a share between 0 and 1"):
        TrainSettings(limit=limit)
    with pytest.raises(ValidationError, match="limit or per_label, not both"):
        TrainSettings(limit=3, per_label=3)


PASSAGES = [Example(f"{i}", "en", f"{i}?", ("x",), cluster=name) for i, name in enumerate("aaaabbcaab")]


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, "0123456789"),
        ({"limit": 3}, "012"),
        ({"per_cluster": 1}, "046"),
        ({"per_cluster": 2}, "01456"),
        ({"per_cluster": 2, "limit": 3}, "014"),
        ({"per_cluster": 9, "limit": 50}, "0123456789"),
    ],
)
def test_tests_take_so_many_of_each_passage(settings: dict[str, int], chosen: str) -> None:
    assert ids(EvaluateSettings(**settings).chosen(PASSAGES)) == list(chosen)


def test_tests_without_passages_have_none_to_choose_of() -> None:
    with pytest.raises(UserError, match=r"per_cluster .* test example 0 names no passage; leave it out"):
        EvaluateSettings(per_cluster=1).chosen(FREE)
