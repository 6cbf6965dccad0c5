"""On a GPU: norms, rotation and gates as one compiled kernel each, forward and backward.

In transformers these are dozens of passes over memory, many in fp32, which keep tensors of their own: with
LoRA's update 40% of a step of 8B on an H200. Here each is a function of tensors and its gradient in closed
form, and ``torch.compile`` makes one kernel of it, once for all layers:

    norm    y = x r u,  r = rsqrt(mean(x²) + eps)       keeps x and r
    turn    y = x cos + (-x2, x1) sin                    keeps nothing but cosines and sines
    gate    y = act(g) u                                 keeps g and u; act(g) is made again

A weight of a norm may be trained. Each is compared with the module it stands for, forward and backward,
before its first use, and not used where it differs or is switched off (``CROSSTUNE_GPU_OFF=fusing``). What
cannot be compiled is computed operation by operation, and keeps as little. A recorded step of writing that
fails with them is recorded once more without (`crosstune.models.fast.graphs`).

What they return is not kept for the backward pass where a product after them needs it (LoRA's input, the
inputs of trained weights): it is made again from what they keep (`crosstune.models.fast.remade`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from crosstune.errors import first_line
from crosstune.models.fast.layers import in_place_of
from crosstune.models.fast.norms import fused_parts, rotated_by
from crosstune.models.fast.products import Sum, adding, compared
from crosstune.models.fast.remade import made_again, made_by
from crosstune.models.memory.machine import ran_out
from crosstune.models.proof import FastWay
from crosstune.models.protocol import Model

FUSED = FastWay(
    fast="in closed form",
    plain="norms, rotation and gates are transformers' own",
    tolerance=0.02,
    because="a bf16 number is rounded by 0.4%, and a kernel rounds once where several operations round each",
    part="fusing",
)
COMPILED = FastWay(
    fast="in one kernel",
    plain="norms, rotation or gates are computed operation by operation",
    tolerance=FUSED.tolerance,
    because=FUSED.because,
    part="fusing",
)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLUActivation": functional.silu,
    "SiLU": functional.silu,
    "GELUTanh": lambda g: functional.gelu(g, approximate="tanh"),
}
"""By the name of its class."""
_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SiLUActivation": torch.ops.aten.silu_backward,
    "SiLU": torch.ops.aten.silu_backward,
    "GELUTanh": lambda grad, g: torch.ops.aten.gelu_backward(grad, g, approximate="tanh"),
}

_BY_OPERATION = ContextVar("computed operation by operation", default=False)


def norm(x: Tensor, weight: Tensor, eps: float, gemma: bool) -> tuple[Tensor, Tensor]:
    """An RMS norm of ``[rows, width]``, and r ``[rows, 1]``; ``gemma`` multiplies by 1 + weight."""
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    normal = x.float() * scale
    y = (normal * (1.0 + weight.float())).to(x.dtype) if gemma else weight * normal.to(x.dtype)
    return y, scale


def norm_gradient(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, gemma: bool) -> Tensor:
    """Of x: ``r (g u - x r² mean(g u x))``."""
    wide, factor = x.float(), 1.0 + weight.float() if gemma else weight.float()
    inner = grad.float() * factor
    mean = (inner * wide).mean(-1, keepdim=True)
    return ((inner - wide * mean * scale.square()) * scale).to(x.dtype)


def norm_slopes(grad: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    """Of the weight, fp32."""
    return (grad.float() * (x.float() * scale)).sum(0)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``x cos + rotate_half(x) sin`` of ``[tokens, heads, head_dim]`` and ``[tokens, head_dim]``."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def turn_gradient(grad: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Of x: of one half through the sines of the other."""
    first, second = (grad * sin[:, None]).chunk(2, -1)
    return grad * cos[:, None] + torch.cat([second, -first], -1)


def gate(g: Tensor, u: Tensor, kind: str) -> Tensor:
    """``act(g) u`` of ``[rows, inner]``."""
    return ACTIVATIONS[kind](g) * u


