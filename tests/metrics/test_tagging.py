"""Chunks against seqeval 1.2.2's own (made with it, 60 sequences), and the corpus metrics made of them."""

import json
import math
from pathlib import Path

import pytest

from crosstune.metrics.corpus import CORPUS, corpus_statistic
from crosstune.metrics.tagging import begins_with_i, chunks, strict_chunks, tag_sums, unopened_names

SEQEVAL = json.loads((Path(__file__).parent / "seqeval_1_2_2.json").read_text())


@pytest.mark.parametrize("case", SEQEVAL, ids=range(len(SEQEVAL)))
def test_chunks_are_those_of_seqeval(case):
    tags = case["tags"].split(" ")
    assert sorted(map(list, chunks(tags))) == case["default"]
    if case["strict"] is not None:
        assert sorted(map(list, strict_chunks(tags))) == case["strict"]


@pytest.mark.parametrize(
    ("told", "gold", "accuracy", "xtreme"),
    [
        # As measured with XTREME's script: equal neighbours are one chunk, and two conjunctions one type.
        ("NOUN NOUN VERB", "NOUN ADJ VERB", 2 / 3, 0.4),
        ("CCONJ VERB", "SCONJ VERB", 1 / 2, 1.0),
    ],
)
def test_xtreme_f1_is_no_accuracy(told, gold, accuracy, xtreme):
    scores = {name: CORPUS[name].alone(told, (gold,), ()) for name in ("tag_accuracy", "xtreme_f1")}
    assert scores == pytest.approx({"tag_accuracy": accuracy, "xtreme_f1": xtreme})


@pytest.mark.parametrize(
    ("tags", "first"),
    [
        ("O I-PER I-PER O", "I-PER"),
        ("B-PER I-LOC", "I-LOC"),
        ("B-PER I-PER I-PER O B-LOC B-PER I-PER", ""),
        ("NOUN VERB", ""),
    ],
)
def test_names_that_the_strict_reading_leaves_out_are_told(tags, first):
    assert begins_with_i(tags.split()) == first
    if "NOUN" not in tags:
        assert bool(first) == (chunks(tags.split()) != strict_chunks(tags.split()))
    lines = unopened_names([tags, "B-PER O"])
    assert len(lines) == bool(first)
    assert not first or "as 1 test sentences have" in lines[0]


def test_a_corpus_is_scored_by_its_sums():
    """Micro F1 of two sentences is not the mean of theirs; the strict reading drops what no B opens."""
    pairs = [("B-PER I-PER O", "B-PER I-PER O"), ("I-LOC O B-ORG", "B-LOC O O")]
    sums = [tag_sums(told, (gold,), ()) for told, gold in pairs]
    total = [math.fsum(column) for column in zip(*sums, strict=True)]
    assert total == [4, 6, 2, 3, 2, 1, 2, 2]

    import numpy as np

    values = {
        name: float(corpus_statistic(name, 8).value(np.array(total), np.array(2.0)))
        for name in ("tag_accuracy", "xtreme_f1", "strict_f1")
    }
    assert values == pytest.approx({"tag_accuracy": 4 / 6, "xtreme_f1": 4 / 5, "strict_f1": 2 / 4})
