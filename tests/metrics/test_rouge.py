"""ROUGE against the tokens of XL-Sum's published tokenizer, rouge-score on ASCII, and a plain computation."""

import json
import unicodedata
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from crosstune.metrics.rouge import NO_SPACES, rouge, tokens

EXPECTED = json.loads(Path(__file__).with_name("rouge.json").read_text(encoding="utf-8"))
UNSPACED = regex.compile("[" + "".join(rf"\p{{scx={name}}}" for name in NO_SPACES) + "]")


def test_tokens_are_those_of_the_published_tokenizer_in_20_scripts():
    letters = {letter for text, _ in EXPECTED["tokens"] for letter in text if letter.isalpha()}
    assert len({unicodedata.name(letter).split()[0] for letter in letters}) >= 20
    for text, published in EXPECTED["tokens"]:
        if UNSPACED.search(text):  # there each letter is a token, inside what the published one keeps whole
            assert tokens(text) == [letter for word in published for letter in tokens(word)], text
            assert "".join(tokens(text)) == "".join(published)
        else:
            assert tokens(text) == published, text


def test_letters_without_spaces_are_tokens_of_their_own():
    assert tokens("iPhone 15発売、3月7日。ภาษาไทย") == [
        *("iphone", "15", "発", "売", "3", "月", "7", "日"), *"ภาษาไทย",
    ]  # fmt: skip
    assert tokens("မြန်မာ") == ["မြ", "န်", "မာ"]  # marks stay with their letter


def test_scores_are_those_of_rouge_score_on_ascii():
    for answer, gold, expected in EXPECTED["scores"]:
        ours = rouge(answer, [gold])
        assert [ours["rouge_1"], ours["rouge_2"], ours["rouge_l"]] == pytest.approx(expected, abs=1e-9)


def _slow(answer, gold):
    """By the definitions: n-grams struck out one by one, every subsequence by a table."""
    scores = []
    for n in (1, 2):
        ours, left = ([words[i : i + n] for i in range(len(words) - n + 1)] for words in (answer, gold))
        total, shared = len(left), 0
        for gram in ours:
            if gram in left:
                left.remove(gram)
                shared += 1
        scores.append((shared, len(ours), total))
    table = [[0] * (len(gold) + 1) for _ in range(len(answer) + 1)]
    for i, a in enumerate(answer):
        for j, b in enumerate(gold):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    scores.append((table[-1][-1], len(answer), len(gold)))
    results = []
    for shared, ours, total in scores:
        p, r = (shared / ours if ours else 0), (shared / total if total else 0)
        results.append(2 * p * r / (p + r) if p + r else 0.0)
    return results


@given(st.lists(st.text("abअขか ", max_size=30), min_size=3, max_size=3))
def test_scores_are_those_of_a_plain_computation(texts):
    answer, *golds = texts
    ours = rouge(answer, golds)
    slow = [max(of) for of in zip(*(_slow(tokens(answer), tokens(gold)) for gold in golds), strict=True)]
    assert [ours["rouge_1"], ours["rouge_2"], ours["rouge_l"]] == pytest.approx(slow)
