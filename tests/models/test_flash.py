"""What evaluation asks of a GPU's flash kernel, a slow loop in its place: trees, a cache read in place."""

from weakref import WeakSet

import pytest
import torch

from crosstune.models.attention import choose, cpu_line, gpu_line
from crosstune.models.attention.cache import DecodingCache
from crosstune.models.attention.choose import BatchForm
from crosstune.models.attention.flash import cascade, kernel, next_tokens
from crosstune.models.attention.flash.next_tokens import NextTokens
from crosstune.models.attention.gpu_line import VarlenBatch
from crosstune.models.attention.layout import pattern_of
from crosstune.models.attention.trees import grow, runs_of
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.generation import generate
from crosstune.outputs.settings import EvaluateSettings
from tiny_models import DEVICE, SCORED, WINDOW, attach, make_lm, random_ids

PASSAGE = random_ids(2 * WINDOW, seed=40)
TEXTS = [[*PASSAGE, *random_ids(n, seed=41 + n)] for n in (3, 1, 6)]
TEXTS += [[*TEXTS[2][:-2], 5], random_ids(7, seed=9), [*PASSAGE[:4], 7, 8]]
SHAPE = (torch.device("cpu"), torch.bfloat16, 4, 2, 16, True)


def slow(q, k, v, ends, longest, scaling, window, used=None):
    """As FlashAttention's documentation has it: the last query stands at the last key that is used."""
    out, scores = torch.zeros_like(q), torch.zeros(q.shape[:2])
    firsts = ends[1].tolist()
    for i, (a, b) in enumerate(zip(ends[0].tolist(), ends[0].tolist()[1:], strict=False)):
        c = firsts[i]
        d = firsts[i + 1] if used is None else c + int(used[i])
        assert b - a <= longest[0]
        assert d - c <= longest[1]
        keys, values = (x[c:d].repeat_interleave(q.shape[1] // k.shape[1], 1).float() for x in (k, v))
        apart = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        seen = (apart <= window[0]) if window[0] >= 0 else torch.ones_like(apart, dtype=torch.bool)
        seen = seen & (apart >= -window[1]) if window[1] >= 0 else seen
        weights = torch.einsum("qhd,khd->hqk", q[a:b].float(), keys) * scaling
        weights = weights.masked_fill(~seen, -torch.inf)
        scores[a:b] = weights.logsumexp(-1).T
        out[a:b] = torch.einsum("hqk,khd->qhd", weights.softmax(-1), values).to(q.dtype)
    return out, scores


@pytest.fixture
def flash(monkeypatch):
    """The slow kernel, which everything that asks trusts."""
    monkeypatch.setattr(kernel, "flash", slow)
    monkeypatch.setattr(gpu_line, "reads_in_place", lambda lm: True)
    monkeypatch.setattr(choose, "suits", lambda lm, longest, note=None, reading=False: reading)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_runs_of_a_tree():
    """Every pair that sees is in exactly one of: a run and itself, a run and what follows it."""
    trees = [grow(TEXTS), grow([TEXTS[0]])]
    ends, start = [], 0
    for tree in trees:
        ends += [start + end for end in tree.ends]
        start += len(tree.tokens)
    sees = {(i, j) for j, end in enumerate(ends) for i in range(j, end + 1)}
    pairs = []
    for a, b, _ in runs_of(ends):
        pairs += [(i, j) for i in range(a, b) for j in range(a, i + 1)]
        pairs += [(i, j) for i in range(b, ends[b - 1] + 1) for j in range(a, b)]
    assert len(pairs) == len(sees)
    assert set(pairs) == sees


def test_two_softmaxes_merged_are_one():
    scores, values = numbers(3, 9), numbers(9, 4, seed=1)
    parts = [
        (x.softmax(-1) @ v, x.logsumexp(-1))
        for x, v in zip(scores.split((2, 7), 1), values.split((2, 7)), strict=True)
    ]
    mixed, total = cascade.merged(*parts[0], *parts[1])
    torch.testing.assert_close(mixed, scores.softmax(-1) @ values)
    torch.testing.assert_close(total, scores.logsumexp(-1))


@pytest.mark.parametrize("shared_prefix", [0, 3])
@pytest.mark.parametrize("front", [0, 5])
@pytest.mark.parametrize("window", [None, 4, 100])
def test_trees_equal_the_plain_computation(flash, shared_prefix, front, window):
    trees = [grow(TEXTS[:4]), grow(TEXTS[4:5]), grow(TEXTS[5:])]
    lengths = tuple(len(tree.tokens) for tree in trees)
    ends, places = (
        torch.tensor([x for tree in trees for x in getattr(tree, name)]) for name in ("ends", "positions")
    )
    tokens = shared_prefix + sum(lengths)
    q, k, v = (numbers(1, heads, tokens, 8, seed=heads + i) for i, heads in enumerate((4, 2, 2)))
    stood = (numbers(2, front, 8, seed=7), numbers(2, front, 8, seed=8)) if front else None
    plain = cpu_line.PaddingFreeBatch(lengths, shared_prefix, "cpu", places, ends, window)
    line = pattern_of(VarlenBatch(lengths, 0, "cpu", places, ends).behind(shared_prefix).mask(window))
    out = gpu_line.attend(line, q, k, v, 0.3, stood)
    torch.testing.assert_close(out, cpu_line.attend(plain, q, k, v, 0.3, stood), rtol=1e-5, atol=1e-5)
    windows = window == 4
    assert len(line.calls) == (not (windows and front))
    if line.calls:
        (calls,) = line.calls.values()
        depth = max(depth for *_, depth in runs_of(trees[0].ends)) + bool(shared_prefix)
        assert len(calls) == (1 if windows else 1 + depth)
        assert depth >= 2


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("case", SCORED)
def test_scores_and_answers(flash, monkeypatch, family, case):
    """Scoring, reading prompts and steps of writing through the kernel, against the plain way of a CPU."""
    lm = make_lm(family)
    method = attach(lm, case)
    items = [ChoiceItem(text, ((5, 6), (7,), (5, 9, 10))) for text in TEXTS]
    forms, steps = [], []
    real_form, real_attend = choose.lay_out, kernel.attend_in_place
    monkeypatch.setattr(kernel, "attend_in_place", lambda *args: (steps.append(1), real_attend(*args))[1])
    for module in ("crosstune.outputs.choices", "crosstune.outputs.generation"):
        monkeypatch.setattr(
            f"{module}.lay_out", lambda form, *args: (forms.append(form), real_form(form, *args))[1]
        )
    with method.evaluating():
        scores = score_choices(lm, items, EvaluateSettings())
        answers = generate(lm, TEXTS, 9, ())
        assert set(forms) == {BatchForm.VARLEN}
        assert steps  # also with a prefix that a window would hide: it is kept apart
        with monkeypatch.context() as patch:
            patch.setattr(gpu_line, "reads_in_place", lambda lm: False)
            patch.setattr(choose, "suits", lambda *args, **kwargs: False)
            wanted = score_choices(lm, items, EvaluateSettings())
            assert generate(lm, TEXTS, 9, ()) == answers
    for one, other in zip(scores, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_a_prefix_is_kept_once_where_its_copies_are_many(flash, monkeypatch):
    """At the same address for the next texts; not for scores that the kernel does not know."""
    lm = make_lm("llama")
    method = attach(lm, "prefix-kv")
    with method.evaluating():
        wanted = generate(lm, TEXTS, 9, ())
        n = lm.adaptation.prompts(0).joint()[0].shape[1]
        for least, inside in ((4 * n + 1, True), (4 * n, False)):
            monkeypatch.setattr(next_tokens, "SHARED", least)
            slots = DecodingCache(lm, 4, 80)
            assert (slots.prompts_inside, slots.width) == (inside, 80 + n * inside)
        kept = [x.data_ptr() for pair in slots.shared.values() for x in pair]
        assert slots.fit(4, 70)
        assert [x.data_ptr() for pair in slots.shared.values() for x in pair] == kept
        assert len(kept) == 4  # keys and values of two layers; the third has no prefix
        assert generate(lm, TEXTS, 9, ()) == wanted
        with monkeypatch.context() as patch:
            patch.setattr(next_tokens, "_biased", WeakSet())
            real = NextTokens.attend
            patch.setattr(NextTokens, "attend", lambda *args: real(*args[:-1], True))
            assert generate(lm, TEXTS, 9, ()) == wanted
            assert not DecodingCache(lm, 4, 80).shared


@pytest.mark.parametrize("window", [None, 4])
def test_texts_that_are_only_read_need_no_other_kernel(flash, monkeypatch, window):
    """Plain texts behind a soft prompt: what training calls is not asked for."""
    monkeypatch.setattr(gpu_line, "kernel", None)
    lengths = (4, 9, 1)
    q, k, v = (numbers(1, heads, 17, 8, seed=heads + i) for i, heads in enumerate((4, 2, 2)))
    plain = cpu_line.PaddingFreeBatch(lengths, 3, "cpu", window=window)
    with torch.inference_mode():
        out = gpu_line.attend(VarlenBatch(lengths, 3, "cpu", window=window), q, k, v)
        torch.testing.assert_close(out, cpu_line.attend(plain, q, k, v), rtol=1e-5, atol=1e-5)


def test_a_cache_read_in_place_is_one_shape_for_all_lengths(flash):
    """Rows of another width in the same memory: the step's shape stays, and so do its recordings."""
    lm = make_lm("llama")
    slots = DecodingCache(lm, 4, 40, rounded=True)
    slots.lengths = [3, 39]
    shape = slots.shape
    assert shape == (2, 128, 0)
    assert slots.fit(2, 80)
    slots.lengths = [70, 2]
    assert slots.shape == shape


def test_right_kernels_are_trusted_and_wrong_ones_are_not(monkeypatch):
    proofs = {
        gpu_line.READING: lambda: gpu_line.compared_reading(*SHAPE),
        kernel.IN_PLACE: lambda: kernel.compared_in_place(*SHAPE),
    }
    if DEVICE == "cpu":
        assert all(way.fault(proof) for way, proof in proofs.items())
    wrong = {
        "no window": (lambda *a, **k: slow(*a[:6], (-1, a[6][1]), *a[7:]), True, True),
        "a window too wide": (
            lambda *a: slow(*a[:6], (a[6][0] + (a[6][0] >= 0), a[6][1]), *a[7:]),
            True,
            True,
        ),
        "all keys": (lambda *a: slow(*a[:7]), False, True),
        "other sums": (lambda *a: (slow(*a)[0], slow(*a)[1] + slow(*a)[1].abs() * 0.3), True, True),
    }
    for kernel_, *faults in ((slow, False, False), *wrong.values()):
        monkeypatch.setattr(kernel, "flash", kernel_)
        assert [bool(way.fault(proof)) for way, proof in proofs.items()] == faults


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_the_real_kernel():
    shape = (torch.device(DEVICE, 0), *SHAPE[1:4], 64, True)
    assert gpu_line.READING.fault(lambda: gpu_line.compared_reading(*shape)) == ""
    assert kernel.IN_PLACE.fault(lambda: kernel.compared_in_place(*shape)) == ""


def test_pytorchs_own_checks_take_what_it_is_called_with():
    """Names, shapes and dtypes as this PyTorch wants them, on tensors without storage."""
    q, k = (torch.empty(n, h, 64, dtype=torch.bfloat16, device="meta") for n, h in ((3, 8), (30, 2)))
    ends = [torch.empty(4, dtype=torch.int32, device="meta") for _ in range(2)]
    used = torch.empty(3, dtype=torch.int32, device="meta")
    out, scores = kernel.flash(q, k, k, (ends[0], ends[1]), (1, 16), 0.1, (4, 0), used)
    assert (out.shape, scores.shape) == (q.shape, (3, 8))
    assert kernel.attend_in_place(q, k, k, *ends, used, 16, 0.1, None).shape == q.shape
