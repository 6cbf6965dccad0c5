"""The top layer for answer rows alone: the same losses and gradients, for every method and family."""

from contextlib import nullcontext

import pytest
import torch

from crosstune.methods import METHODS
from crosstune.models.top_layer import read_rows_only
from crosstune.training.batches import Row, collate
from crosstune.training.loss import answer_loss
from tiny_models import DEVICE, FAMILIES, make_lm, random_ids

CASES = [
    ("lora", {"target_modules": ("q_proj", "v_proj", "o_proj", "down_proj")}),
    ("prefix", {"space": "hidden", "length": 3}),
    ("prefix", {"space": "kv", "length": 3, "layers": 1}),
    ("llama-adapter", {"length": 3}),
    ("soft-prompt", {"length": 3}),
    ("full", {}),
]
# Of few answers, as in a choice task, and one of more than one token.
ROWS = [Row(tuple(random_ids(n, seed=n)), answer) for n, answer in ((9, 1), (5, 1), (14, 3), (7, 1))]


def one_step(lm, method, batch, read):
    """Loss, gradients, and rows that the top layer's MLP read."""
    seen = []
    hook = lm.decoder.layers[-1].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[:-1].numel())
    )
    with read(lm):
        loss = answer_loss(lm, batch)
        loss.backward()
    hook.remove()
    method.after_backward()
    grads = {name: p.grad.clone() for name, p in method.parameters().items()}
    for p in method.parameters().values():
        p.grad = None
    return loss.detach(), grads, seen


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
    trunk = 0 if lm.soft_prompt is None else len(lm.soft_prompt)
    batch = collate(ROWS, 0, DEVICE, trunk=trunk, ragged=ragged)
    loss, grads, seen = one_step(lm, method, batch, lambda _: nullcontext())
    fast = one_step(lm, method, batch, lambda lm: read_rows_only(lm, batch.rows, *batch.ids.shape))
    lines, width = batch.ids.shape
    assert (seen[-1], fast[2][-1]) == (lines * (trunk + width), len(batch.rows))
    torch.testing.assert_close(fast[0], loss, rtol=1e-5, atol=1e-6)
    assert set(fast[1]) == set(grads)
    for key, grad in grads.items():
        torch.testing.assert_close(fast[1][key], grad, rtol=1e-3, atol=1e-5 * (1 + float(grad.abs().max())))
    method.detach()
    assert not any("forward" in vars(m) for m in lm.model.modules())


def test_with_most_rows_read_the_layer_stays_as_it_is():
    lm = make_lm("gemma3")
    ids = torch.tensor([random_ids(6)], device=DEVICE)
    before = lm.hidden(ids)
    with read_rows_only(lm, torch.arange(4, device=DEVICE), 1, 6):
        assert torch.equal(lm.hidden(ids), before)
    with read_rows_only(lm, torch.arange(2, device=DEVICE), 1, 6):
        assert not torch.equal(lm.hidden(ids), before)
    with pytest.raises(RuntimeError, match="stop"), read_rows_only(lm, ids[0, :2], 1, 6):
        raise RuntimeError("stop")
    assert torch.equal(lm.hidden(ids), before)
