"""Batched greedy decoding with a cache, against a loop that reads the whole text anew for every token."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from crosstune.models.adaptation import Adaptation
from crosstune.models.attention.cache import DecodingCache
from crosstune.models.attention.choose import BatchForm
from crosstune.models.attention.trees import grow
from crosstune.models.fast import graphs
from crosstune.outputs import generation
from crosstune.outputs.decoding.ends import cut
from crosstune.outputs.generation import generate
from reference_decoder import effect_of, reference_logits
from tiny_models import SCORED, WINDOW, all_logits, attach, near, random_ids, row

EOS = 2
# Shorter and longer than the window, and growing past it while decoding.
PROMPTS = [random_ids(n, seed=n) for n in (2, 5, WINDOW - 1, WINDOW, 13, 30)]
PASSAGE = random_ids(2 * WINDOW, seed=40)
QUESTIONS = [[*PASSAGE, *random_ids(n, seed=41 + n)] for n in (3, 1, 6, 3)]
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
    return generation._generate(lm, [grow([p]) for p in prompts], max_tokens, stop, 10_000)


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


@pytest.mark.parametrize("form", [BatchForm.PADDING_FREE, BatchForm.PADDED])
@pytest.mark.parametrize("case", SCORED)
def test_every_step_has_the_logits_of_the_whole_text(tiny_lm, family, case, form):
    """Not only the chosen token: hidden states of each step, past the window, while rows come and go."""
    lm = tiny_lm(family)
    attach(lm, case)
    passage = random_ids(WINDOW + 3, seed=60)
    questions = [[*passage, *random_ids(n, seed=60 + n)] for n in (1, 4)]
    trees = [grow(questions), *(grow([p]) for p in PROMPTS)]
    texts = [*questions, *PROMPTS]
    more = [random_ids(TOKENS, seed=70 + i) for i in range(len(texts))]
    front = lm.adaptation.front
    slots = DecodingCache(lm, 6, front + max(map(len, texts)) + TOKENS)
    written = [0] * len(texts)
    with torch.inference_mode():
        hidden = generation._read(lm, trees[:4], slots, form)
        rows = [0, 1, 2, 3, 4]
        for t in range(TOKENS):
            for b, i in enumerate(rows):
                whole = lm.hidden(row(texts[i] + more[i][: written[i]]))[0, -1]
                # Products of one row and of many round differently.
                near("decoding step = whole text", hidden[b], whole, 3e-5)
            if t == 4:  # rows end, the first and the last among them, and others take their places
                order = slots.drop([0, 2, 4])
                rows, hidden = [rows[j] for j in order], hidden[order]
                hidden = torch.cat([hidden, generation._read(lm, trees[4:], slots, form)])
                rows += [5, 6, 7]
                continue
            hidden = lm.step(torch.tensor([more[i][written[i]] for i in rows], device=lm.device), slots)
            for i in rows:
                written[i] += 1


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
    for tokens in (100, 10_000):  # two rows at a time, the others wait for their places; all
        trees = [grow([p]) for p in PROMPTS]
        assert generation._generate(lm, trees, TOKENS, (), tokens) == wanted


@pytest.mark.parametrize("longest", [2048, 0])
@pytest.mark.parametrize("case", SCORED)
def test_batches_and_shared_passages_change_nothing(tiny_lm, family, case, longest, monkeypatch):
    """Prompts read in one line without padding, and (longer than ``longest``) in padded lines."""
    monkeypatch.setattr("crosstune.models.attention.choose.LONGEST", longest)
    lm = tiny_lm(family)
    method = attach(lm, case)
    prompts = [*QUESTIONS, *PROMPTS, QUESTIONS[1]]
    ids = [slowly(lambda i: all_logits(lm, i), p, 6, lm.stop_ids) for p in prompts]
    wanted = [text.strip() for text in lm.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    with method.evaluating():
        for tokens in (1, 60, 10_000):
            told: list[int] = []
            assert generate(lm, prompts, 6, (), tokens, tell=told.append) == wanted
            assert sum(told) == len(prompts)


class Script:
    """A stand-in for a model that writes given texts: text ``i`` behind a prompt of ``100 i + 1`` tokens.

    Its hidden state is the length of the text so far, from which text and place can be told.
    """

    dtype = torch.float32
    quantized = True  # so that a GPU takes plain steps: there is no model to record

    def __init__(self, lm, texts: list[list[int]]):
        self.tokenizer, self.stop_ids, self.pad_id, self.device = lm.tokenizer, lm.stop_ids, 0, lm.device
        self.geometry, self.adaptation = replace(lm.geometry, hidden=1, layers=0), Adaptation([])
        self.texts, self.steps = texts, 0

    def hidden(self, ids, layout, read, rows):
        places = (
            torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
            if layout is None
            else layout.positions
        )
        return (places + 1.0).flatten()[rows][:, None]

    def best(self, hidden):
        places = [divmod(int(length) - 1, 100) for length in hidden[:, 0]]
        return torch.tensor([(self.texts[i] + [EOS] * 99)[n] for i, n in places], device=self.device)

    def step(self, ids, slots):
        self.steps += 1
        slots.begin()
        slots.end()
        return torch.tensor(slots.lengths, dtype=torch.float32, device=self.device)[:, None]


def written(lm, texts: list[str], max_tokens: int = 50, stop=("\n",), end: bool = True, rows: int = 9):
    script: Any = Script(
        lm, [lm.tokenizer.encode(t, add_special_tokens=False) + ([EOS] if end else []) for t in texts]
    )
    trees = [grow([[i + 3] * (100 * i + 1)]) for i in range(len(texts))]
    longest = len(trees[-1].tokens) + max_tokens
    written = generation._generate(script, trees, max_tokens, stop, rows * longest)
    assert all(len(ids) <= max_tokens for ids in written)
    decoded = [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    return [cut(text, stop).strip() for text in decoded], script.steps


def test_stop_strings(tiny_lm):
    lm = tiny_lm("llama")
    texts = [" yes\nand more", "yes", " the tin hat\n\n", "\n yes\nno", " a b\nQuestion: c", "", " \n "]
    for rows in (1, 2, 9):
        answers, _ = written(lm, texts, rows=rows)
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


# --- steps of fixed shapes, as a GPU records them ---------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("case", SCORED)
def test_a_step_of_fixed_shape_equals_a_step(tiny_lm, monkeypatch, kind, case):
    """While rows come and go, and the shapes grow and shrink; on a GPU, the recorded step."""
    lm = tiny_lm(kind)
    method = attach(lm, case)
    monkeypatch.setattr(graphs, "COLUMNS", 8)
    shapes = set()

    def both(lm, slots, note=None):
        fixed = graphs.FixedStep(lm, slots)
        real = slots.fix

        def step(ids):
            plain = lm.read_next(ids, slots.begin(), slots)
            monkeypatch.setattr(
                slots, "fix", lambda at, columns: (shapes.add((len(at), columns)), real(at, columns))[1]
            )
            hidden = fixed(ids)
            monkeypatch.setattr(slots, "fix", real)
            near("fixed step = step", hidden, plain)
            return hidden

        return step

    prompts = [*PROMPTS, *QUESTIONS]
    trees = [grow([p]) for p in prompts]
    with method.evaluating():
        for stop in ((), ("w", "the")):  # all of one length, and of several
            wanted = batched(lm, prompts, stop=stop)
            with monkeypatch.context() as patch:
                patch.setattr(generation, "stepper", both)
                # Four rows at once: the rest wait for a place.
                assert generation._generate(lm, trees, TOKENS, stop, 4 * (30 + TOKENS)) == wanted
    assert len({rows for rows, _ in shapes}) > 1
    assert len({columns for _, columns in shapes}) > 1


def test_a_cpu_takes_plain_steps(tiny_lm):
    lm = tiny_lm("llama")
    assert isinstance(graphs.stepper(lm, DecodingCache(lm, 1, 4)), graphs.FixedStep) == (
        lm.device.type == "cuda"
    )
