"""LoRA's update in few passes: ``result + s (x A') B'`` with the gradients written out, and DoRA's.

PEFT's layer computes the same with a tensor of its own for every operation, and products in orders that
oneDNN and MKL are slow at (``[out, rows] @ [rows, rank]``: 13 times as long as its transpose). Here whatever
is as narrow as the rank lies with its long side in a row, ``[rank, ...]``: two to four times as fast.
Everything with an inner dimension of the rank stays in fp32: a CPU's bf16 kernels are slow there. A GPU's are
not: there products are in 16 bits, A and B rounded for them alone (`NARROW`). Hooked in where PEFT lets a
variant of LoRA compute its forward.

DoRA (Liu et al. 2024, arXiv 2402.09353) scales the sum, bias left out, by ``f = m / |W + s B A|``, row by
row, the norms without gradients. They need no matrix of W's size:

    |W + s B A|² = |W|² (1 + (2 s B . (W A') + s² (B A A') . B) / |W|²)

with ``|W|`` computed once and ``W A'`` by the layer itself. Where B is 0 they are ``|W|``, bit for bit.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils.other import transpose
from torch import Tensor, nn

from crosstune.models.fast.products import Sum, sum_of
from crosstune.models.proof import FastWay


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        result: Tensor,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        scale: float,
        factor: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        rows = x.flatten(0, -2)
        inner = a @ rows.float().T
        # Of a plain update the result is not needed for gradients.
        ctx.save_for_backward(rows, inner, a, b, factor, None if factor is None else result, bias)
        ctx.scale = scale
        # fp32 results are their own copy, and not ours to overwrite. What is returned is no view: some models
        # change it in place (OLMo's `clip_qkv`).
        copied = result.dtype == torch.float32
        updated = (
            result.clone(memory_format=torch.contiguous_format) if copied else result.float().contiguous()
        )
        if factor is not None:
            b = factor[:, None] * b
            updated.mul_(factor)
            if bias is not None:
                updated.addcmul_(bias.float(), factor - 1, value=-1)
        updated.view(-1, updated.shape[-1]).addmm_(inner.T, b.T, alpha=scale)
        return updated.to(result.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, a, b, factor, result, bias = ctx.saved_tensors
        above = grad.flatten(0, -2).float()
        scaled = b if factor is None else factor[:, None] * b
        grad_inner = (scaled.T.contiguous() @ above.T).mul_(ctx.scale)
        grad_b = (inner @ above).mul_(ctx.scale).T
        grad_a = grad_inner @ rows.float()
        needed = ctx.needs_input_grad[1]
        grad_x = (grad_inner.T @ a).to(rows.dtype).view(*grad.shape[:-1], -1) if needed else None
        if factor is None:
            return grad, grad_x, grad_a, grad_b, None, None, None
        grad_factor = (above * result.flatten(0, -2)).sum(0)
        if bias is not None:
            grad_factor -= bias * above.sum(0)
        grad_factor += (grad_b * b).sum(1)
        grad_result = (grad * factor).to(grad.dtype) if ctx.needs_input_grad[0] else None
        return grad_result, grad_x, grad_a, grad_b * factor[:, None], None, grad_factor, None


class _NarrowUpdate(torch.autograd.Function):
    """The update in 16-bit products, whose sums a GPU keeps in fp32: no fp32 copies of ``[rows, ...]``."""

    @staticmethod
    def forward(
        ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, sums: Sum | None = None
    ) -> Tensor:
        rows, a, b = x.flatten(0, -2), a.to(x.dtype), b.to(x.dtype)
        inner = rows @ a.T
        ctx.save_for_backward(rows, inner, a, b)
        ctx.scale, ctx.sum = scale, sums
        updated = torch.empty_like(result, memory_format=torch.contiguous_format)
        torch.addmm(result.flatten(0, -2), inner, b.T, alpha=scale, out=updated.view(-1, updated.shape[-1]))
        return updated

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, a, b = ctx.saved_tensors
        above = grad.flatten(0, -2)
        grad_inner = (above @ b).mul_(ctx.scale)
        grad_a, grad_b = grad_inner.T @ rows, above.T @ inner
        grad_x = None
        if ctx.sum is not None:
            ctx.sum.add(grad_inner, a)
        elif ctx.needs_input_grad[1]:
            grad_x = (grad_inner @ a).view(*grad.shape[:-1], -1)
        return grad, grad_x, grad_a.float(), grad_b.float().mul_(ctx.scale), None, None


NARROW = FastWay(
    fast="in 16-bit products",
    plain="LoRA's update is computed in fp32",
    tolerance=0.03,
    because="a bf16 number is rounded by 0.4%, here at two more places",
    part="fusing",
)


def _narrow(x: Tensor, result: Tensor) -> bool:
    """Whether the update is computed in 16 bits: on a GPU; a CPU is slow in narrow bf16 products."""
    if x.device.type != "cuda" or x.dtype != result.dtype or x.dtype == torch.float32:
        return False
    return NARROW.trusted((x.device, x.dtype), lambda: compared(x.device, x.dtype))


def compared(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """The update and its four gradients, each beside that in fp32 products."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 24), (2, 5, 16), (4, 16), (24, 4))
    result, x, a, b = (torch.randn(shape, generator=draw).to(device) for shape in shapes)
    sides = []
    for way in (_NarrowUpdate, _Update):
        leaves = [result.to(dtype), x.to(dtype), a.clone(), b.clone()]
        run: Any = way.apply
        with torch.enable_grad():
            y = run(*[leaf.requires_grad_() for leaf in leaves], 0.5)
            mixture = torch.linspace(-1, 1, y.numel(), device=device, dtype=dtype).view_as(y)
            sides.append([y, *torch.autograd.grad((y * mixture).sum(), leaves)])
    return zip(*sides, strict=True)


