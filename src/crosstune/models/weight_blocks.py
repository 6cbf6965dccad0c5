"""Weights in the order in which a CPU's bf16 products read them, for as long as answers are written.

A product of a few rows with a bf16 weight is mostly oneDNN putting the weight into blocks, anew each time.
Blocks made once halve the time of a step of up to eight texts, and take a quarter off that of fifty
(benchmarks/NOTES.md); every product gives the same bits. A layer's own copy is let go meanwhile, so that only
the vocabulary's table, whose rows are looked up as well, is held twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.models.language_model import LanguageModel

# Reading this many rows at once is what blocks are laid out for; they are the same for one and for thousands.
ROWS = 32


def can_pack() -> bool:
    """Whether this PyTorch has oneDNN's products over blocks, and this CPU bf16 ones."""
    found: Any = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(found, name) for name in names)
        and bool(found._is_mkldnn_bf16_supported())
    )


def _over(blocks: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    product: Any = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, blocks, bias, "none", [], "")


@contextmanager
def packed_weights(lm: LanguageModel) -> Iterator[None]:
    """Inside, the linear layers of a bf16 model on a CPU compute with blocks; elsewhere nothing is changed.

    The weights of layers are empty inside, and the very same bits after. Not while gradients are wanted.
    """
    linears = [m for m in lm.model.modules() if type(m) is nn.Linear and "forward" not in vars(m)]
    if lm.device.type != "cpu" or lm.dtype != torch.bfloat16 or lm.quantized or not can_pack():
        linears = []
    tables = {id(lm.embedding.weight), id(lm.model.get_output_embeddings().weight)}
    held: list[tuple[nn.Linear, Tensor]] = []
    try:
        with torch.no_grad():
            for module in linears:
                weight = module.weight
                if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
                    continue
                blocks = torch.ops.mkldnn._reorder_linear_weight(weight.data, ROWS)
                held.append((module, blocks))
                module.forward = _over(blocks, module.bias)  # type: ignore[method-assign, assignment]
                if id(weight) not in tables:
                    weight.data = weight.data.new_empty(0)
        yield
    finally:
        for module, blocks in held:
            del module.forward
            if not module.weight.numel():
                module.weight.data = blocks.to_dense()
