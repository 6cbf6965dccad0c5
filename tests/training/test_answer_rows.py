"""The top layer for answer rows alone: the same losses and gradients, for every method and family."""

import pytest
import torch

from crosstune.methods import METHODS
from crosstune.models.attention.choose import BatchForm
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import _training_mode
from crosstune.training.objectives import answer_loss
from crosstune.training.settings import TrainSettings
from tiny_models import DEVICE, FAMILIES, collated, make_lm, random_ids

CASES = [
    ("lora", {"target_modules": ("q_proj", "v_proj", "o_proj", "down_proj")}),
    ("prefix", {"space": "hidden", "length": 3}),
    ("prefix", {"space": "kv", "length": 3, "layers": 1}),
    ("llama-adapter", {"length": 3}),
    ("soft-prompt", {"length": 3}),
    ("full", {}),
]
# Of few answers, as in a choice task, and one of more than one token.
ROWS = [TrainingRow(tuple(random_ids(n, seed=n)), answer) for n, answer in ((9, 1), (5, 1), (14, 3), (7, 1))]


def one_step(lm, method, batch):
    """Loss, gradients, and rows that the top layer's MLP read."""
    seen = []
    hook = lm.decoder.layers[-1].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[:-1].numel())
    )
    loss = answer_loss(lm, batch)
    loss.backward()
    hook.remove()
    method.after_backward()
    grads = {name: p.grad.clone() for name, p in method.parameters().items()}
    for p in method.parameters().values():
        p.grad = None
    return loss.detach(), grads, seen[0]


@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize(("name", "config"), CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_all_rows(family, name, config, ragged):
    lm = make_lm(family)
    method = METHODS[name](METHODS[name].Config(**config))
    method.attach(lm, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in method.parameters().values():
            p.add_(torch.randn(p.shape, generator=draw).to(p.device) * 0.05)
    method.after_step()
    shared_prefix = lm.adaptation.front
    batch = collated(
        ROWS, DEVICE, shared_prefix=shared_prefix, form=BatchForm.PADDING_FREE if ragged else None
    )
    fast, fast_grads, read = one_step(lm, method, batch)
    lm.skips_unread_rows = False
    loss, grads, all_read = one_step(lm, method, batch)
    assert (read, all_read) == (len(batch.rows), len(batch.ids) * shared_prefix + batch.ids.numel())
    torch.testing.assert_close(fast, loss, rtol=1e-5, atol=1e-6)
    assert set(fast_grads) == set(grads)
    for key, grad in grads.items():
        torch.testing.assert_close(
            fast_grads[key], grad, rtol=1e-3, atol=1e-5 * (1 + float(grad.abs().max()))
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpointed_layer_computes_all_rows(family):
    lm = make_lm(family)
    method = METHODS["lora"]()
    method.attach(lm, seed=0)
    batch = collated(ROWS, DEVICE, form=BatchForm.PADDING_FREE)
    gradients = []
    for checkpointing in (False, True):
        with _training_mode(method, TrainSettings(gradient_checkpointing=checkpointing), seed=0):
            gradients.append(one_step(lm, method, batch))
    (loss, grads, read), (again, recomputed, all_read) = gradients
    assert (read, all_read) == (len(batch.rows), batch.ids.numel())
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=1e-6)
    for key, grad in grads.items():
        torch.testing.assert_close(
            recomputed[key], grad, rtol=1e-3, atol=1e-5 * (1 + float(grad.abs().max()))
        )
