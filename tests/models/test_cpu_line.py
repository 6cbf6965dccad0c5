"""Attention of a line in blocks of texts, against one masked softmax over the whole line in fp64."""

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosstune.models.attention.cpu_groups import COPY, MOST, START, cut
from crosstune.models.attention.cpu_line import PaddingFreeBatch, attend
from crosstune.models.attention.layout import pattern_of

# Alone, equal, near each other, far apart, and not in order.
LENGTHS = (9, 1, 23, 8, 9, 120, 7, 22, 1)
SCALE = 0.3


def line(shared_prefix, front, *, heads=4, kv_heads=2, d=8, dtype=torch.float64, texts=LENGTHS):
    """Query, key, value, and keys and values in front (or None)."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()

    n = shared_prefix + sum(texts)
    q, k, v = some(1, heads, n, d), some(1, kv_heads, n, d), some(1, kv_heads, n, d)
    return q, k, v, (some(kv_heads, front, d), some(kv_heads, front, d)) if front else None


def sees(texts, shared_prefix, window=None, parents=None):
    """Of each token of the line, the tokens it follows, itself included: token by token, by hand.

    Args:
        texts: Lengths.
        shared_prefix: Tokens in front that all follow.
        window: Of them it sees the last so many.
        parents: Of each token of the texts, the one before it in its own branch, counted in its text;
            -1 for the first. None where each follows the one in front.
    """
    paths = [list(range(i + 1)) for i in range(shared_prefix)]
    start = shared_prefix
    for n in texts:
        for i in range(n):
            before = i - 1 if parents is None else parents[start - shared_prefix + i]
            stem = list(range(shared_prefix)) if before < 0 else paths[start + before]
            paths.append([*stem, start + i])
        start += n
    return [path if window is None else path[-window:] for path in paths]


def by_hand(q, k, v, stood, seen):
    """Row by row: ``softmax(scale * q K') V`` over what it sees, and all that stands in front."""
    heads, kv_heads, n = q.shape[1], k.shape[1], q.shape[2]
    rows = []
    for i in range(n):
        at = torch.tensor(seen[i])
        keys, values = k[0][:, at], v[0][:, at]
        if stood is not None:
            keys, values = torch.cat([stood[0], keys], 1), torch.cat([stood[1], values], 1)
        keys, values = (x.repeat_interleave(heads // kv_heads, 0) for x in (keys, values))
        weights = (SCALE * torch.einsum("hd,hcd->hc", q[0, :, i], keys)).softmax(-1)
        rows.append(torch.einsum("hc,hcd->hd", weights, values))
    return torch.stack(rows)[None]


def compare(layout, seen, inputs, rtol=1e-9):
    q, k, v, stood = inputs
    out, wanted = attend(layout, q, k, v, SCALE, stood), by_hand(q, k, v, stood, seen)
    torch.testing.assert_close(out, wanted, rtol=rtol, atol=rtol)
    leaves = [q, k, v, *(stood or ())]
    up = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gradients = torch.autograd.grad(out, leaves, up.to(out.dtype))
    for ours, right in zip(gradients, torch.autograd.grad(wanted, leaves, up.to(out.dtype)), strict=True):
        torch.testing.assert_close(ours, right, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("heads", [(4, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("front", [0, 5])
@pytest.mark.parametrize("shared_prefix", [0, 3])
@pytest.mark.parametrize("window", [None, 4, 30])
def test_blocks_equal_a_softmax_row_by_row(heads, front, shared_prefix, window):
    inputs = line(shared_prefix, front, heads=heads[0], kv_heads=heads[1])
    layout = PaddingFreeBatch(LENGTHS, shared_prefix, window=window)
    # One block holds texts of several lengths, and not all are in one.
    plan = layout.plan(front, heads[1], heads[0] // heads[1], torch.float64)
    assert bool(shared_prefix) + 1 < len(plan.blocks) < len(LENGTHS)
    assert len(plan.filling)
    # A prompt is seen beyond the window too, and is no part of it.
    compare(layout, sees(LENGTHS, shared_prefix, window), inputs, 5e-6 if front + shared_prefix else 1e-9)


@pytest.mark.parametrize("texts", [(6, 6, 6), (17,), (5, 5, 100)])
@pytest.mark.parametrize("together", [False, True])
def test_lines_that_are_their_blocks(texts, together):
    """Nothing is gathered, and whatever the order in memory, results go where they belong."""
    q, k, v, _ = line(0, 0, heads=3, kv_heads=1, texts=texts)
    if together:  # the heads of a token, as a model hands them over
        q, k, v = (
            x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (q, k, v)
        )
    layout = PaddingFreeBatch(texts)
    assert layout.plan(0, 1, 3, q.dtype).places is None
    compare(layout, sees(texts, 0), (q, k, v, None))


def test_an_order_that_is_its_own_inverse_is_not_taken_for_none():
    """As many tokens as key heads."""
    compare(PaddingFreeBatch((2,)), sees((2,), 0), line(0, 0, texts=(2,)))


def trees(texts, seed=3):
    """Trees of branches in depth-first order: places, ends, and the token that each follows."""
    draw = random.Random(seed)
    places, ends, parents = [], [], []
    for number, n in enumerate(texts):
        # A chain now and then; elsewhere a token follows one of the path to the token before it.
        path, before = [], []
        for i in range(n):
            keep = (
                len(path)
                if number % 3 == 1
                else draw.choice([len(path)] * 4 + [draw.randrange(len(path) + 1)])
            )
            path = path[: max(keep, min(i, 1))]
            before.append(path[-1] if path else -1)
            places.append(len(path))
            path.append(i)
        parents += before
        # The last that sees a token is the last of its subtree.
        last = list(range(n))
        for i in reversed(range(n)):
            if before[i] >= 0:
                last[before[i]] = max(last[before[i]], last[i])
        ends += last
    return places, ends, parents


@pytest.mark.parametrize("front", [0, 5])
@pytest.mark.parametrize("shared_prefix", [0, 3])
@pytest.mark.parametrize("window", [None, 4])
def test_trees_equal_a_softmax_row_by_row(front, shared_prefix, window):
    places, ends, parents = trees(LENGTHS)
    assert places != [i for n in LENGTHS for i in range(n)]
    layout = PaddingFreeBatch(
        LENGTHS, shared_prefix, places=torch.tensor(places), ends=torch.tensor(ends), window=window
    )
    seen = sees(LENGTHS, shared_prefix, window, parents)
    assert layout.positions[0].tolist() == [
        *range(shared_prefix),
        *(shared_prefix + place for place in places),
    ]
    compare(layout, seen, line(shared_prefix, front), 5e-6 if front + shared_prefix else 1e-9)


def test_the_comparison_finds_a_text_that_sees_its_neighbour():
    seen = sees(LENGTHS, 0)
    # The third text's first token sees the last of the second one.
    assert LENGTHS[:2] == (9, 1)
    seen[10] = [9, 10]
    with pytest.raises(AssertionError):
        compare(PaddingFreeBatch(LENGTHS), seen, line(0, 0))


@pytest.mark.parametrize("number", range(len(LENGTHS)))
def test_nothing_passes_from_a_text_to_another_not_even_what_is_no_number(number):
    """All that is in a text is nan, and above it the gradients: the others have the very same bits."""
    start = sum(LENGTHS[:number])
    inside = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    inside[start : start + LENGTHS[number]] = True
    results = []
    for spoilt in (False, True):
        q, k, v, _ = line(0, 0, dtype=torch.float32)
        up = torch.randn(1, len(inside), 4, 8, generator=torch.Generator().manual_seed(5))
        if spoilt:
            for x in (q, k, v):
                x.data[:, :, inside] = torch.nan
            up[:, inside] = torch.nan
        out = attend(PaddingFreeBatch(LENGTHS), q, k, v, SCALE)
        results.append([out[0], *(g[0].transpose(0, 1) for g in torch.autograd.grad(out, (q, k, v), up))])
    for clean, spoilt in zip(*results, strict=True):
        assert torch.equal(clean[~inside], spoilt[~inside])
        assert spoilt[inside].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_text_that_attends_apart_has_the_same_bits_beside_any_other(dtype):
    q, k, v, _ = line(0, 0, dtype=dtype)
    together = attend(PaddingFreeBatch(LENGTHS, apart=True), q, k, v, SCALE)
    compare(PaddingFreeBatch(LENGTHS, apart=True), sees(LENGTHS, 0), line(0, 0))
    start = 0
    for n in LENGTHS:
        alone = attend(
            PaddingFreeBatch((n,), apart=True), *(x[:, :, start : start + n] for x in (q, k, v)), SCALE
        )
        assert torch.equal(alone, together[:, start : start + n])
        start += n


@pytest.mark.parametrize("shared_prefix", [0, 3])
def test_bfloat16_stays_as_near_as_its_rounding(shared_prefix):
    q, k, v, stood = line(shared_prefix, 5)
    half = [x.detach().bfloat16().requires_grad_() for x in (q, k, v, *stood)]
    exact = [x.detach().double().requires_grad_() for x in half]
    layout = PaddingFreeBatch(LENGTHS, shared_prefix, window=30)
    out = attend(layout, *half[:3], SCALE, tuple(half[3:]))
    wanted = by_hand(*exact[:3], exact[3:], sees(LENGTHS, shared_prefix, 30))
    up = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).bfloat16()
    pairs = zip(
        (out, *torch.autograd.grad(out, half, up)),
        (wanted, *torch.autograd.grad(wanted, exact, up.double())),
        strict=True,
    )
    for ours, right in pairs:
        assert ours.dtype == torch.bfloat16
        assert float((ours.double() - right).detach().norm() / right.detach().norm()) < 1e-2


def test_the_same_bits_again_and_a_plan_made_once():
    layout = PaddingFreeBatch(LENGTHS, 3)
    inputs = line(3, 5, dtype=torch.bfloat16)
    out, again = (attend(layout, *inputs[:3], SCALE, inputs[3]) for _ in range(2))
    assert torch.equal(out, again)
    # In a model all layers ask, each by the mask of its window.
    whole, wide, narrow = (pattern_of(layout.mask(window)) for window in (None, 500, 7))
    plans = [one.plan(5, 2, 2, torch.bfloat16) for one in (layout, whole, wide, narrow)]
    assert plans[0] is plans[1] is plans[2]
    assert plans[3] is not plans[0]
    assert layout.behind(2).plan(5, 2, 2, torch.bfloat16) is not plans[0]


def price(runs, lengths, shared):
    total, filled = 0, False
    for run in runs:
        longest = max(lengths[i] for i in run)
        total += START + len(run) * longest * (longest + shared)
        filled |= any(lengths[i] < longest for i in run)
    return total + filled * COPY * sum(lengths)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.integers(0, 20))
def test_runs_hold_every_text_once_and_none_costs_less(lengths, shared):
    runs = cut(lengths, shared)
    order = [i for run in runs for i in run]
    assert order == sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    assert all(len(run) == 1 or len(run) * (n := lengths[run[-1]]) * (n + shared) <= MOST for run in runs)
    # Every way to cut what is sorted.
    for cuts in itertools.product((False, True), repeat=len(order) - 1):
        other = [[order[0]]]
        for i, new in zip(order[1:], cuts, strict=True):
            other.append([i]) if new else other[-1].append(i)
        fits = all(
            len(run) == 1 or len(run) * (n := lengths[run[-1]]) * (n + shared) <= MOST for run in other
        )
        assert not fits or price(runs, lengths, shared) <= price(other, lengths, shared)
