"""LoRA's update in few passes: ``result + s (x A') B'`` with the gradients written out.

PEFT's layer computes the same with a tensor of its own for every operation, and products in orders that
oneDNN and MKL are slow at (``[out, rows] @ [rows, rank]``: 13 times as long as its transpose). Here whatever
is as narrow as the rank lies with its long side in a row, ``[rank, ...]``: two to four times as fast.
Everything with an inner dimension of the rank stays in fp32: bf16 kernels are slow there, and small steps of
A and B would be lost. Hooked in where PEFT lets a variant of LoRA compute its forward.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.flatten(0, -2)
        inner = a @ rows.float().T
        ctx.save_for_backward(rows, inner, a, b)
        ctx.scale = scale
        # fp32 results are their own copy, and not ours to overwrite. What is returned is no view: some models
        # change it in place (OLMo's `clip_qkv`).
        copied = result.dtype == torch.float32
        updated = (
            result.clone(memory_format=torch.contiguous_format) if copied else result.float().contiguous()
        )
        updated.view(-1, updated.shape[-1]).addmm_(inner.T, b.T, alpha=scale)
        return updated.to(result.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, a, b = ctx.saved_tensors
        above = grad.flatten(0, -2).float()
        grad_inner = (b.T.contiguous() @ above.T).mul_(ctx.scale)
        grad_b = (inner @ above).mul_(ctx.scale).T
        grad_a = grad_inner @ rows.float()
        needed = ctx.needs_input_grad[1]
        grad_x = (grad_inner.T @ a).to(rows.dtype).view(*grad.shape[:-1], -1) if needed else None
        return grad, grad_x, grad_a, grad_b, None


class Update:
    """What PEFT calls a variant of LoRA: how a layer's forward and merge go."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """The base layer's result with the update added, in the result's dtype."""
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        dropout = module.lora_dropout[active_adapter]
        if not isinstance(dropout, nn.Identity):
            x = dropout(x.float())
        run: Any = _Update.apply
        updated: Tensor = run(result, x, a, b, module.scaling[active_adapter])
        return updated

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Add the update to the base weight in place, as PEFT does without a variant."""
        orig_weight.data += module.get_delta_weight(active_adapter)


def use_update(module: Any, adapter: str) -> None:
    """Let a layer of PEFT compute its update with `Update`; one that is not plain stays as it is."""
    if type(module) is not Linear or module.lora_bias[adapter] or adapter in module.lora_variant:
        return
    variants: dict[str, Any] = module.lora_variant
    variants[adapter] = Update
    # The cast to fp32 is part of the update, so that the backward pass keeps the input as it came.
    module.cast_input_dtype_enabled = False
