"""Metrics of a whole test set, against plain loops over the answers and against sacrebleu's numbers."""

import random
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from crosstune.metrics.corpus import CORPUS, SUM, corpus_statistic, entities
from paired_scores import resampled

CLASSES = ("joy", "anger", "fear", "none")


def answers(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Picked and right classes, unevenly spread, right in about half."""
    draw = random.Random(seed)
    golds = draw.choices(CLASSES, (8, 4, 2, 1), k=n)
    return [(gold if draw.random() < 0.5 else draw.choice(CLASSES[:3]), gold) for gold in golds]


def table(name: str, pairs: Sequence[tuple[str, str]], choices: Sequence[str] = CLASSES) -> pl.DataFrame:
    rows = [CORPUS[name].sums(answer, (gold,), choices) for answer, gold in pairs]
    return pl.DataFrame(rows, schema=[f"{SUM}{i}" for i in range(len(rows[0]))], orient="row")


def scored(name: str, pairs: Sequence[tuple[str, str]], choices: Sequence[str] = CLASSES) -> float:
    sums = table(name, pairs, choices)
    return corpus_statistic(name, sums.width).of(sums)


def plain_macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    scores = []
    for name in {gold for _, gold in pairs} | {picked for picked, _ in pairs}:
        both = sum(picked == gold == name for picked, gold in pairs)
        wrong = sum((picked == name) != (gold == name) for picked, gold in pairs)
        scores.append(2 * both / (2 * both + wrong))
    return sum(scores) / len(scores)


def plain_mcc(pairs: Sequence[tuple[str, str]]) -> float:
    """The covariance of the two indicator matrices over the roots of their variances."""
    x, y = (np.array([[pair[side] == name for name in CLASSES] for pair in pairs], float) for side in (0, 1))

    def covariance(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a - a.mean(0)) * (b - b.mean(0))).sum())

    return covariance(x, y) / np.sqrt(covariance(x, x) * covariance(y, y))


PLAIN = {"macro_f1": plain_macro_f1, "mcc": plain_mcc}


@pytest.mark.parametrize("name", PLAIN)
def test_classes_against_plain_loops(name: str) -> None:
    for seed, n in enumerate((400, 40, 7)):
        pairs = answers(n, seed)
        assert scored(name, pairs) == pytest.approx(PLAIN[name](pairs), rel=1e-12)
    right = sum(picked == gold for picked, gold in answers(400)) / 400
    assert abs(scored(name, answers(400)) - right) > 0.02, "not the share of right answers"


@pytest.mark.parametrize("name", PLAIN)
def test_classes_resampled_are_classes_of_what_was_drawn(name: str) -> None:
    pairs = answers(60, 3)
    sums = table(name, pairs)
    draws = np.random.default_rng(0).integers(0, 60, (50, 60))
    times = np.stack([np.bincount(draw, minlength=60) for draw in draws])
    slow = [PLAIN[name]([pairs[i] for i in draw]) for draw in draws]
    np.testing.assert_allclose(resampled(corpus_statistic(name, sums.width), sums, times), slow, rtol=1e-10)


def test_two_classes_have_the_usual_correlation() -> None:
    """MCC of two classes by its textbook form; 0 for a constant answer, as -1 can be had."""
    yes, no = "yes", "no"
    pairs = [(yes, yes)] * 6 + [(yes, no)] * 2 + [(no, no)] * 3 + [(no, yes)] * 1
    tp, fp, tn, fn = 6, 2, 3, 1
    wanted = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert scored("mcc", pairs, (yes, no)) == pytest.approx(wanted, rel=1e-12)
    assert scored("mcc", [(yes, yes), (yes, no)], (yes, no)) == 0
    assert scored("mcc", [(yes, no), (no, yes)], (yes, no)) == -1
    assert scored("macro_f1", [(yes, yes)] * 3, (yes, no)) == 1, "a class that nothing has is not counted"


def test_entities() -> None:
    assert entities("PER: Angela  Merkel; LOC: Berlin\nLOC:  Berlin ; none; : x; ORG:") == {
        ("PER", "Angela Merkel"): 1, ("LOC", "Berlin"): 2,
    }  # fmt: skip
    pairs = [
        ("PER: Angela Merkel; LOC: Berlin", "PER: Angela Merkel; LOC: Bonn; LOC: Berlin"),
        ("ORG: UN; ORG: UN", "ORG: UN"),
        ("none", "none"),
        ("LOC: Rome", "none"),
    ]
    # 3 right of 5 written and 4 to be found.
    assert scored("entity_f1", pairs) == pytest.approx(2 * 3 / (5 + 4), rel=1e-12)
    alone = [CORPUS["entity_f1"].alone(answer, (gold,), ()) for answer, gold in pairs]
    assert alone == pytest.approx([4 / 5, 2 / 3, 1, 0])
    best = CORPUS["entity_f1"].sums("LOC: Rom", ("LOC: Rome", "LOC: Rom"), ())
    assert best == [1, 1, 1]


HYPOTHESES = ("Der Zug fährt um acht.", "वह घर गया", "")
REFERENCES = (
    ("Der Zug fährt erst um acht.", "वह घर चला गया", "nichts"),
    ("Um acht fährt der Zug", "वो घर गया", "gar nichts"),
)


def test_chrf_is_sacrebleus() -> None:
    """Numbers of sacrebleu 2.6.0, CHRF() with its defaults."""
    alone = [
        100 * CORPUS["chrf"].alone(*pair, ()) for pair in zip(HYPOTHESES, zip(REFERENCES[0]), strict=True)
    ]
    assert alone == pytest.approx([73.02615392706518, 31.707270855587634, 0], rel=1e-12)
    sums = [
        CORPUS["chrf"].sums(text, golds, ()) for text, *golds in zip(HYPOTHESES, *REFERENCES, strict=True)
    ]
    corpus = corpus_statistic("chrf", 18).value(np.sum(sums, axis=0), np.array(3.0))
    assert 100 * float(corpus) == pytest.approx(61.89323398928065, rel=1e-12)


def test_chrf_of_random_strings_is_sacrebleus() -> None:
    metric = pytest.importorskip("sacrebleu.metrics").CHRF()
    draw = random.Random(1)

    def text() -> str:
        return "".join(draw.choices("abcde éßघभाषा漢字かابج", k=draw.randint(1, 25))).strip() or "a"

    for _ in range(50):
        golds = [[text() for _ in range(4)] for _ in range(draw.randint(1, 3))]
        written = [gold[: draw.randint(0, 12)] if draw.random() < 0.6 else text() for gold in golds[0]]
        sums = [CORPUS["chrf"].sums(a, g, ()) for a, *g in zip(written, *golds, strict=True)]
        actual = float(CORPUS["chrf"].value(np.sum(sums, axis=0)))
        assert 100 * actual == pytest.approx(metric.corpus_score(written, golds).score, rel=1e-9)
