"""Tokens of languages in the classes of tokenizers that have them."""

from typing import Any

import pytest
from transformers import MBart50Tokenizer, MBartTokenizer, NllbTokenizer
from transformers.models.mbart.modeling_mbart import shift_tokens_right

from crosstune.errors import UserError
from crosstune.outputs.seq2seq.language_tokens import LanguageTokens
from crosstune.outputs.settings import EvaluateSettings
from tiny_encoder_decoders import make_seq2seq

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "a", "b"]


def nllb() -> Any:
    return NllbTokenizer(vocab={token: i for i, token in enumerate(SPECIAL)}, merges=[("▁", "a")])


def mbart() -> Any:
    return MBart50Tokenizer(vocab=[(token, -float(i)) for i, token in enumerate(SPECIAL)])


@pytest.mark.parametrize(
    ("tokenizer", "count", "wanted"),
    [
        (nllb, 202, {"en": "eng_Latn", "de": "deu_Latn", "sw": "swh_Latn", "zh": "zho_Hans"}),
        (mbart, 52, {"en": "en_XX", "de": "de_DE", "sw": "sw_KE", "zh": "zh_CN"}),
    ],
)
def test_sources_and_answers_have_the_token_of_their_language(tokenizer, count, wanted):
    lm = make_seq2seq("nllb")
    lm.tokenizer = lm.tokens._tokenizer = tokenizer()
    lm.tokens._rows = 10**6
    tokens = LanguageTokens(lm, EvaluateSettings())
    assert len(tokens.known) == count
    assert tokens.forced(wanted) == wanted
    for language, token in wanted.items():
        number = lm.tokenizer.convert_tokens_to_ids(token)
        assert tokens.start(language) == [lm.start_id, number]
        for _ in range(2):  # from the tokenizer, and from what is kept
            assert lm.tokens.prompts(["a b"], tokens.source(language))[0][0] == number
    with pytest.raises(UserError, match="has no token for tlh"):
        tokens.target("tlh")
    off = LanguageTokens(lm, EvaluateSettings(target_language_token=False))
    assert off.start("de") == [lm.start_id]
    other = LanguageTokens(lm, EvaluateSettings(target_language_token=wanted["de"]))
    assert (other.target("tlh"), other.source("tlh")) == (wanted["de"], wanted["de"])
    with pytest.raises(UserError, match="is none of its tokens"):
        LanguageTokens(lm, EvaluateSettings(target_language_token="xx")).target("tlh")


@pytest.mark.parametrize(
    ("kind", "named"), [(MBart50Tokenizer, "</s>"), (MBartTokenizer, None), (MBartTokenizer, "ro_RO")]
)
def test_mbart_answers_start_as_transformers_shifts_its_labels(kind, named):
    """mBART-50 behind its end of text and the language's token, mBART-cc25 behind the latter alone."""
    lm = make_seq2seq("mbart")
    lm.tokenizer = kind(vocab=[(token, -float(i)) for i, token in enumerate(SPECIAL)], tgt_lang="de_DE")
    number = None if named is None else lm.tokenizer.convert_tokens_to_ids(named)
    lm.model.config.decoder_start_token_id = lm.model.generation_config.decoder_start_token_id = number
    labels = lm.tokenizer(text_target="a b", return_tensors="pt").input_ids
    inputs = shift_tokens_right(labels, lm.tokenizer.pad_token_id)[0].tolist()
    start = LanguageTokens(lm, EvaluateSettings()).start("de")
    text = lm.tokenizer("a b", add_special_tokens=False).input_ids
    assert inputs[: len(start)] == start
    assert inputs[len(start) : len(start) + len(text)] == text
