"""The check of written answers: what is proven, and what fails."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import near_ties
import writing
from crosstune.data.example import Example
from harness import Setting
from tiny_models import all_logits, random_ids

SETTING = Setting(device="cpu", dtype="bfloat16")
CASE = writing.Case("mgsm", longest=5, stop=())
PROMPTS = [random_ids(n, seed=n) for n in (4, 7, 9)]


@pytest.fixture
def written(tiny_lm, tmp_path):
    """Greedy answers of a tiny model in fp32, one text at a time, and where the model lies."""
    lm = tiny_lm("llama")
    answers = []
    for prompt in PROMPTS:
        ids: list[int] = []
        while len(ids) < CASE.longest:
            ids.append(int(all_logits(lm, [*prompt, *ids])[-1].argmax()))
        answers.append(ids)
    lm.model.generation_config.eos_token_id = lm.tokenizer.eos_token_id
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    examples = [asdict(Example(str(i), "en", "?", ("1",))) for i in range(len(PROMPTS))]
    (tmp_path / "examples.json").write_text(json.dumps(examples))
    return lm, tmp_path, answers


def compare(folder, mine, other):
    sides = {"prompts": PROMPTS, "answers": mine, "folder": str(folder), "longest": CASE.longest}
    return writing.same(CASE, SETTING, sides, {"answers": other, "batch": 2, "most": 3})


def ranked(lm, prompt, common, rank):
    return int(all_logits(lm, [*prompt, *common])[-1].argsort(descending=True)[rank])


def test_the_same_answers(written):
    _, folder, answers = written
    comparison = compare(folder, answers, answers)
    assert comparison.same
    assert comparison.text.startswith("3 of 3 answers the same;")


def test_a_wrong_answer_fails(written):
    lm, folder, answers = written
    wrong = [*answers[1][:2], ranked(lm, PROMPTS[1], answers[1][:2], -1), *answers[1][3:]]
    for ours, other in ((wrong, answers[1]), (answers[1], wrong)):
        comparison = compare(folder, [answers[0], ours, answers[2]], [answers[0], other, answers[2]])
        assert not comparison.same
        assert "0 of 1 differences are near ties" in comparison.text
        assert comparison.figures["apart"][0]["at"] == 2


def test_the_second_likeliest_passes_within_the_error_alone(written):
    lm, folder, answers = written
    second = [ranked(lm, PROMPTS[0], [], 1), *answers[0][1:]]
    judge = near_ties.judge_for(folder / "model", torch.bfloat16)
    exact = all_logits(lm, PROMPTS[0])[-1]
    margin = float(exact[answers[0][0]] - exact[second[0]])
    for noise, passes in ((1.1 * margin, True), (0.9 * margin, False)):
        judge.noise = noise
        assert compare(folder, [second, *answers[1:]], answers).same is passes


def test_an_answer_cut_short_fails(written):
    _, folder, answers = written
    other = [answers[0][:3], *answers[1:]]
    assert not compare(folder, answers, other).same
