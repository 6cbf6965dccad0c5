"""The forms of answers, and scores that are functions of sums over examples."""

import random
from statistics import fmean

import numpy as np
import polars as pl
import pytest

from crosstune.data.forms import COLUMNS, FORMS, AnswerForm, form_of
from crosstune.errors import UserError
from crosstune.metrics.statistic import MEAN, Statistic
from paired_scores import resampled

# Token tags: what a form whose score is no mean over examples would say of itself.
COUNTS = ("correct_spans", "predicted_spans", "gold_spans")
MICRO_F1 = Statistic(COUNTS, lambda sums, _: 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2]))
TAGS = AnswerForm("tags", dict.fromkeys(COUNTS, pl.Int64), statistic=MICRO_F1)


def tagged(sentences: int) -> list[tuple[set[int], set[int]]]:
    """Predicted and gold spans of sentences of very different lengths."""
    draw = random.Random(3)
    outputs = []
    for _ in range(sentences):
        length = draw.choice((2, 3, 40))
        gold = set(draw.sample(range(100), draw.randint(1, length)))
        kept = {span for span in gold if draw.random() < 30 / (30 + length)}
        outputs.append((kept | set(draw.sample(range(100, 200), draw.randint(0, 2))), gold))
    return outputs


def table_of(sentences: list[tuple[set[int], set[int]]]) -> pl.DataFrame:
    counts = [(len(predicted & gold), len(predicted), len(gold)) for predicted, gold in sentences]
    return pl.DataFrame(counts, schema=list(COUNTS), orient="row")


def micro_f1(sentences: list[tuple[set[int], set[int]]]) -> float:
    """The plain way: all spans of all sentences in two sets, sentences told apart by their number."""
    predicted = {(i, span) for i, (spans, _) in enumerate(sentences) for span in spans}
    gold = {(i, span) for i, (_, spans) in enumerate(sentences) for span in spans}
    precision, recall = len(predicted & gold) / len(predicted), len(predicted & gold) / len(gold)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_says_what_it_is(name: str) -> None:
    form = form_of(name)
    assert form.name == name
    assert "answer" in form.losses
    schema = form.schema(("accuracy",))
    assert list(schema) == [*COLUMNS, *form.columns, "metric.accuracy"]
    assert set(form.statistic.columns) <= set(schema)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(UserError, match=r'^unknown form of answer "choise"; did you mean "choice"\?$'):
        form_of("choise")


def test_a_mean_is_the_mean() -> None:
    scores = [0.1, 0.7, 1.0, 0.0, 1 / 3]
    table = pl.DataFrame({"score": scores})
    assert MEAN.of(table) == table["score"].mean()
    times = np.array([[1, 1, 1, 1, 1], [0, 5, 0, 0, 0], [2, 0, 0, 1, 2]])
    drawn = [scores, [0.7] * 5, [0.1, 0.1, 0.0, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(resampled(MEAN, table, times), [fmean(some) for some in drawn], rtol=1e-15)
    assert np.isnan(MEAN.of(table.clear()))


def test_a_corpus_score_is_no_mean_of_sentences() -> None:
    sentences = tagged(60)
    assert TAGS.statistic.of(table_of(sentences)) == pytest.approx(micro_f1(sentences), rel=1e-14)
    alone = [micro_f1([claim]) for claim in sentences if claim[0] & claim[1]]
    assert abs(TAGS.statistic.of(table_of(sentences)) - sum(alone) / len(sentences)) > 0.02


def test_a_corpus_score_is_resampled_by_its_sums() -> None:
    """Against sentences drawn one by one, copies counted as sentences of their own."""
    sentences = tagged(40)
    draws = np.random.default_rng(0).integers(0, 40, (200, 40))
    times = np.stack([np.bincount(draw, minlength=40) for draw in draws])
    slow = [micro_f1([sentences[i] for i in draw]) for draw in draws]
    np.testing.assert_allclose(resampled(TAGS.statistic, table_of(sentences), times), slow, rtol=1e-13)
    assert np.std(slow) > 0.01
