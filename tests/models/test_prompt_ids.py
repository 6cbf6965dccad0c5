"""Prompts are tokenised once, whatever asks for them."""

import pytest

from crosstune.models import language_model


def test_prompts_are_tokenised_once(tiny_lm, monkeypatch: pytest.MonkeyPatch):
    lm = tiny_lm("llama")
    texts = ["the tin", "yes", "the tin", ""]
    wanted = lm.tokenizer(texts)["input_ids"]
    asked: list[str] = []
    real = lm.tokenizer

    class Counting:
        def __call__(self, some):
            asked.extend(some)
            return real(some)

    lm.tokenizer = Counting()
    first = lm.encode_prompts(texts)
    assert first == wanted
    first[0].append(9)  # the caller's own
    assert lm.encode_prompts([*texts, "in"]) == [*wanted, *real(["in"])["input_ids"]]
    assert asked == ["the tin", "yes", "", "in"]
    assert lm.encode_prompts([]) == []
    # No more than so many are kept.
    monkeypatch.setattr(language_model, "TOKENS_KEPT", 1)
    assert lm.encode_prompts(["he", "yes"]) == real(["he", "yes"])["input_ids"]
    lm.encode_prompts(["he"])
    assert asked.count("he") == 2
