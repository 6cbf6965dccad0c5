"""Frozen weights in the order in which a CPU's bf16 products read them, in training and in writing answers.

oneDNN puts a bf16 weight into blocks before it multiplies, anew each time. That is most of a product of a few
rows, and a tenth of one of five hundred (benchmarks/NOTES.md). Made once, blocks give the same bits for less.
A layer's own weight is let go meanwhile and put back, bit for bit, after; what a gradient goes back through
are blocks of the transpose, made when the first one does: no layer below the lowest trained one gets any.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.models.memory.machine import machine_memory
from crosstune.models.proof import FastWay
from crosstune.models.protocol import Model

# Reading this many rows at once is what blocks are laid out for; they are the same for one and for thousands.
ROWS = 32
# Blocks of the transposes take at most this share of the machine's memory, so that what was trained before
# still fits. Of all its memory, not of what is free: a run must not depend on what else is running.
SHARE = 1 / 8
BLOCKS = FastWay(
    fast="products over weights in blocks",
    plain="products are PyTorch's own",
    tolerance=0.02,
    because="a bf16 number is rounded by 0.4%, and another CPU may add in another order",
)


def can_pack() -> bool:
    """Whether this PyTorch has oneDNN's products over blocks, and this CPU bf16 ones."""
    ops: Any = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(ops, name) for name in names)
        and bool(ops._is_mkldnn_bf16_supported())
    )


def reorder(weight: Tensor) -> Tensor:
    """Blocks of a bf16 weight ``[out, in]``."""
    blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return blocks


def product(x: Tensor, blocks: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W' + b`` over the blocks of W, of ``[..., in]``."""
    run: Any = torch.ops.mkldnn._linear_pointwise
    out: Tensor = run(x, blocks, bias, "none", [], "")
    return out


def _compared() -> Iterator[tuple[Tensor, Tensor]]:
    """Products of a few rows and of many, with a bias and without, and the way back to the weight."""
    draw = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(n, generator=draw).bfloat16() for n in ((48, 64), (48,), (70, 64)))
    blocks = reorder(weight)
    for rows in (x[:1], x):
        for added in (None, bias):
            yield product(rows, blocks, added), nn.functional.linear(rows, weight, added)
    yield blocks.to_dense(), weight


class _Product(torch.autograd.Function):
    """``x W' + b`` of a frozen layer, and ``g W``; of ``x`` nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "_Layer") -> Tensor:
        ctx.layer = layer
        return product(x, layer.blocks, layer.module.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return product(grad, ctx.layer.transposed), None


class _Layer:
    """One linear layer that computes over its weight in blocks; ``let_go`` of the weight meanwhile."""

    def __init__(self, module: nn.Linear, let_go: bool) -> None:
        self.module = module
        self.blocks = reorder(module.weight.data)
        module.forward = self._forward  # type: ignore[method-assign, assignment]
        if let_go:
            module.weight.data = module.weight.data.new_empty(0)

    @cached_property
    def transposed(self) -> Tensor:
        """Blocks of the weight's transpose."""
        return reorder(self.blocks.to_dense().t())

    def _forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return product(x, self.blocks, self.module.bias)
        run: Any = _Product.apply
        out: Tensor = run(x, self)
        return out

    def put_back(self) -> None:
        """The layer as it was."""
        if not self.module.weight.numel():
            self.module.weight.data = self.blocks.to_dense()
        vars(self.module).pop("forward", None)


class Blocks:
    """A model's frozen linear layers computing over blocks, and put back as they were.

    Only for a bf16 model on a CPU. Code that reads or changes a weight, such as merging a LoRA, does it
    `away` from them; calling a layer needs nothing. In ``training``, gradients go through the layers and not
    through the vocabulary's table; otherwise the table, whose rows are looked up as well, is held twice.
    """

    def __init__(self, lm: Model, training: bool) -> None:
        self._lm, self._training = lm, training
        self._laid: list[_Layer] = []

    def _linears(self) -> list[nn.Linear]:
        """The layers to be laid."""
        lm = self._lm
        if lm.device.type != "cpu" or lm.dtype != torch.bfloat16 or lm.quantized or not can_pack():
            return []
        if not BLOCKS.trusted("this CPU", _compared):
            return []
        # Not a subclass, which may compute something else, and none that already computes in another way.
        # Nor one whose weight something else computes with (`weight_is_read`).
        plain = [
            m
            for m in lm.model.modules()
            if type(m) is nn.Linear and "forward" not in vars(m) and not hasattr(m, "weight_is_read")
        ]
        frozen = [
            m
            for m in plain
            if m.weight.device.type == "cpu"
            and m.weight.dtype == lm.dtype
            # A bias that is trained needs the product's own gradient.
            and not any(parameter.requires_grad for parameter in m.parameters())
        ]
        if not self._training:
            return frozen
        frozen = [m for m in frozen if id(m.weight) not in self._tables()]
        return frozen if sum(m.weight.nbytes for m in frozen) <= SHARE * machine_memory() else []

    def _tables(self) -> set[int]:
        output = self._lm.model.get_output_embeddings()
        return {id(self._lm.embedding.weight), id(None if output is None else output.weight)}

    def lay(self) -> None:
        """Compute over blocks from here on."""
        linears = self._linears()
        uses = Counter(id(m.weight) for m in linears)
        tables = self._tables() if linears else set()
        with torch.no_grad():
            for module in linears:
                weight = id(module.weight)
                self._laid.append(_Layer(module, let_go=weight not in tables and uses[weight] == 1))

    def put_back(self) -> None:
        """The very bits of all weights, and plain products."""
        while self._laid:
            self._laid[-1].put_back()
            self._laid.pop()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Inside, the weights are back: a method may merge itself into them."""
        self.put_back()
        try:
            yield
        finally:
            self.lay()


@contextmanager
def packed_weights(lm: Model, training: bool = False) -> Iterator[Blocks]:
    """Inside, the linear layers of a bf16 model on a CPU compute with blocks (see `Blocks`)."""
    blocks = Blocks(lm, training)
    try:
        blocks.lay()
        yield blocks
    finally:
        blocks.put_back()
