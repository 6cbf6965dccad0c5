"""Sizes of studies that tell a difference, held against the simulation in docs/statistics.md."""

import pytest

from crosstune.planning.power import Design, designs, fewest_languages, lines


@pytest.mark.parametrize(
    ("languages", "examples", "seeds", "points"), [(20, 200, 3, 9.0), (20, 200, 5, 6.8), (20, 30, 3, 11.2)]
)
def test_two_methods_are_told_apart_as_simulated(
    languages: int, examples: int, seeds: int, points: float
) -> None:
    tells = Design(2, languages, examples, seeds).tells
    assert tells is not None
    assert 100 * tells == pytest.approx(points, rel=0.2)


def test_more_of_anything_tells_more_and_more_methods_less() -> None:
    base = Design(3, 10, 100, 3).tells
    assert base is not None
    for better in (Design(3, 40, 100, 3), Design(3, 10, 1000, 3), Design(3, 10, 100, 8)):
        assert better.tells is not None
        assert better.tells < base
    assert (Design(10, 10, 100, 8).tells or 1) > (Design(2, 10, 100, 8).tells or 1)


def test_a_plan_names_sizes_that_are_enough_and_no_larger() -> None:
    for design in designs(3, 20, 0.06):
        assert design.tells is not None
        assert design.tells <= 0.06
        fewer = Design(3, 20, design.examples // 4, design.seeds).tells
        assert fewer is None or fewer > 0.06 or design.examples == 30
    assert designs(3, 20, 0.001) == []
    assert fewest_languages(2, 500, 8, 0.06) is not None
    text = lines(3, 20, 100, 3, 0.06, 7200.0)
    assert text[0].startswith("as it stands (3 methods, 20 target languages, 100 examples each, 3 seeds): ")
    assert "answers in all, about " in text[1]
    assert "no difference between methods" in lines(3, 20, 100, 1, 0.06, None)[0]
    assert "not with 20 languages" in lines(3, 20, 100, 3, 0.001, None)[1]
