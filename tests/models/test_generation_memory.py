"""How much is read and written at once, from memory: what fits is used, and nothing but sizes changes."""

from contextlib import contextmanager

import pytest
import torch

from crosstune.models.attention import choose
from crosstune.models.attention.cache import DecodingCache, row_bytes
from crosstune.models.memory import machine
from crosstune.models.memory import measure as fitting
from crosstune.models.memory.measure import SHARE
from crosstune.models.memory.token_limit import CACHED, TokenLimit
from crosstune.outputs import generation
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.generation import generate
from crosstune.outputs.journal import Journal
from crosstune.outputs.settings import EvaluateSettings
from tiny_models import SCORED, attach, make_lm, random_ids

# Of nearly one length: those that are not are portions of their own.
PROMPTS = [random_ids(11 + n % 2, seed=n) for n in range(40)]
LONGEST = 12 + 5
ITEMS = [ChoiceItem(prompt, ((5, 6), (7,), (8, 9, 10))) for prompt in PROMPTS]
# A pass on the card that is made up: so many bytes, and so many a token.
FIXED, EACH = 50_000, 200


class Card:
    """A GPU of so many bytes, on which work is measured by adding up what it asks for."""

    def __init__(self, lm, nbytes):
        self.lm, self.nbytes, self.cache, self.held, self.most = lm, nbytes, 0, 0, 0
        self.measured, self.rows = [], []

    def forward(self, module, args, kwargs):
        self.most = max(self.most, self.cache + FIXED + EACH * kwargs["inputs_embeds"].shape[:2].numel())

    def slots(self, lm, rows, columns):
        self.cache = rows * row_bytes(lm, columns)
        self.rows.append(rows)
        return DecodingCache(lm, rows, columns)

    def peak(self, device, work):
        # The cache of a trial that was made before it is not counted.
        self.most, before = 0, self.cache
        work()
        bytes_held = self.most - (before if self.cache == before else 0)
        self.measured.append(bytes_held)
        self.most = self.cache = 0
        return bytes_held


@contextmanager
def card(lm, monkeypatch, nbytes):
    gpu = Card(lm, nbytes)
    handle = lm.decoder.register_forward_pre_hook(gpu.forward, with_kwargs=True)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "measures", lambda lm: True)
        patch.setattr(fitting, "WORTH", 50)
        patch.setattr(fitting, "peak", gpu.peak)
        patch.setattr(fitting, "free", lambda device: nbytes)
        patch.setattr(choose, "DecodingCache", gpu.slots)
        yield gpu
    handle.remove()


@pytest.mark.parametrize("case", ["none", "prefix-hidden", "soft-prompt"])
def test_answers_take_what_a_pass_leaves(case, monkeypatch):
    lm = make_lm("llama")
    attach(lm, case)
    wanted = generate(lm, PROMPTS, 5, ())
    columns = LONGEST + lm.adaptation.front
    # For a pass of 100 tokens, and so many answers: what a step holds beside the cache is held twice.
    beside = 2 * EACH
    for rows in (20, 11):
        nbytes = (FIXED + EACH * 100 + 2 * FIXED + rows * (row_bytes(lm, columns) + beside)) / SHARE
        passes = TokenLimit(100)
        with card(lm, monkeypatch, nbytes) as gpu:
            assert generate(lm, PROMPTS, 5, (), passes=passes) == wanted
        assert passes.limit == 100
        # All four trials, and then no more rows than fit; a soft prompt's tokens are read beside the limit.
        assert len(gpu.measured) == 4
        assert abs(max(gpu.rows[4:]) - rows) <= 1
        assert gpu.most <= SHARE * nbytes + EACH * 100


