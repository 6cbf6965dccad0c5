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
from tiny_models import SCORED, WINDOW, all_logits, attach, make_lm, near, random_ids, row

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
        hidden, rows = generation._read(lm, trees[:4], slots, form)
        assert rows == [0, 1, 2, 3, 4]
        for t in range(TOKENS):
            for b, i in enumerate(rows):
                whole = lm.hidden(row(texts[i] + more[i][: written[i]]))[0, -1]
                # Products of one row and of many round differently.
                near("decoding step = whole text", hidden[b], whole, 3e-5)
            if t == 4:  # rows end, the first and the last among them, and others take their places
                order = slots.drop([0, 2, 4])
                rows, hidden = [rows[j] for j in order], hidden[order]
                states, places = generation._read(lm, trees[4:], slots, form)
                assert places == [2, 3, 4]
                hidden = torch.cat([hidden, states])
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
        self.tokens = lm.tokens
        self.geometry, self.adaptation = replace(lm.geometry, hidden=1, layers=0), Adaptation([])
        self.texts, self.count, self.steps = texts, 0, None

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

    def read_next(self, ids, lengths, slots):
        self.count += 1
        return (lengths + 1.0)[:, None]


def written(lm, texts: list[str], max_tokens: int = 50, stop=("\n",), end: bool = True, rows: int = 9):
    script: Any = Script(
        lm, [lm.tokenizer.encode(t, add_special_tokens=False) + ([EOS] if end else []) for t in texts]
    )
    trees = [grow([[i + 3] * (100 * i + 1)]) for i in range(len(texts))]
    longest = len(trees[-1].tokens) + max_tokens
    written = generation._generate(script, trees, max_tokens, stop, rows * longest)
    assert all(len(ids) <= max_tokens for ids in written)
    decoded = [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    return [cut(text, stop).strip() for text in decoded], script.count


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


def test_equals_what_transformers_generates(family):
    """Its own attention and cache, one prompt at a time: grouped heads, windows, ends in the middle."""
    lm = make_lm(family)
    wanted = [slowly(lambda ids: all_logits(lm, ids), p, TOKENS, frozenset()) for p in PROMPTS]
    lm.model.generation_config.eos_token_id = [EOS, wanted[0][3], wanted[4][7]]
    lm.model.set_attn_implementation("sdpa")
    theirs = []
    for prompt in PROMPTS:
        out = lm.model.generate(row(prompt), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        ids = out[0, len(prompt) :].tolist()
        theirs.append(ids[:-1] if ids[-1] in lm.stop_ids else ids)
    lm.model.set_attn_implementation("crosstune")
    assert {len(ids) for ids in theirs} > {TOKENS}
    for late in (0, 1):
        assert later(lm, PROMPTS, late) == theirs


# --- steps as a GPU has them: fixed shapes, tokens looked at a step late ----------------------------


def later(lm, prompts, late=1, stop=(), seen=None):
    """Answers by steps of rounded shapes, the tokens of each looked at when the next is under way."""

    def steps(lm, slots, note=None):
        slots.rounded = True
        made = graphs.Steps(lm, slots)
        made.late = late
        if seen is not None:
            real = made._compute
            made._compute = lambda shape: (seen.add(shape), real(shape))[1]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crosstune.models.attention.cache.COLUMNS", 8)
        patch.setattr(generation, "stepper", steps)
        trees = [grow([p]) for p in prompts]
        # The cache holds twice as many: four rows.
        return generation._generate(lm, trees, TOKENS, stop, 2 * (30 + TOKENS))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("case", SCORED)
def test_steps_of_fixed_shapes_a_step_late(tiny_lm, kind, case):
    """While rows end, stand empty and are filled again, and shapes grow and shrink."""
    lm = tiny_lm(kind)
    method = attach(lm, case)
    prompts = [*PROMPTS, *QUESTIONS]
    with method.evaluating():
        for stop in ((), ("w", "the")):  # all of one length, and of several
            wanted, shapes = batched(lm, prompts, stop=stop), set()
            assert later(lm, prompts, 1, stop, seen=shapes) == wanted
            assert len({rows for rows, *_ in shapes}) > 1
            assert len({columns for _, columns, _ in shapes}) > 1


def test_rows_move_only_where_fewer_are_enough(tiny_lm):
    """An empty row stays, and is filled first; in a rounded cache until half of the rows are enough."""
    lm = tiny_lm("llama")
    slots = DecodingCache(lm, 8, 12, rounded=True)
    with torch.inference_mode():
        for n in range(7):
            lm.hidden(row(random_ids(n + 2, seed=n)), read=(read := slots.reader()))
            slots.add(read, [(0, list(range(n + 2)))])
        assert slots.shape[0] == 8
        assert slots.drop([1, 6]) == [0, 1, 2, 3, 4, 5]
        assert slots.lengths == [2, None, 4, 5, 6, 7]
        lm.hidden(row(random_ids(3, seed=9)), read=(read := slots.reader()))
        assert slots.add(read, [(0, [0, 1, 2])]) == [1]
        kept = {i: x.clone() for i, x in slots.keys.items()}
        assert slots.drop([0, 2]) == [5, 1, 4, 3]
        assert (slots.lengths, slots.shape[0]) == ([7, 3, 6, 5], 4)
        assert slots.state[1, :4].tolist() == slots.lengths
        for i, keys in slots.keys.items():
            for new, old in enumerate([5, 1, 4, 3]):
                length = slots.lengths[new]
                assert torch.equal(keys[new * 12 :][:length], kept[i][old * 12 :][:length])


def test_the_same_memory_in_other_rows(tiny_lm):
    lm = tiny_lm("llama")
    attach(lm, "prefix-kv")
    slots = DecodingCache(lm, 2, 12)
    with torch.inference_mode():
        lm.hidden(row(random_ids(3, seed=1)), read=(read := slots.reader()))
        slots.add(read, [(0, [0, 1, 2])])
        width, where = slots.width, slots.keys[0].data_ptr()
        assert not slots.fit(3, 12)
        assert slots.fit(3, 12 - width + 2 * width // 3)
        assert (slots.extent, slots.keys[0].data_ptr()) == (0, where)
        learned = lm.adaptation.prompts(0).joint()
        for start in range(3):
            front = slots.keys[0][start * slots.width :][: learned[0].shape[1]]
            assert torch.equal(front, learned[0].transpose(0, 1))


def test_tokens_that_a_step_writes_are_counted_on_the_device(tiny_lm):
    """A text that has ended stays as long as it is, whatever is computed in its row."""
    lm = tiny_lm("llama")
    slots = DecodingCache(lm, 2, 12)
    steps = graphs.Steps(lm, slots)
    with torch.inference_mode():
        for n in (3, 5):
            lm.hidden(row(random_ids(n, seed=n)), read=(read := slots.reader()))
            slots.add(read, [(0, list(range(n)))])
        state = torch.randn(2, lm.geometry.hidden, device=lm.device)
        steps.start([0], state[:1], 2)
        steps.start([1], state[1:], 4)
        for _ in range(4):
            steps()
    assert slots.state[1:, :2].tolist() == [[4, 8], [0, 0]]


def test_a_cpu_takes_plain_steps(tiny_lm):
    lm = tiny_lm("llama")
    steps = graphs.stepper(lm, DecodingCache(lm, 1, 4))
    assert {steps._recorder is not None, bool(steps.late)} == {lm.device.type == "cuda"}
