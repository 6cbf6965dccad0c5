"""Norms in fewer passes: the model's own bits forward, the same gradient, and nothing left behind."""

import pytest
import torch

from crosstune.models.fused import fused_norms
from tiny_models import DEVICE, FAMILIES, make_lm, random_ids


def norms(model):
    return [m for m in model.modules() if type(m).__name__.endswith("RMSNorm")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_bits_forward_and_the_true_gradient(family, dtype):
    model = make_lm(family).model.to(dtype)
    assert len(norms(model)) >= 7
    for norm in norms(model):
        with torch.no_grad():
            norm.weight.add_(torch.randn_like(norm.weight) * 0.3)
        x = torch.randn(2, 5, norm.weight.shape[0], device=DEVICE, dtype=dtype) * 3
        grad = torch.randn_like(x)
        found = []
        for fused in (False, True):
            leaf = x.clone().requires_grad_()
            if fused:
                with fused_norms(model):
                    assert "forward" in vars(norm)
                    out = norm(leaf)
            else:
                out = norm(leaf)
            out.backward(grad)
            found.append((out, leaf.grad))
        assert torch.equal(found[0][0], found[1][0])
        exact = x.double().requires_grad_()
        eps = getattr(norm, "eps", None) or norm.variance_epsilon
        weight = norm.weight.double() + (1 if family == "gemma3" else 0)
        (exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps) * weight).backward(grad.double())
        errors = [float((g.double() - exact.grad).norm() / exact.grad.norm()) for _, g in found]
        assert errors[1] < (1e-6 if dtype == torch.float32 else 4e-3)
        assert errors[1] <= 1.1 * errors[0] + 1e-8


def test_trained_and_unknown_norms_are_left_alone():
    model = make_lm("llama").model
    trained, odd = norms(model)[:2]
    trained.weight.requires_grad_(True)

    class OddRMSNorm(type(odd)):
        def forward(self, x):
            return super().forward(x) + 1

    odd.__class__ = OddRMSNorm
    with fused_norms(model):
        assert "forward" not in vars(trained)
        assert "forward" not in vars(odd)
        assert "forward" in vars(norms(model)[2])
    assert not any("forward" in vars(m) for m in model.modules())


def test_put_back_also_after_an_error():
    lm = make_lm("gemma3")
    ids = torch.tensor([random_ids(6)], device=DEVICE)
    before = lm.hidden(ids)
    with pytest.raises(RuntimeError, match="stop"), fused_norms(lm.model):
        raise RuntimeError("stop")
    assert not any("forward" in vars(m) for m in lm.model.modules())
    assert torch.equal(lm.hidden(ids), before)