class Update:
    """What PEFT calls a variant of LoRA: how a layer's forward and merge go."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """The base layer's result with the update added, in the result's dtype."""
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        dropout = module.lora_dropout[active_adapter]
        if not isinstance(dropout, nn.Identity):
            x = dropout(x.float())
        scale = module.scaling[active_adapter]
        narrow, wide = cast(Any, _NarrowUpdate.apply), cast(Any, _Update.apply)
        updated: Tensor = (
            narrow(result, x, a, b, scale, sum_of(x)) if _narrow(x, result) else wide(result, x, a, b, scale)
        )
        return updated

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Add the update to the base weight in place, as PEFT does without a variant."""
        orig_weight.data += module.get_delta_weight(active_adapter)


class Dora(DoraLinearVariant):
    """DoRA's forward; it merges as PEFT has it."""

    def __init__(self, module: Any, adapter: str) -> None:
        """For one layer of PEFT, of whose weight's rows the norms are computed here.

        A magnitude that is not trained yet becomes the norm in fp32: PEFT's has the weight's dtype.
        """
        weight = transpose(module.get_base_layer().weight.detach(), module.fan_in_fan_out)
        self.rows = torch.linalg.norm(weight.float(), dim=1)
        if not module.lora_B[adapter].weight.any():
            module.lora_magnitude_vector[adapter].weight.data = self.rows.clone()

    def forward(  # type: ignore[override]  # PEFT's are static; it calls those of an instance
        self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        """The base layer's result with the update added, scaled, in the result's dtype."""
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        base, scale = module.get_base_layer(), module.scaling[active_adapter]
        with torch.no_grad():
            products = base(a.to(result.dtype)).float()
            if base.bias is not None:
                products -= base.bias
            cross = torch.linalg.vecdot(b, products.T)
            squared = torch.linalg.vecdot(b @ (a @ a.T), b)
            change = (2 * scale * cross + scale**2 * squared) / self.rows.square()
            norms = self.rows * (1 + change).clamp(min=0).sqrt()
        factor = module.lora_magnitude_vector[active_adapter].weight / norms
        run: Any = _Update.apply
        updated: Tensor = run(result, x, a, b, scale, factor, base.bias)
        return updated


def use_update(module: Any, adapter: str) -> bool:
    """Let a layer of PEFT compute its update with `Update` or `Dora`.

    Returns:
        Whether it does; a layer of another kind stays as it is.
    """
    if type(module) is not Linear or module.lora_bias[adapter]:
        return False
    variants: dict[str, Any] = module.lora_variant
    if adapter not in variants:
        variants[adapter] = Update
    elif type(variants[adapter]) is DoraLinearVariant and isinstance(
        module.lora_dropout[adapter], nn.Identity
    ):
        variants[adapter] = Dora(module, adapter)
    else:
        return False
    # The cast to fp32 is part of the update, so that the backward pass keeps the input as it came.
    module.cast_input_dtype_enabled = False
    return True
