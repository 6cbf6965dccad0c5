"""Several examples a line: the same loss and gradients as one a line, with less padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosstune.models.attention.choose import BatchForm, bins, reading_form, training_form
from crosstune.models.attention.cpu_line import LONGEST
from crosstune.outputs.rows import TrainingRow
from crosstune.training.objectives import answer_loss
from tiny_models import DEVICE, FAMILIES, TRAINED, attach, collated, make_lm, shake

BALANCE = 1e6  # attention costs nothing: pack whatever fits


def some_rows() -> list[TrainingRow]:
    """Lengths on both sides of the tiny models' sliding window, answers of one token and of several."""
    draw = torch.Generator().manual_seed(3)
    lengths = [(3, 1), (21, 4), (9, 2), (5, 1), (14, 1), (2, 1), (11, 3), (6, 5)]
    return [
        TrainingRow(tuple(torch.randint(3, 200, (n,), generator=draw).tolist()), answer)
        for n, answer in lengths
    ]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_one_a_line(family, case, ragged):
    lm = make_lm(family)
    method = attach(lm, case)
    shake(method)
    results = []
    for balance in (None, BALANCE):
        batch = collated(
            some_rows(),
            torch.device(DEVICE),
            balance,
            form=BatchForm.PADDING_FREE if ragged and balance is not None else None,
        )
        assert (batch.layout is not None) == (balance is not None)
        loss = answer_loss(lm, batch)
        loss.backward()
        method.after_backward()
        grads = {name: p.grad.clone() for name, p in method.parameters().items() if p.grad is not None}
        assert grads
        for parameter in method.parameters().values():
            parameter.grad = None
        results.append((loss.detach(), grads))
    (one, grads), (packed, packed_grads) = results
    torch.testing.assert_close(packed, one, rtol=2e-5, atol=0)
    assert set(grads) == set(packed_grads)
    scale = max(float(g.abs().max()) for g in grads.values())
    for name, grad in grads.items():
        # Either is 1e-4 of the largest away from what fp64 gives.
        torch.testing.assert_close(packed_grads[name], grad, rtol=1e-4, atol=1e-4 * scale, msg=name)


def test_a_line_really_holds_several_and_less_padding():
    rows = some_rows()
    batch = collated(rows, "cpu", BALANCE)
    tokens = sum(len(r.ids) - 1 for r in rows)
    assert batch.ids.shape[0] < len(rows)
    assert batch.ids.numel() < 1.1 * tokens < collated(rows).ids.numel()
    assert collated(rows, "cpu", form=BatchForm.PADDING_FREE).ids.shape == (1, tokens)


def test_long_rows_are_not_taken_one_by_one():
    rows = [TrainingRow((5,) * (LONGEST + 2), 1), TrainingRow((5, 6), 1)]
    lm = make_lm("llama")
    for choose, other in ((training_form, BatchForm.PACKED), (reading_form, BatchForm.PADDED)):
        assert choose(lm, LONGEST) == (BatchForm.PADDING_FREE if DEVICE == "cpu" else other)
        assert choose(lm, LONGEST + 1) == other
    assert collated(rows).ids.shape == (2, LONGEST + 1)
    dropping = make_lm("llama", attention_dropout=0.1)
    assert training_form(dropping, 9) == BatchForm.PACKED


def test_every_answer_token_is_a_target_once():
    rows = some_rows()
    for balance, ragged in ((None, False), (BALANCE, False), (None, True)):
        batch = collated(rows, "cpu", balance, form=BatchForm.PADDING_FREE if ragged else None)
        wanted = sorted(t for r in rows for t in r.ids[-r.answer :])
        assert sorted(batch.targets.tolist()) == wanted
        assert len(set(batch.rows.tolist())) == len(wanted)
        # The token before each answer token stands where it is predicted from.
        before = {(r.ids[i - 1], r.ids[i]) for r in rows for i in range(len(r.ids) - r.answer, len(r.ids))}
        flat = batch.ids.flatten()
        assert {(int(flat[w]), int(t)) for w, t in zip(batch.rows, batch.targets, strict=True)} == before


@given(st.lists(st.integers(1, 80), min_size=1, max_size=40), st.floats(1, 1e6), st.integers(0, 20))
def test_bins_hold_every_row_once_and_never_cost_more(lengths, balance, shared_prefix):
    lines = bins(lengths, balance, shared_prefix)
    assert sorted(i for line in lines for i in line) == list(range(len(lengths)))

    def cost(lines):
        width = shared_prefix + max(sum(lengths[i] for i in line) for line in lines)
        return len(lines) * width * (1 + width / balance)

    assert cost(lines) <= cost([[i] for i in range(len(lengths))])


def test_rows_of_one_length_are_left_alone():
    assert bins([7] * 12, 1e6) == [[i] for i in range(12)]
    assert len(bins([7] * 12, 1e6, shared_prefix=10)) < 12  # unless they can share a soft prompt
