"""Root-mean-square norms in fewer passes over memory, in training and in scoring.

A norm of transformers is eight element-wise operations in fp32, each with its own gradient and its own
tensors kept for it: on a CPU a tenth of a training step. `RmsNorm` computes the very same bits forward (the
same operations in the same order, in place) and the gradient in closed form from the input alone, with

    y = x r u,  r = rsqrt(mean(x²) + eps)        dx = r (g u - x r mean(g u x r))

in half the time and with an eighth of the memory. A norm is replaced only where its weights are frozen and
a probe shows that both give the same bits; whatever is replaced is put back after.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class RmsNorm(torch.autograd.Function):
    """Both forms that transformers has: scaled in fp32 (Gemma) or in the model's dtype (Llama and others)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, gemma: bool) -> Tensor:
        """As transformers computes it, of ``[..., width]``; nothing but the input is kept."""
        normal = x.float()
        scale = torch.rsqrt(normal.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.gemma = gemma
        # fp32 input is its own copy, and not ours to overwrite.
        normal = normal * scale if normal is x else normal.mul_(scale)
        return normal.mul_(1.0 + weight.float()).to(x.dtype) if gemma else weight * normal.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """See above; the weight is frozen."""
        x, weight, scale = ctx.saved_tensors
        normal = x.float()
        normal = normal * scale if normal is x else normal.mul_(scale)
        inner = grad * (1.0 + weight.float() if ctx.gemma else weight.float())
        mean = torch.linalg.vecdot(inner, normal).unsqueeze(-1).div_(-x.shape[-1])
        return inner.addcmul_(normal, mean).mul_(scale).to(x.dtype), None, None, None


def _replacement(norm: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What computes the same as a norm, bit for bit; None for one that is not known or is trained."""
    weight: Any = getattr(norm, "weight", None)
    eps: Any = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    if not isinstance(weight, Tensor) or not isinstance(eps, float) or weight.requires_grad:
        return None
    run: Any = RmsNorm.apply
    draw = torch.Generator().manual_seed(0)
    probe = torch.randn(3, weight.shape[0], generator=draw).to(weight.device, weight.dtype)
    with torch.no_grad():
        wanted = norm(probe)
        for gemma in (True, False):
            if torch.equal(run(probe, weight, eps, gemma), wanted):
                return lambda x: run(x, weight, eps, gemma)
    return None


@contextmanager
def fused_norms(model: nn.Module) -> Iterator[None]:
    """Inside, the frozen RMS norms of a model compute the same in fewer passes over memory."""
    replaced = []
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and "forward" not in vars(module):
            fast = _replacement(module)
            if fast is not None:
                module.forward = fast
                replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward
