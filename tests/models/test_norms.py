"""Norms and rotation in fewer passes: the model's own bits, the same gradient, and nothing left behind."""

import sys
from contextlib import nullcontext

import pytest
import torch

from crosstune.models.fast.norms import fused_parts
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
        gradients = []
        for fused in (False, True):
            leaf = x.clone().requires_grad_()
            if fused:
                with fused_parts(model):
                    assert "forward" in vars(norm)
                    out = norm(leaf)
            else:
                out = norm(leaf)
            out.backward(grad)
            gradients.append((out, leaf.grad))
        assert torch.equal(gradients[0][0], gradients[1][0])
        exact = x.double().requires_grad_()
        eps = getattr(norm, "eps", None) or norm.variance_epsilon
        weight = norm.weight.double() + (1 if family == "gemma3" else 0)
        (exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps) * weight).backward(grad.double())
        errors = [float((g.double() - exact.grad).norm() / exact.grad.norm()) for _, g in gradients]
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
    with fused_parts(model):
        assert "forward" not in vars(trained)
        assert "forward" not in vars(odd)
        assert "forward" in vars(norms(model)[2])
    assert not any("forward" in vars(m) for m in model.modules())


def test_put_back_also_after_an_error():
    lm = make_lm("gemma3")
    ids = torch.tensor([random_ids(6)], device=DEVICE)
    before = lm.hidden(ids)
    with pytest.raises(RuntimeError, match="stop"), fused_parts(lm.model):
        raise RuntimeError("stop")
    assert not any("forward" in vars(m) for m in lm.model.modules())
    assert torch.equal(lm.hidden(ids), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_rotation_has_the_same_bits_and_the_true_gradient(family, dtype):
    model = make_lm(family).model
    file = sys.modules[type(model.get_decoder().layers[0].self_attn).__module__]
    plain, draw = file.apply_rotary_pos_emb, torch.Generator().manual_seed(1)

    def some(*shape):
        return torch.randn(*shape, generator=draw).to(DEVICE, dtype)

    # Heads stand behind tokens in memory, as a model hands them over. Sines whose halves differ: no symmetry.
    q, k = some(2, 7, 4, 16).transpose(1, 2), some(2, 7, 2, 16).transpose(1, 2)
    cos, sin, up = some(2, 7, 16), some(2, 7, 16), (some(2, 4, 7, 16), some(2, 2, 7, 16))
    results = []
    for inside in (False, True):
        leaves = [x.clone().requires_grad_() for x in (q, k)]
        with fused_parts(model) if inside else nullcontext():
            assert (file.apply_rotary_pos_emb is plain) != inside
            out = file.apply_rotary_pos_emb(*leaves, cos, sin)
        results.append((out, torch.autograd.grad(out, leaves, up)))
    assert file.apply_rotary_pos_emb is plain
    for ours, right in zip(results[1][0], results[0][0], strict=True):
        assert torch.equal(ours, right)
    for ours, right in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-6, atol=1e-6 if dtype == torch.float32 else 2e-2)


def test_a_rotation_of_another_kind_is_left_alone(monkeypatch):
    model = make_lm("llama").model
    file = sys.modules[type(model.get_decoder().layers[0].self_attn).__module__]

    def odd(q, k, cos, sin):
        return q * cos.unsqueeze(1), k * cos.unsqueeze(1)

    monkeypatch.setattr(file, "apply_rotary_pos_emb", odd)
    with fused_parts(model):
        assert file.apply_rotary_pos_emb is odd
