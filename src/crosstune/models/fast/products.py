"""Products that read one tensor add up their gradients of it themselves.

Queries, keys and values are products of what a norm returned, a gate and what it gates of what the next one
did, and LoRA's update reads it too. Autograd adds a gradient for each, in passes of their own: of Llama 3.1
8B 123 KB a token and layer. Here each product adds to one sum as it is computed (``addmm`` in place), which
the function that returned the tensor takes up. The sum is found on that function's node in the graph: what
was changed or viewed since has another node, and autograd adds its gradients. Whoever asks for the gradient
of that tensor itself, or hooks on it, would miss what is in the sum; nothing in this package does.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Sum:
    """The gradient of one tensor, as far as products have added to it in a backward pass."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._task = -1  # the backward pass

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add ``left @ right``, ``[rows, width]``."""
        task = torch._C._current_graph_task_id()
        if self._rows is None or task != self._task:
            self._rows, self._task = left @ right, task
        else:
            self._rows.addmm_(left, right)

    def take(self, other: Tensor | None, shape: torch.Size) -> Tensor:
        """The whole gradient in that shape, with what ``other`` functions have of it; it starts anew."""
        task = torch._C._current_graph_task_id()
        rows, self._rows = self._rows if task == self._task else None, None
        if rows is None:
            assert other is not None, "no function had a gradient"
            return other.reshape(shape)
        return rows.view(shape) if other is None else rows.view(shape).add_(other.view(shape))


def sum_of(x: Tensor) -> Sum | None:
    """Where products of a tensor add their gradients of it; None where autograd does."""
    sums: Sum | None = getattr(x.grad_fn, "sum", None) if torch.is_grad_enabled() else None
    return sums


class _Product(torch.autograd.Function):
    """Of a frozen layer; nothing of ``x`` is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sums: Sum) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.sum = sums
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        (weight,) = ctx.saved_tensors
        ctx.sum.add(grad.flatten(0, -2), weight)
        return None, None, None, None


def adding(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The forward of a linear layer, which adds to a sum of gradients where there is one."""
    run: Any = _Product.apply

    def forward(x: Tensor) -> Tensor:
        sums = sum_of(x)
        if sums is None or any(parameter.requires_grad for parameter in module.parameters()):
            return functional.linear(x, module.weight, module.bias)
        return run(x, module.weight, module.bias, sums)  # type: ignore[no-any-return]

    return forward


def compared(
    norm: Callable[[Tensor], Tensor], width: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """The gradient of what a ``norm`` read whose result goes three ways, and that which autograd adds."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(9, width, generator=draw).to(device, dtype).requires_grad_()
    layers = [nn.Linear(width, n, bias=False, device=device, dtype=dtype) for n in (24, 8)]
    for layer in layers:
        layer.weight.data = torch.randn(layer.weight.shape, generator=draw).to(device, dtype)
        layer.requires_grad_(False)

    def gradient(ways: list[Callable[[Tensor], Tensor]]) -> Tensor:
        with torch.enable_grad():
            y = norm(x)
            outs = [out.float().square().sum() for out in (y, *(way(y) for way in ways))]
            (grad,) = torch.autograd.grad(torch.stack(outs).sum(), x)
        return grad

    yield gradient([adding(layer) for layer in layers]), gradient(list(layers))
