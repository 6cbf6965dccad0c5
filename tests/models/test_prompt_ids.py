"""Prompts are tokenised once, whatever asks for them."""

import copy
from dataclasses import replace

import pytest
from tokenizers import Regex, normalizers, processors

from crosstune.models import tokens
from crosstune.models.tokens import Tokens, drops_line_breaks


def test_prompts_are_tokenised_once(tiny_lm, monkeypatch: pytest.MonkeyPatch):
    lm = tiny_lm("llama")
    texts = ["the tin", "yes", "the tin", ""]
    wanted = lm.tokenizer(texts)["input_ids"]
    requested: list[str] = []
    real = lm.tokenizer

    class Counting:
        def __call__(self, some):
            requested.extend(some)
            return real(some)

    lm.tokens = Tokens(Counting(), lm.geometry.vocabulary, None)
    first = lm.tokens.prompts(texts)
    assert first == wanted
    first[0].append(9)  # the caller's own
    assert lm.tokens.prompts([*texts, "in"]) == [*wanted, *real(["in"])["input_ids"]]
    assert requested == ["the tin", "yes", "", "in"]
    assert lm.tokens.prompts([]) == []
    # No more than so many are kept.
    monkeypatch.setattr(tokens, "TOKENS_KEPT", 1)
    assert lm.tokens.prompts(["he", "yes"]) == real(["he", "yes"])["input_ids"]
    lm.tokens.prompts(["he"])
    assert requested.count("he") == 2


def closed(tokenizer):
    """With end-of-text behind every text, as some models' templates have it."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def test_end_of_text_behind_a_prompt_is_left_out_and_said(tiny_lm):
    plain = tiny_lm("llama")
    lm = replace(plain, tokenizer=closed(copy.deepcopy(plain.tokenizer)), remarks=[])
    assert lm.tokenizer("the tin")["input_ids"][-1] == 2
    texts = ["the tin", "yes", ""]
    assert lm.tokens.prompts(texts) == plain.tokens.prompts(texts)
    assert lm.tokens.answer("yes") == plain.tokens.answer("yes")
    assert lm.remarks == ["its tokenizer closes texts with end-of-text; this is left out behind prompts"]
    assert plain.remarks == []


def test_a_tokenizer_that_drops_line_breaks_is_said(tiny_lm):
    plain = tiny_lm("llama")
    tokenizer = copy.deepcopy(plain.tokenizer)
    assert not drops_line_breaks(tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    (remark,) = replace(plain, tokenizer=tokenizer, remarks=[]).remarks
    assert "drops line breaks: no stop string with one can end an answer" in remark
