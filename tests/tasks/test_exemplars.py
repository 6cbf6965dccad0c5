from collections import Counter

import pytest

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.tasks import make_task
from crosstune.tasks.exemplars import pick_exemplars, with_exemplars

TRAIN = make_task("cldr-names").examples("train", "en")


def test_exemplars_stand_in_front_and_change_nothing_else():
    question = Example("1", "de", "Frage {x}\nA:", ("ja",), ("ja", "nein"))
    shots = [Example("2", "en", "Q\nA:", ("yes", "yeah")), Example("3", "en", "R\nA:", ("no",))]
    (shown,) = with_exemplars([question], shots)
    assert shown.prompt == "Q\nA: yes\n\nR\nA: no\n\nFrage {x}\nA:"
    assert (shown.id, shown.language, shown.answers, shown.choices) == ("1", "de", ("ja",), ("ja", "nein"))
    assert with_exemplars([question], []) == [question]


@pytest.mark.parametrize("k", [0, 1, 3, 4, 8, 10])
def test_choices_are_shown_evenly(k):
    picked = pick_exemplars(TRAIN, k, seed=3)
    counts = Counter(e.answers[0] for e in picked)
    assert len({e.id for e in picked}) == k
    assert max(counts.values(), default=0) - min((counts[c] for c in TRAIN[0].choices), default=0) <= 1


def test_the_seed_decides():
    assert pick_exemplars(TRAIN, 4, seed=1) == pick_exemplars(TRAIN, 4, seed=1)
    assert pick_exemplars(TRAIN, 4, seed=1) != pick_exemplars(TRAIN, 4, seed=2)


def test_free_answers_are_drawn_without_groups():
    train = make_task("number-words").examples("train", "en")
    assert len({e.id for e in pick_exemplars(train, 5, seed=0)}) == 5


def test_all_can_be_shown_even_where_labels_are_uneven():
    train = [Example(str(i), "en", "q", ("a" if i else "b",), ("a", "b")) for i in range(5)]
    assert {e.id for e in pick_exemplars(train, 5, seed=0)} == set("01234")


@pytest.mark.parametrize("k", [-1, 6])
def test_more_than_there_are_is_an_error(k):
    with pytest.raises(UserError, match=f"asks for {k} exemplars; the training split has 5"):
        pick_exemplars(TRAIN[:5], k, seed=0)
