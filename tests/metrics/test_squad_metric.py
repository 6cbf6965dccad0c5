import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_pairs import WORDS, pairs, published_f1, published_squad
from crosstune.metrics.squad import exact_match, f1, normalise


def test_equals_the_published_definition_on_10000_pairs_in_12_scripts():
    scores = []
    for script, answer, golds in pairs(10_000):
        published, accepted = published_squad(answer), [published_squad(gold) for gold in golds]
        assert normalise(answer) == " ".join(published), (script, answer)
        assert exact_match(answer, golds) == float(published in accepted), (script, answer, golds)
        score = f1(answer, golds)
        assert score == pytest.approx(
            float(max(published_f1(published, gold) for gold in accepted)), abs=1e-12
        )
        scores.append((script, score))
    assert {script for script, _ in scores} == set(WORDS)
    for script in WORDS:
        between = [0 < score < 1 for name, score in scores if name == script]
        assert sum(between) > 0.25 * len(between), script


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("U.S.", "us"),
        ("A.", ""),
        ("$5 + 3", "5 3"),
        ("l’eau", "l’eau"),  # Unicode punctuation stays
        ("北京。", "北京。"),
        ("the_end", "theend"),
        ("a\u0301", "\u0301"),  # a mark ends a word, as in the published expression
    ],
)
def test_normal_form(text, normal):
    assert normalise(text) == normal


def test_f1_counts_repeated_tokens_and_takes_the_best_gold():
    assert f1("cat cat dog", ["cat dog dog"]) == pytest.approx(2 / 3)
    assert f1("cat", ["dog", "the black cat"]) == pytest.approx(2 / 3)
    assert exact_match("Cat!", ["dog", "a cat"]) == 1.0


def test_nothing_left_on_both_sides_matches_exactly_but_shares_no_token():
    assert (exact_match("the", ["a"]), f1("the", ["a"])) == (1.0, 0.0)


def test_no_golds_is_an_error():
    with pytest.raises(ValueError, match="no gold answer"):
        f1("x", [])
    with pytest.raises(ValueError, match="no gold answer"):
        exact_match("x", [])


@given(st.text(), st.text())
def test_scores_are_fair(one, other):
    assert f1(one, [other]) == pytest.approx(f1(other, [one]))
    assert 0 <= f1(one, [other]) <= 1
    assert exact_match(one, [one]) == 1
    if published_squad(one):
        assert f1(one, [one]) == 1
