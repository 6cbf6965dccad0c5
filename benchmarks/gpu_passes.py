"""Passes over memory in a layer of Llama 3.1 8B on a GPU, counted on tensors without storage: no GPU needed.

    python benchmarks/gpu_passes.py            # KB that are read and written, a token

Everything but matrix products and attention: what is left when norms, rotation and gates are kernels of their
own (`crosstune.models.fast.kernels`). Counted as the code runs, each operation's tensors once.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.llama import modeling_llama as llama

from crosstune.methods.adapters.lora_kernel import _NarrowUpdate
from crosstune.models.attention import gpu_line
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.fast import kernels
from crosstune.models.fast.products import sum_of
from crosstune.models.proof import FastWay
from random_model import llama_config

TOKENS, RANK = 64, 4
PRODUCTS = ("aten.mm", "aten.linear", "aten.bmm", "aten.addmm", "aten.addmm_")


class Flash(torch.autograd.Function):
    """Attention that is not counted."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keeps what a flash kernel keeps."""
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Of queries, keys and values."""
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@contextmanager
def uncounted_attention() -> Iterator[None]:
    """Inside, crosstune's attention of texts in a line has `Flash` for a kernel."""
    kernel = gpu_line.kernel
    gpu_line.kernel = lambda q, k, v, *args: Flash.apply(q, k, v)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        gpu_line.kernel = kernel


class WithLora(nn.Module):
    """A projection with LoRA, as PEFT calls crosstune's update."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a, self.b = (nn.Parameter(torch.empty(n, m)) for n, m in self.shapes())

    def shapes(self) -> list[tuple[int, int]]:
        return [(RANK, self.base.in_features), (self.base.out_features, RANK)]

    def forward(self, x: Tensor) -> Tensor:
        run: Any = _NarrowUpdate.apply
        updated: Tensor = run(self.base(x), x, self.a, self.b, 1.0, sum_of(x))
        return updated


class Passes(TorchDispatchMode):
    """Bytes of operations, by name; those inside of a kernel are the kernel's."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Counter[str] = Counter()
        self.inside = False

    def count(self, name: str, *trees: Any) -> None:
        tensors = {id(x): x for x in tree_leaves(trees) if isinstance(x, Tensor) and x.dim() > 1}
        tokens = [x for x in tensors.values() if TOKENS in x.shape]  # weights are few bytes a token
        self.read[name] += sum(x.numel() * x.itemsize for x in tokens)

    def kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.inside = True
            out = function(*args)
            self.inside = False
            self.count(function.__name__, args, out)
            return out

        return run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        view = isinstance(out, Tensor) and out.untyped_storage()._cdata in given
        name = str(func).rpartition(".")[0]
        tensors = [x for x in (*args, out) if isinstance(x, Tensor)]
        product = name in PRODUCTS and not any(RANK in x.shape for x in tensors)
        if product and name == "aten.addmm_":
            self.count("sums that products add to", args[0])  # read once more than a product writes
        elif not self.inside and not product and not name.startswith("aten.empty"):
            name = "LoRA" if name in PRODUCTS else name
            if not view:
                self.count(name, args, out)
            elif func._schema.is_mutable:
                self.count(name, args)
                self.count(name, args[0])  # read and written
        return out


def passes(lora: bool = True) -> tuple[Counter[str], Counter[str]]:
    """Bytes a token, forward and backward, of a layer whose input needs a gradient."""
    config = llama_config("8b")
    config._attn_implementation = IMPLEMENTATION
    counted = Passes()
    compiled, trusted = kernels.compiled, FastWay.trusted
    kernels.compiled, FastWay.trusted = counted.kernel, lambda *args: True  # type: ignore[assignment, method-assign]
    try:
        with torch.device("meta"), uncounted_attention():
            mask = gpu_line.VarlenBatch((TOKENS,), device=torch.device("meta")).mask(None)
            layer: Any = llama.LlamaDecoderLayer(config, 0).bfloat16().requires_grad_(False)
            layer.device = torch.device("meta")
            for name in ("q_proj", "v_proj") if lora else ():
                setattr(layer.self_attn, name, WithLora(getattr(layer.self_attn, name)))
            x, cos, sin = (
                torch.empty(1, TOKENS, n, dtype=torch.bfloat16) for n in (config.hidden_size, 128, 128)
            )
            with kernels.fused_kernels(layer, torch.bfloat16):
                with counted:
                    y = layer(x.requires_grad_(), attention_mask=mask, position_embeddings=(cos, sin))
                forward = counted.read.copy()
                counted.read.clear()
                with counted:
                    y.backward(torch.empty_like(y))
    finally:
        kernels.compiled, FastWay.trusted = compiled, trusted  # type: ignore[method-assign]
    sides = forward, counted.read
    return tuple(Counter({name: size // TOKENS for name, size in side.items()}) for side in sides)  # type: ignore[return-value]


def main() -> None:
    """Print both sides."""
    for side, counted in zip(("forward", "backward"), passes(), strict=True):
        print(f"{side}: {sum(counted.values()) / 1000:.0f} KB a token and layer")
        for name, size in counted.most_common():
            print(f"  {size / 1000:6.1f}  {name}")


if __name__ == "__main__":
    main()
