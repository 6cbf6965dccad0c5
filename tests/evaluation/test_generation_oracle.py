"""Batched greedy decoding with a cache, against a loop that reads the whole text anew for every token."""

from typing import Any

import pytest
import torch

from crosstune.evaluation import generation
from crosstune.evaluation.generation import generate
from reference_decoder import effect_of, reference_logits
from tiny_models import SCORED, VOCABULARY, WINDOW, all_logits, attach, near, random_ids, row

EOS = 2
# Shorter and longer than the window, and growing past it while decoding.
PROMPTS = [random_ids(n, seed=n) for n in (2, 5, WINDOW - 1, WINDOW, 13, 30)]
TOKENS = 14


def slowly(logits_of: Any, prompt: list[int], max_tokens: int, stop_ids: frozenset[int]) -> list[int]:
    """Greedy, no cache, no batch."""
    ids: list[int] = []
    while len(ids) < max_tokens:
        token = int(logits_of(prompt + ids)[-1].argmax())
        if token in stop_ids:
            break
        ids.append(token)
    return ids


def batched(lm, prompts=PROMPTS, max_tokens=TOKENS, stop=()):
    return generation._generate_batch(lm, prompts, max_tokens, stop)


@pytest.mark.parametrize("kind", ["llama", "mistral", "mistral-full", "gemma3", "qwen3"])
@pytest.mark.parametrize("case", SCORED)
def test_equals_no_cache_no_batch(tiny_lm, kind, case):
    lm = tiny_lm(kind)
    method = attach(lm, case)
    wanted = [slowly(lambda ids: all_logits(lm, ids), p, TOKENS, lm.stop_ids) for p in PROMPTS]
    assert max(map(len, wanted)) == TOKENS
    with method.evaluating():
        # Merging rounds LoRA differently: compare the tokens it picks there too.
        assert batched(lm) == wanted
        assert [batched(lm, [p])[0] for p in PROMPTS] == wanted


@pytest.mark.parametrize("case", SCORED)
def test_equals_slow_decoder(tiny_lm, family, case):
    lm = tiny_lm(family)
    method = attach(lm, case)
    effect = effect_of(method, lm)
    wanted = [slowly(lambda ids: reference_logits(lm, ids, effect), p, 8, lm.stop_ids) for p in PROMPTS[1::2]]
    assert batched(lm, PROMPTS[1::2], 8) == wanted


@pytest.mark.parametrize("case", SCORED)
def test_every_step_has_the_logits_of_the_whole_text(tiny_lm, family, case):
    """Not only the chosen token: hidden states of left-padded prefill and of each step, past the window."""
    lm = tiny_lm(family)
    attach(lm, case)
    longest = max(map(len, PROMPTS))
    ids = torch.cat([row([0] * (longest - len(p)) + p) for p in PROMPTS])
    real = torch.arange(longest, device=ids.device)[None] >= row([longest - len(p) for p in PROMPTS]).T
    more = [random_ids(TOKENS, seed=70 + i) for i in range(len(PROMPTS))]
    with torch.inference_mode():
        hidden, state = lm.prefill(ids, real)
        rows = list(range(len(PROMPTS)))
        for t in range(TOKENS):
            for b, i in enumerate(rows):
                whole = lm.hidden(row(PROMPTS[i] + more[i][:t]))[0, -1]
                near("decoding step = whole text", hidden[b], whole)
            if t == 4:  # rows leave the batch, the longest prompt among them
                rows = [0, 2, 3]
                state.keep(torch.tensor(rows, device=ids.device))
            hidden = lm.step(torch.tensor([more[i][t] for i in rows], device=ids.device), state)


@pytest.mark.parametrize("case", ["none", "soft-prompt", "prefix-kv"])
def test_rows_that_end_early_change_no_other(tiny_lm, family, case):
    lm = tiny_lm(family)
    attach(lm, case)
    endless = [slowly(lambda ids: all_logits(lm, ids), p, TOKENS, frozenset()) for p in PROMPTS]
    # Some of what gets written now ends the text, at once in the third row.
    lm.model.generation_config.eos_token_id = [EOS, endless[0][3], endless[2][0], endless[4][7]]
    wanted = [slowly(lambda ids: all_logits(lm, ids), p, TOKENS, lm.stop_ids) for p in PROMPTS]
    assert wanted[2] == []
    assert len({len(w) for w in wanted}) > 1, "rows end at different times"
    for share in (0.0, 0.25, 2.0):  # drop at once, at a quarter, never
        generation.DROP_SHARE, kept = share, generation.DROP_SHARE
        try:
            assert batched(lm) == wanted
        finally:
            generation.DROP_SHARE = kept


@pytest.mark.parametrize("tokens_per_pass", [1, 60, 10_000])
def test_batches_change_nothing(tiny_lm, family, tokens_per_pass):
    lm = tiny_lm(family)
    attach(lm, "prefix-kv")
    ids = [slowly(lambda i: all_logits(lm, i), p, 6, lm.stop_ids) for p in PROMPTS]
    wanted = [text.strip() for text in lm.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    told: list[int] = []
    assert generate(lm, PROMPTS, 6, (), tokens_per_pass, told.append) == wanted
    assert sum(told) == len(PROMPTS)


class Script:
    """A stand-in for a model that writes given token ids, whatever it reads."""

    def __init__(self, lm, texts: list[list[int]]):
        self.tokenizer, self.stop_ids, self.pad_id, self.device = lm.tokenizer, lm.stop_ids, 0, lm.device
        self.texts, self.rows, self.at, self.steps = texts, list(range(len(texts))), 0, 0

    def prefill(self, ids, real):
        return None, self

    def logits(self, hidden):
        return torch.nn.functional.one_hot(
            torch.tensor([(self.texts[r] + [EOS] * 99)[self.at] for r in self.rows]), VOCABULARY
        ).float()

    def step(self, ids, state):
        self.at, self.steps = self.at + 1, self.steps + 1

    def keep(self, index):
        self.rows = [self.rows[i] for i in index.tolist()]


def written(lm, texts: list[str], max_tokens: int = 50, stop=("\n",), end: bool = True):
    script: Any = Script(
        lm, [lm.tokenizer.encode(t, add_special_tokens=False) + ([EOS] if end else []) for t in texts]
    )
    return generate(script, [[5]] * len(texts), max_tokens, stop), script.steps


def test_stop_strings(tiny_lm):
    lm = tiny_lm("llama")
    texts = [" yes\nand more", "yes", " the tin hat\n\n", "\n yes\nno", " a b\nQuestion: c", "", " \n "]
    answers, _ = written(lm, texts)
    assert answers == ["yes", "yes", "the tin hat", "yes", "a b", "", ""]
    # A stop string that starts in one token and ends in another, and the first of several.
    assert written(lm, ["one the tin; two"], stop=("tin;", "two"))[0] == ["one the"]
    assert written(lm, ["one\ntwo"], stop=())[0] == ["one\ntwo"]


def test_decoding_stops_when_all_rows_have(tiny_lm):
    lm = tiny_lm("llama")
    _, steps = written(lm, ["a\nb c d e f g", "ab\n" + "z" * 40], end=False)
    assert steps == 2
    answers, steps = written(lm, ["abcdefgh", "xy"], max_tokens=3)
    assert answers == ["abc", "xy"]
    assert steps == 2
    assert written(lm, ["abc"], max_tokens=1)[0] == ["a"]


def test_end_tokens_of_the_generation_config_end_too(tiny_lm):
    lm = tiny_lm("llama")
    lm.model.generation_config.eos_token_id = [2, 40]
    assert lm.stop_ids == {2, 40}
