"""Prompts in a chat template: what is read is what transformers makes of it; answers start where it ends."""

from typing import ClassVar

import pytest
import torch

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.few_shot import FewShot, FewShotConfig
from crosstune.models.loading.load import load
from crosstune.outputs.decoding.ends import stopped, texts, unanswered
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.fits import check_fits
from crosstune.outputs.registry import output_of
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.prepared import shown_first
from crosstune.tasks.base import Task
from crosstune.tasks.exemplars import with_exemplars
from saved_model import save_model

TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}model: {% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + TEMPLATE
)
QUESTIONS = ["is the tin red ?", "is it a tin ?", "red"]


class Asked(Task):
    name = "asked"
    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    summary = ""
    split_names: ClassVar = {"test": "test"}

    def languages(self):
        return ["en"]

    def examples(self, split, language):
        return [
            Example(str(i), language, text, ("no",), ("no", "it is", "the tin"))
            for i, text in enumerate(QUESTIONS)
        ]


@pytest.fixture
def lm(tiny_lm):
    lm = tiny_lm("llama")
    lm.tokenizer.chat_template = TEMPLATE
    yield lm
    lm.tokenizer.chat_template = None
    lm.tokens.as_chat(False)


def turns(text, system):
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]


SOLVED = [("is it ?", "no"), ("the tin is red ?", "it is")]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("system", [None, "be short ."])
def test_exemplars_are_turns_or_stand_in_the_question_s(lm, system, turned):
    settings = EvaluateSettings(chat_template=True, system_prompt=system, prompts="whole")
    solved = [Example(question, "en", question, (answer,)) for question, answer in SOLVED]
    method = FewShot(FewShotConfig(k=2, turns=turned))
    with shown_first(method, lm, settings, solved) as in_prompt:
        asked = with_exemplars(Asked().examples("test", "en"), in_prompt)
        table = evaluate(lm, Asked(), {"en": asked}, settings)
    earlier = turns("", system)[:-1]
    for question, answer in SOLVED if turned else ():
        earlier += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    shots = "" if turned else "".join(f"{question} {answer}\n\n" for question, answer in SOLVED)
    for text, prompt, scores in zip(QUESTIONS, table["prompt"], table["choice_logprobs"], strict=True):
        conversation = [*earlier, {"role": "user", "content": shots + text}]
        template = lm.tokenizer.apply_chat_template
        assert prompt == template(conversation, tokenize=False, add_generation_prompt=True)
        ids = template(conversation, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert torch.allclose(torch.tensor(scores, dtype=torch.float64), expected(lm, ids), atol=1e-5)
    assert lm.tokens.as_read("red") == template(
        turns("red", system), tokenize=False, add_generation_prompt=True
    )


def test_turns_want_a_chat(lm):
    method = FewShot(FewShotConfig(turns=True))
    with pytest.raises(UserError, match="turns are those of a chat"):
        check_fits("asked", "choice", method, lm.geometry, EvaluateSettings())
    assert "turns" not in FewShotConfig().model_dump()
    lm.tokenizer.chat_template = None
    with shown_first(method, lm, EvaluateSettings(chat_template="auto"), [1, 2]) as in_prompt:
        assert in_prompt == [1, 2]


def expected(lm, ids):
    """Log-probabilities of the three choices behind a prompt, over the three."""
    sums = []
    for choice in ("no", "it is", "the tin"):
        label = lm.tokenizer.encode(choice, add_special_tokens=False)
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids + label])).logits[0, len(ids) - 1 : -1]
        sums.append(torch.log_softmax(logits.double(), -1)[range(len(label)), label].sum())
    return torch.log_softmax(torch.stack(sums), 0)


