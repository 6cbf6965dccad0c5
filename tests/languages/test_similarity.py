"""How alike languages are: against the definition, with the distance on the globe computed another way."""

import math

import pytest

from crosstune.languages.similarity import most_similar, similarity
from crosstune.languages.table import LANGUAGES, find


def globe(one: str, other: str) -> float:
    """The share of half the way around that two places are apart, by the angle between their vectors."""

    def vector(code: str) -> tuple[float, float, float]:
        place = find(code).place
        assert place is not None
        north, east = map(math.radians, place)
        return math.cos(north) * math.cos(east), math.cos(north) * math.sin(east), math.sin(north)

    dot = sum(a * b for a, b in zip(vector(one), vector(other), strict=True))
    return math.acos(max(-1.0, min(1.0, dot))) / math.pi


@pytest.mark.parametrize(
    ("one", "other", "relation", "script"),
    [
        ("sw", "zu", 2 / 3, 1),  # both Bantu
        ("sw", "yo", 1 / 3, 1),  # of one family
        ("ru", "cs", 2 / 3, 0),
        ("zh", "zh-Hant", 1, 0),
        ("eu", "de", 0, 1),  # an isolate
        ("mi", "es", 0, 1),  # the other side of the world
    ],
)
def test_the_mean_of_three(one: str, other: str, relation: float, script: int) -> None:
    wanted = (relation + script + 1 - globe(one, other)) / 3
    assert float(similarity(one, other)) == pytest.approx(wanted, abs=0.0051)
    assert similarity(one, other) == similarity(other, one)


def test_a_language_without_a_place_is_far() -> None:
    assert float(similarity("eo", "ie")) == pytest.approx(1 / 3, abs=0.0051)  # the script alone


def test_shares() -> None:
    shares = most_similar("xh", ["en", "zu", "sw", "xh", "ja"], 2)
    assert list(shares) == ["zu", "sw"]
    assert sum(shares.values()) == 1
    assert shares["zu"] / shares["sw"] == similarity("xh", "zu") / similarity("xh", "sw")
    assert sum(row.place is not None for row in LANGUAGES.values()) > 390
