"""The check of scoring rows: a near tie passes, a wrong answer does not."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import near_ties
from crosstune.evaluation.choices import ChoiceItem, score_choices
from crosstune.evaluation.settings import EvaluateSettings
from crosstune.models.load import load
from near_ties import Truth
from saved_model import save_model
from tiny_models import random_ids

ITEMS = [
    ChoiceItem(random_ids(5 + n, seed=n), tuple(tuple(random_ids(m, seed=10 * n + m)) for m in (1, 3, 2)))
    for n in range(20)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def scores(folder):
    """What crosstune says in fp32, and what a plain forward in bf16 says, a choice at a time."""
    lm = load(str(folder), device="cpu", dtype="float32")
    low = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    def plain(prompt, label):
        with torch.no_grad():
            logits = low(input_ids=torch.tensor([[*prompt, *label]])).logits[0]
        logp = torch.log_softmax(logits.double(), -1)[len(prompt) - 1 : -1]
        return float(logp[range(len(label)), list(label)].sum())

    return score_choices(lm, ITEMS, EvaluateSettings()), [
        [plain(item.prompt, label) for label in item.labels] for item in ITEMS
    ]


def test_a_wrong_answer_fails(folder, scores):
    mine, other = scores
    right = near_ties.compare(folder, ITEMS, mine, other)
    assert right.same, right.text
    # The choice that is clearly the worst of a question, said to be the best by one side.
    i = max(range(len(mine)), key=lambda i: max(mine[i]) - min(mine[i]))
    wrong = [list(each) for each in mine]
    wrong[i][wrong[i].index(min(wrong[i]))] = 1.0
    found = near_ties.compare(folder, ITEMS, wrong, other)
    assert not found.same
    assert [each["question"] for each in found.figures["unproven"]] == [i]
    assert found.figures["same"] + len(found.figures["near_ties"]) == len(ITEMS) - 1
    assert found.figures["unproven"][0]["fp32_difference"] < near_ties.EXACT


SURE = Truth([-1.0, -5.0], [-1.0, -5.0])
LEVEL = Truth([-1.0, -1.01], [-1.0, -1.01])


def judged(**more):
    asked = {
        "picks": [(0, 0), (1, 0)],
        "other": {0: [-1.03, -5.0], 1: [-1.0, -1.02]},
        "truth": {0: SURE, 1: LEVEL},
        "sample": [0],
    }
    return near_ties.judge(**asked | more)


def test_a_near_tie_is_within_the_peers_own_rounding():
    found = judged()
    assert found.same
    assert found.figures["noise_of_peer"] == pytest.approx(0.03)
    assert found.figures["near_ties"][0]["margin"] == pytest.approx(0.01)
    assert "1 of 2 choices the same, 1 near ties, 0 UNPROVEN; fp32 margins 0.010 nats" in found.text


def test_what_the_peer_does_not_round_away_is_no_tie():
    assert not judged(other={0: [-1.005, -5.0], 1: [-1.0, -1.02]}).same
    assert not judged(truth={0: SURE, 1: SURE}).same


def test_a_side_that_is_wrong_in_fp32_too_is_no_tie():
    assert not judged(truth={0: SURE, 1: replace(LEVEL, ours=[-1.2, -1.0])}).same
