"""The loss over answer rows only, against the one transformers computes over everything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.outputs.registry import tokenize
from crosstune.outputs.rows import TrainingRow
from crosstune.training import objectives as loss_module
from crosstune.training.objectives import answer_loss
from tiny_models import DEVICE, attach, collated, make_lm, near, random_ids, row

ROWS = [
    TrainingRow(tuple(random_ids(n, seed=n)), answer)
    for n, answer in [(5, 1), (12, 4), (17, 2), (2, 1), (17, 16)]
]


def gradients(method):
    out = {name: p.grad.clone() for name, p in method.parameters().items()}
    for p in method.parameters().values():
        p.grad = None
    return out


def hugging_face_loss(model, rows):
    """Sum over the rows of transformers' own loss, labels -100 but at the answers."""
    length = max(len(r.ids) for r in rows)
    ids = torch.tensor([[*r.ids, *[0] * (length - len(r.ids))] for r in rows], device=DEVICE)
    labels = torch.full_like(ids, -100)
    for i, r in enumerate(rows):
        labels[i, len(r.ids) - r.answer : len(r.ids)] = torch.tensor(r.ids[-r.answer :])
    mean = model(input_ids=ids, labels=labels, use_cache=False).loss
    return mean * sum(r.answer for r in rows)


@pytest.mark.parametrize("case", ["prefix-hidden", "lora", "full"])
def test_equals_transformers_loss(tiny_lm, family, case):
    lm = tiny_lm(family)
    method = attach(lm, case)
    loss = answer_loss(lm, collated(ROWS, torch.device(DEVICE)))
    loss.backward()
    method.after_backward()
    ours = gradients(method)
    # A joint prefix starts the text at its own length, which transformers' forward has to be told.
    lm.model.register_forward_pre_hook(
        lambda m, args, kw: (
            args,
            kw | {"position_ids": torch.arange(17, device=DEVICE)[None] + lm.adaptation.first_position},
        ),
        with_kwargs=True,
    )
    reference = hugging_face_loss(lm.model, ROWS)
    reference.backward()
    method.after_backward()
    near("answer loss = transformers", loss, reference, 1e-5)
    for name, gradient in gradients(method).items():
        near("answer loss gradients = transformers", ours[name], gradient, 1e-5)


@pytest.mark.parametrize("case", ["soft-prompt", "prefix-kv", "llama-adapter", "full"])
def test_in_pieces_equals_in_one(tiny_lm, family, case, monkeypatch):
    lm = tiny_lm(family)
    method = attach(lm, case)
    batch = collated(ROWS, torch.device(DEVICE))
    results = []
    for rows_at_once in (256, 4):
        monkeypatch.setattr(loss_module, "ROWS_AT_ONCE", rows_at_once)
        loss = answer_loss(lm, batch)
        loss.backward()
        method.after_backward()
        results.append((loss, gradients(method)))
    near("loss in pieces", results[1][0], results[0][0], 1e-6)
    for name, gradient in results[0][1].items():
        near("loss in pieces, gradients", results[1][1][name], gradient, 1e-6)


LM = make_lm("qwen3")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 20), st.integers(1, 19)), min_size=1, max_size=5), st.integers(0, 9))
def test_padded_batch_equals_one_row_at_a_time(shapes, seed):
    """Loss of a padded batch is the sum over its rows, each scored by a full softmax on its own."""
    rows = [
        TrainingRow(tuple(random_ids(n, seed + i)), min(answer, n - 1))
        for i, (n, answer) in enumerate(shapes)
    ]
    with torch.no_grad():
        ours = answer_loss(LM, collated(rows, torch.device(DEVICE)))
        alone = []
        for r in rows:
            scores = torch.log_softmax(LM.logits(LM.hidden(row(r.ids))[0]), -1)
            alone += [-scores[i - 1, r.ids[i]] for i in range(len(r.ids) - r.answer, len(r.ids))]
    near("padded loss = row by row", ours, torch.stack(alone).sum(), 1e-5)


def test_rows_of_examples():
    """Prompt ids, then the answer's; an end token behind free answers only."""
    examples = [Example("1", "en", "the hat:", ("yes he is", "no")), Example("2", "en", "tin:", ("in",))]
    prompts = LM.tokens.prompts([e.prompt for e in examples])
    answer = LM.tokens.answer("yes he is")
    assert len(answer) > 1
    assert LM.tokenizer.decode(answer) == " yes he is"
    choice, free = tokenize(LM, examples, "choice"), tokenize(LM, examples, "generation")
    assert choice[0] == TrainingRow((*prompts[0], *answer), len(answer))
    assert free[0] == TrainingRow((*prompts[0], *answer, 2), len(answer) + 1)
    assert tokenize(LM, examples, "choice", first_token=True)[0] == TrainingRow((*prompts[0], answer[0]), 1)
    # How choices are compared says nothing of written answers.
    assert tokenize(LM, examples, "generation", first_token=True)[0] == free[0]
    assert prompts[0][0] == LM.tokenizer.bos_token_id


def test_choice_loss_equals_one_row_at_a_time(tiny_lm, family):
    """Against log-softmax over each row's own choices, taken from the whole vocabulary's scores."""
    lm = tiny_lm(family)
    choices = [(5, 9, 70), (9, 11), (70, 5, 9), (3, 199), (150, 4, 3)]
    rows = [
        TrainingRow((*random_ids(n, seed=n), some[1]), 1, some)
        for n, some in zip([4, 11, 16, 1, 16], choices, strict=True)
    ]
    method = attach(lm, "prefix-hidden")
    balance = 1000.0  # several rows a line
    loss = answer_loss(lm, collated(rows, torch.device(DEVICE), balance))
    loss.backward()
    method.after_backward()
    ours = gradients(method)
    alone = torch.zeros((), device=DEVICE)
    for entry in rows:
        scores = lm.logits(lm.hidden(row(entry.ids[:-1]))[0, -1:])[0]
        offered = scores[torch.tensor(entry.choices, device=DEVICE)]
        alone = alone - offered.log_softmax(0)[entry.choices.index(entry.ids[-1])]
    alone.backward()
    method.after_backward()
    near("choice loss = one row at a time", loss, alone, 1e-5)
    for name, gradient in gradients(method).items():
        near("choice loss gradients = one row at a time", ours[name], gradient, 1e-5)


def test_choices_that_start_alike_are_refused(tiny_lm):
    lm = tiny_lm("llama")
    example = Example("1", "en", "say:", ("yes",), ("yes", "yes sir"))
    with pytest.raises(UserError, match="two labels start with the same token"):
        tokenize(lm, [example], "choice", first_token=True, among_choices=True)