def gate_gradient(grad: Tensor, g: Tensor, u: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Of g and u."""
    return _SLOPES[kind](grad * u, g), grad * ACTIVATIONS[kind](g)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One of the functions above as a kernel; compiled when it is first called, for any number of rows.

    Where that fails, then or later, the function itself computes from there on.
    """
    kernel = torch.compile(function, fullgraph=True)
    failed: list[bool] = []

    def run(*args: Any) -> Any:
        if not failed and not _BY_OPERATION.get():
            try:
                return kernel(*map(_for_any_rows, args))
            except Exception as error:  # of any class, as in `proof`
                if ran_out(error):
                    raise
                failed.append(True)
                COMPILED.tell(f"{function.__name__}: {first_line(error)}")
        return function(*args)

    return run


@contextmanager
def operation_by_operation() -> Iterator[None]:
    """Inside, no kernel is compiled or used: PyTorch refuses them where each operation is to be seen."""
    token = _BY_OPERATION.set(True)
    try:
        yield
    finally:
        _BY_OPERATION.reset(token)


def in_use(model: nn.Module) -> bool:
    """Whether a part of the model is computed by what is here."""
    return any(getattr(vars(m).get("forward"), "__module__", "") == __name__ for m in model.modules())


def _for_any_rows(x: Any) -> Any:
    """What PyTorch does not compile anew for: rows of another number, and tensors with gradients or without.

    It gives up after eight times, which a rotation reached in its second step.
    """
    if isinstance(x, Tensor):
        x = x.detach()
        if x.dim() > 1:
            torch._dynamo.maybe_mark_dynamic(x, 0)
    return x


def _shaped(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the shape of ``x``, and not as a view, which autograd would let nobody change in place."""
    return torch.ops.aten._unsafe_view(y, x.shape)  # type: ignore[no-any-return]


def _norm_again(*args: Any) -> Tensor:
    return compiled(norm)(*args)[0]  # type: ignore[no-any-return]


def _gate_again(*args: Any) -> Tensor:
    return compiled(gate)(*args)  # type: ignore[no-any-return]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, gemma: bool) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y, scale = compiled(norm)(rows, weight, eps, gemma)
        if any(ctx.needs_input_grad):
            made_by(y, partial(_norm_again, rows, weight, eps, gemma))
        ctx.save_for_backward(rows, weight, scale)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.gemma, ctx.sum = x.shape, gemma, Sum()
        return _shaped(y, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        above, slopes = ctx.sum.take(grad, x.shape), None
        if ctx.needs_input_grad[1]:
            slopes = compiled(norm_slopes)(above, x, scale).to(weight.dtype)
        of_x = compiled(norm_gradient)(above, x, weight, scale, ctx.gemma).view(ctx.shape)
        return of_x, slopes, None, None


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(turn, x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _turned(turn_gradient, grad, *ctx.saved_tensors), None, None


def _turned(function: Callable[..., Tensor], x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`turn` or its gradient, of ``[texts, heads, tokens, head_dim]``: they are held by tokens."""
    tokens = x.transpose(1, 2)
    cos, sin = (y.expand(len(x), -1, -1).reshape(-1, y.shape[-1]) for y in (cos, sin))
    out = compiled(function)(tokens.reshape(-1, *tokens.shape[2:]), cos, sin)
    return out.view(tokens.shape).transpose(1, 2)  # type: ignore[no-any-return]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, u: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(g, u)
        ctx.set_materialize_grads(False)
        ctx.kind, ctx.sum = kind, Sum()
        args = g.reshape(-1, g.shape[-1]), u.reshape(-1, u.shape[-1]), kind
        y = compiled(gate)(*args)
        if any(ctx.needs_input_grad):
            made_by(y, partial(_gate_again, *args))
        return _shaped(y, g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        g, u = ctx.saved_tensors
        rows = [x.reshape(-1, g.shape[-1]) for x in (ctx.sum.take(grad, g.shape), g, u)]
        of_g, of_u = compiled(gate_gradient)(*rows, ctx.kind)
        return of_g.view(g.shape), of_u.view(u.shape), None


def _norms(module: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    """What may stand for a norm: both forms that transformers has."""
    weight: Any = getattr(module, "weight", None)
    eps: Any = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, Tensor):
        return []
    run: Any = _Norm.apply
    # A weight of its own may be trained later: the module is asked for it in each call.
    return [lambda x, gemma=gemma: run(x, module.weight, eps, gemma) for gemma in (False, True)]  # type: ignore[misc]


def _gates(module: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    """What may stand for an MLP with a gate."""
    kind = type(getattr(module, "act_fn", None)).__name__
    parts = ("gate_proj", "up_proj", "down_proj")
    if kind not in ACTIVATIONS or not all(
        isinstance(getattr(module, name, None), nn.Module) for name in parts
    ):
        return []
    mlp: Any = module
    run: Any = _Gate.apply
    return [lambda x: mlp.down_proj(run(mlp.gate_proj(x), mlp.up_proj(x), kind))]


def _width(module: Any) -> int:
    return int(module.weight.shape[0]) if hasattr(module, "weight") else int(module.gate_proj.in_features)


def _gradients(forward: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """What a module makes of x, and the gradient of a fixed mixture of it."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = forward(x)
        mixture = torch.linspace(-1, 1, y.shape[-1], device=y.device, dtype=y.dtype)
        [grad] = torch.autograd.grad((y * mixture).sum(), x)
    return y, grad


def _compared(
    module: nn.Module, fast: Callable[[Tensor], Tensor], x: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Forward and backward, for two numbers of rows: kernels are compiled once more for any number."""
    for rows in (7, 12):
        yield from zip(_gradients(fast, x[:rows]), _gradients(module.forward, x[:rows]), strict=True)


def _rotation(plain: Callable[..., Any]) -> Callable[..., Any]:
    run: Any = _Turn.apply

    def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or cos.shape[-1] != q.shape[-1] or cos.ndim != q.ndim - 1:
            return plain(q, k, cos, sin, *args, **kwargs)
        return run(q, cos, sin), run(k, cos, sin)

    return turned


def _same_rotation(plain: Callable[..., Any], device: torch.device, dtype: torch.dtype) -> bool:
    fast = _rotation(plain)

    def compare(length: int) -> Iterator[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(length)
        x, cos, sin = (
            torch.randn(*shape, length, 8, generator=draw).to(device, dtype) for shape in ((2, 3), (2,), (2,))
        )

        def both(turned: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
            return lambda x: torch.cat(turned(x, x, cos, sin), 1)

        sides = [_gradients(both(turned), x) for turned in (fast, plain)]
        return zip(*sides, strict=True)

    return FUSED.trusted((plain, device, dtype), lambda: [*compare(5), *compare(9)])


def _fast(module: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """What stands for a module; None where nothing does."""
    candidates = [] if "forward" in vars(module) else _norms(module) or _gates(module)
    for i, forward in enumerate(candidates):
        device = next(module.parameters()).device
        x = torch.randn(12, _width(module), generator=torch.Generator().manual_seed(0)).to(device, dtype)
        key = (type(module), i, _width(module), device, dtype)
        if FUSED.trusted(key, lambda: _compared(module, forward, x), _unsaid):  # noqa: B023
            return forward
    if candidates and (why := FUSED.verdicts.get(key)):
        FUSED.tell(f"{type(module).__name__}: {why}")
    return None


def _unsaid(line: str) -> None:
    """The first of two forms is most often another's."""


@contextmanager
def fused(lm: Model) -> Iterator[None]:
    """Inside, norms and rotation compute in fewer passes over memory, on a GPU gates too.

    A GPU's time goes elsewhere than a CPU's, and its kernels differ in rounding.
    """
    on_cpu = lm.device.type == "cpu"
    with fused_parts(lm.model) if on_cpu else fused_kernels(lm.model, lm.dtype):
        yield


@contextmanager
def fused_kernels(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Inside, RMS norms, gates and rotation of a 16-bit model are compiled kernels, where those are trusted.

    Enter it in evaluation mode: what is compared must not draw.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    forwards = {module: _fast(module, dtype) for module in model.modules()}
    fast = {module: forward for module, forward in forwards.items() if forward is not None}
    norms = [module for module in fast if _norms(module)]
    key = ("products", model.device, dtype)
    width = _width(norms[0]) if norms else 0
    if norms and FUSED.trusted(key, lambda: compared(fast[norms[0]], width, model.device, dtype)):
        # Not a subclass, which may compute something else, and none that computes in another way.
        linears = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
        fast |= {module: adding(module) for module in linears}

    def rotation(plain: Callable[..., Any]) -> Callable[..., Any] | None:
        return _rotation(plain) if _same_rotation(plain, model.device, dtype) else None

    with rotated_by(model, rotation), in_place_of(list(fast), list(fast.values())), made_again():
        yield
