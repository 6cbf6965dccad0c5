"""Gradient checkpointing changes memory and nothing else."""

import pytest
import torch

from crosstune.models.attention.choose import BatchForm
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import _training_mode
from crosstune.training.objectives import answer_loss
from crosstune.training.settings import TrainSettings
from tiny_models import DEVICE, TRAINED, WINDOW, attach, collated, near, random_ids


def switched_on(lm):
    return any(getattr(m, "gradient_checkpointing", False) for m in lm.model.modules())


def loss_and_gradients(lm, method, checkpointing):
    rows = [TrainingRow(tuple(random_ids(2 * WINDOW + i, i)), 2) for i in range(3)]
    with _training_mode(method, TrainSettings(gradient_checkpointing=checkpointing), seed=0):
        assert switched_on(lm) == checkpointing
        loss = answer_loss(lm, collated(rows, torch.device(DEVICE), form=BatchForm.PADDING_FREE))
        loss.backward()
        method.after_backward()
    assert not switched_on(lm)
    assert not lm.model.training
    gradients = {name: p.grad.clone() for name, p in method.parameters().items()}
    for p in method.parameters().values():
        p.grad = None
    return loss, gradients


@pytest.mark.parametrize("case", [*TRAINED, "lora-dropout"])
def test_same_loss_and_gradients(tiny_lm, family, case):
    lm = tiny_lm(family)
    method = attach(lm, case)
    loss, gradients = loss_and_gradients(lm, method, False)
    again, checkpointed = loss_and_gradients(lm, method, True)
    # Only without checkpointing does the top layer compute the answers' rows alone: products of fewer rows
    # round otherwise.
    near("checkpointed loss", again, loss)
    for name, gradient in gradients.items():
        near("checkpointed gradients", checkpointed[name], gradient)


def test_backward_stops_at_the_lowest_trained_layer(tiny_lm):
    """Also after a run with checkpointing, which makes transformers ask for gradients at the embeddings."""
    lm = tiny_lm("llama")
    for checkpointing in (True, False):
        method = attach(lm, "prefix-hidden", layers=1)
        loss_and_gradients(lm, method, checkpointing)
        below = {}
        handle = lm.decoder.layers[1].register_forward_hook(lambda m, i, out, b=below: b.update(out=out))
        hidden = lm.hidden(torch.tensor([random_ids(5)], device=DEVICE))
        handle.remove()
        method.detach()
        assert hidden.requires_grad
        assert not below["out"].requires_grad