@pytest.mark.parametrize("system", [None, "be short ."])
def test_scores_are_those_of_transformers_template(lm, system):
    settings = EvaluateSettings(chat_template=True, system_prompt=system, prompts="whole")
    table = evaluate(lm, Asked(), {"en": Asked().examples("test", "en")}, settings)
    shown = [
        lm.tokenizer.apply_chat_template(turns(text, system), tokenize=False, add_generation_prompt=True)
        for text in QUESTIONS
    ]
    assert table["prompt"].to_list() == shown
    for text, scores in zip(QUESTIONS, table["choice_logprobs"], strict=True):
        ids = lm.tokenizer.apply_chat_template(
            turns(text, system), add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert lm.tokens.prompts([text]) == [ids]
        assert torch.allclose(torch.tensor(scores, dtype=torch.float64), expected(lm, ids), atol=1e-5)


def test_training_rows_answer_in_the_models_turn(lm):
    examples = Asked().examples("train", "en")
    row = output_of("choice", lm, EvaluateSettings(chat_template=True)).rows(examples)[0]
    shown = lm.tokenizer.apply_chat_template(
        turns(QUESTIONS[0], None), tokenize=False, add_generation_prompt=True
    )
    assert lm.tokenizer.decode(row.ids).replace(" ", "") == f"{shown}no".replace(" ", "")
    plain = output_of("choice", lm, EvaluateSettings()).rows(examples)[0]
    assert list(plain.ids) == lm.tokenizer(QUESTIONS[0])["input_ids"] + lm.tokens.answer("no")


def test_auto_follows_the_tokenizer_and_true_wants_a_template(lm):
    lm.tokens.as_chat("auto")
    assert lm.tokens.as_read("red") != "red"
    lm.tokenizer.chat_template = None
    lm.tokens.as_chat("auto")
    assert lm.tokens.as_read("red") == "red"
    with pytest.raises(UserError, match="no chat template; set chat_template: auto or false"):
        lm.tokens.as_chat(True)
    lm.tokenizer.chat_template = NO_SYSTEM
    with pytest.raises(UserError, match="cannot be used: no system turns"):
        lm.tokens.as_chat(True, "be short .")
    with pytest.raises(UserError, match="system_prompt is a turn of a chat"):
        check_fits("own", "choice", METHODS["lora"](), lm.geometry, EvaluateSettings(system_prompt="x"))


def test_a_template_that_writes_the_date_reads_the_same_every_day(lm):
    lm.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE
    lm.tokens.as_chat(True)
    assert lm.tokens.as_read("red").startswith("26 Jul 2024 ")


def test_no_run_id_changes_without_it():
    assert {"chat_template", "system_prompt"}.isdisjoint(EvaluateSettings().model_dump())
    assert EvaluateSettings(chat_template="auto").model_dump()["chat_template"] == "auto"


@pytest.mark.parametrize(
    ("template", "written", "answer", "over"),
    [
        ("{{ messages[0]['content'] }}", "<think>\nIs it?\nYes.\n</think>\n\nBern\nSo", "Bern", True),
        ("{{ messages[0]['content'] }}<think>\n", "<think>Is it?\nYes.</think>\nBern\nSo", "Bern", True),
        ("{{ messages[0]['content'] }}<think>\n", "Be", "Be", False),
        ("{{ messages[0]['content'] }}", "<think>\nIs it?\n", "<think>", False),
        ("{{ messages[0]['content'] }}", "Bern\n</think>", "Bern", True),
    ],
)
def test_a_thought_is_no_part_of_an_answer(tmp_path, template, written, answer, over):
    lm = load(str(save_model(tmp_path)), device="cpu")
    lm.tokenizer.chat_template = template
    lm.tokens.as_chat(True)
    assert lm.tokens.as_read("Why?") == "Why?" + "<think>\n\n</think>\n\n" * ("<think>" in template)
    ids = lm.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert texts(lm, [ids], ("\n",)) == [answer]
    assert any(stopped(lm, ids[:end], ("\n",)) for end in range(1, len(ids) + 1)) == over
    told = unanswered(texts(lm, [ids, ids], ("\n",)))
    assert told == (
        "2 of 2 answers end within <think>: raise evaluate.max_answer_tokens" if answer == "<think>" else ""
    )