def test_a_pass_that_does_not_fit_is_smaller(monkeypatch):
    lm, messages = make_lm("qwen3"), []
    wanted = score_choices(lm, ITEMS, EvaluateSettings())
    passes = TokenLimit(8192, note=messages.append)
    with card(lm, monkeypatch, (FIXED + EACH * 90) / SHARE) as gpu:
        scores = score_choices(lm, ITEMS, EvaluateSettings(), passes=passes)
        assert FIXED + EACH * 60 < gpu.most <= FIXED + EACH * 90
    assert 85 <= passes.limit <= 90
    assert len(gpu.measured) == 2
    assert messages == [f"  about {passes.limit} tokens at once fit in the memory of cpu in evaluation"]
    for one, other in zip(scores, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_measured_once_and_never_more_than_asked_for(monkeypatch):
    lm, passes = make_lm("llama"), TokenLimit(100)
    with card(lm, monkeypatch, 1e9) as gpu:
        score_choices(lm, ITEMS, EvaluateSettings(), passes=passes)
        score_choices(lm, ITEMS, EvaluateSettings(), passes=passes)
    assert (passes.limit, len(gpu.measured)) == (100, 2)
    few = TokenLimit(100)
    with card(lm, monkeypatch, 1e9) as gpu:
        score_choices(lm, ITEMS[:2], EvaluateSettings(), passes=few)
    assert (few.measured, gpu.measured) == (False, [])


def test_trials_that_fail_leave_all_as_set(monkeypatch):
    lm, passes = make_lm("llama"), TokenLimit(100)
    wanted = generate(lm, PROMPTS, 5, ())
    with card(lm, monkeypatch, 1e9) as gpu:

        def fails(device, work):
            gpu.measured.append(None)
            raise RuntimeError("CUDA out of memory")

        monkeypatch.setattr(fitting, "peak", fails)
        assert generate(lm, PROMPTS, 5, (), passes=passes) == wanted
    assert (passes.limit, passes.cached, len(gpu.measured)) == (100, CACHED, 1)


def test_a_stopped_evaluation_goes_on_with_what_was_measured(monkeypatch, tmp_path):
    lm = make_lm("llama")

    class Killed(Exception):  # noqa: N818 - nothing went wrong
        pass

    def go(file, passes, tell=None):
        journal = Journal(file, "x", lambda line: None)
        try:
            return generate(lm, PROMPTS, 5, (), tell=tell, passes=passes, journal=journal)
        finally:
            journal.close()

    def dies(count):
        raise Killed

    monkeypatch.setattr(generation, "PORTION", 2)
    nbytes = (FIXED + EACH * 100 + 2 * FIXED + 8 * (row_bytes(lm, LONGEST) + 2 * EACH)) / SHARE
    with card(lm, monkeypatch, nbytes):
        before, after = TokenLimit(100), TokenLimit(100)
        wanted = go(tmp_path / "whole", TokenLimit(100))
        with pytest.raises(Killed):
            go(tmp_path / "stopped", before, dies)
    # With more memory than before.
    with card(lm, monkeypatch, 1e9) as gpu:
        assert go(tmp_path / "stopped", after) == wanted
    assert gpu.measured == []
    assert 0 < before.cached < CACHED
    assert (after.cached, after.limit) == (before.cached, before.limit)


# --- on a CPU ---------------------------------------------------------------------------------------


def at_once(lm, monkeypatch, available, tokens=200):
    """Answers, how many are written at once, what was said, and the passes, with so much memory at hand."""
    rows, messages = [], []

    def slots(lm, count, columns):
        rows.append(count)
        return DecodingCache(lm, count, columns)

    passes = TokenLimit(tokens, note=messages.append)
    with monkeypatch.context() as patch:
        patch.setattr(machine, "at_hand", lambda: available)
        patch.setattr(choose, "DecodingCache", slots)
        return generate(lm, PROMPTS, 5, (), passes=passes), max(rows), messages, passes


@pytest.mark.skipif(make_lm("llama").device.type != "cpu", reason="what a CPU does")
def test_memory_at_hand_matters_only_where_the_cache_is_more(monkeypatch):
    """At every start the same, then, whatever else the machine is doing."""
    lm = make_lm("llama")
    row = row_bytes(lm, LONGEST)
    set_ = CACHED * 200 // LONGEST
    for available in (None, 2**40, int(set_ * row / SHARE) + row):
        actual = at_once(lm, monkeypatch, available)
        assert (actual[1], actual[2], actual[3].cached) == (set_, [], CACHED)
    less = at_once(lm, monkeypatch, int(15.5 * row / SHARE))
    assert less[0] == actual[0]
    assert (less[1], less[2]) == (15, ["  15 answers at once fit in the memory of cpu in evaluation"])
    # So little that a pass has to be smaller too.
    least = at_once(lm, monkeypatch, int(2.5 * row / SHARE))
    assert (least[0], least[1], least[3].limit) == (actual[0], 2, 2 * LONGEST)


@pytest.mark.parametrize("case", SCORED)
def test_bytes_of_a_row(case, family):
    lm = make_lm(family)
    attach(lm, case)
    slots = DecodingCache(lm, 3, 7)
    with torch.inference_mode():
        lm.hidden(torch.ones(1, 2, dtype=torch.long, device=lm.device), read=(read := slots.reader()))
    slots.add(read, [(0, [0, 1])])
    blocks = (*slots.keys.values(), *slots.values.values())
    assert 3 * row_bytes(lm, 7) == sum(x.nbytes for x in blocks)


def test_memory_that_linux_and_a_container_leave(monkeypatch, tmp_path):
    file = tmp_path / "meminfo"
    monkeypatch.setattr(machine, "_MEMORY", file)
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    assert machine.at_hand() is None
    file.write_text("MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    6000 kB\n")
    assert machine.at_hand() == 6000 * 1024
    for limit, available in (("max", 6000 * 1024), ("5000", 2500), ("90000000", 6000 * 1024)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text("3000\n")
        (tmp_path / "memory.stat").write_text("anon 2400\ninactive_file 500\n")
        assert machine.at_hand() == available
