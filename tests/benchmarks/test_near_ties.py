"""The check of scoring rows: a near tie passes, a wrong answer does not."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import near_ties
from crosstune.models.loading.load import load
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.settings import EvaluateSettings
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
    ours, other = scores
    right = near_ties.compare(folder, torch.bfloat16, ITEMS, ours, other)
    assert right.same, right.text
    # The choice that is clearly the worst of a question, said to be the best by one side.
    i = max(range(len(ours)), key=lambda i: max(ours[i]) - min(ours[i]))
    wrong = [list(entry) for entry in ours]
    wrong[i][wrong[i].index(min(wrong[i]))] = 1.0
    comparison = near_ties.compare(folder, torch.bfloat16, ITEMS, wrong, other)
    assert not comparison.same
    (unproven,) = [pair for pair in comparison.figures["apart"] if not pair["near_tie"]]
    assert unproven["question"] == i
    assert comparison.figures["same"] + len(comparison.figures["apart"]) == len(ITEMS)
    assert unproven["fp32_difference"] < near_ties.EXACT


def test_rounding_as_the_judge_measures_it(folder, scores):
    """The plain model in bf16 is what a plain forward says; in fp32 it is what crosstune says."""
    judge, (actual, other) = near_ties.judge_for(folder, torch.bfloat16), scores
    moved = []
    for item, ours, low in zip(ITEMS, actual, other, strict=True):
        exact, rounded = judge.scores(item)
        assert rounded == pytest.approx(low, abs=1e-2)
        gaps = [exact[0] - x for x in exact]
        assert gaps == pytest.approx([ours[0] - x for x in ours], abs=1e-4)
        moved += [abs(rounded[i] - rounded[j] - exact[i] + exact[j]) for i in range(3) for j in range(3)]
    judge.noise = 0.0
    judge.measure(ITEMS)
    assert judge.noise == pytest.approx(max(moved))


def test_rounding_of_a_written_answer_is_that_of_its_likeliest_tokens(folder):
    """Asked of all places at once, and as one question at each place."""
    judge, text = near_ties.judge_for(folder, torch.bfloat16), random_ids(12, seed=3)
    judge.noise = 0.0
    judge.measure_text(text[:8], text[8:])
    at_once, judge.noise = judge.noise, 0.0
    for n in range(8, 12):
        pair = judge.likeliest(text[:n])
        judge.measure([ChoiceItem(text[:n], tuple((token,) for token in pair))])
    assert judge.noise == pytest.approx(at_once, abs=2e-2)
    assert at_once > 0


SURE = Truth([-1.0, -5.0], [-1.0, -5.0])
LEVEL = Truth([-1.0, -1.01], [-1.0, -1.01])


def tie(truth=LEVEL, picks=(1, 0), noise=0.03):
    return near_ties.near_tie(picks, truth, noise)


def test_a_near_tie_is_within_what_rounding_moves():
    comparison = tie()
    assert comparison["near_tie"]
    assert comparison["below_the_best"] == [pytest.approx(0.01), 0]
    message, unproven = near_ties.proofs([comparison, tie(SURE)], 0.03)
    assert unproven == 1
    assert message.startswith(
        "1 of 2 differences are near ties, 1 UNPROVEN (in fp32 at most 0.010, 4.000 nats"
    )


def test_what_rounding_does_not_move_is_no_tie():
    assert not tie(noise=0.005)["near_tie"]
    assert not tie(SURE)["near_tie"]


def test_two_that_are_level_below_a_third_are_no_tie():
    level = [-5.0, -5.0, -1.0]
    assert not tie(Truth(level, level), (0, 1))["near_tie"]


def test_a_side_that_is_wrong_in_fp32_too_is_no_tie():
    assert not tie(replace(LEVEL, ours=[-1.2, -1.0]))["near_tie"]
