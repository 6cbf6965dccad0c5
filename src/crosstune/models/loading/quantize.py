"""Frozen weights in 4 or 8 bits, through bitsandbytes, so that a large model fits a small GPU.

4 bits are NF4 with quantised constants (Dettmers et al. 2023, arXiv 2305.14314); 8 bits are LLM.int8
(Dettmers et al. 2022, arXiv 2208.07339). Embeddings, norms and the output layer keep the dtype asked for,
and so does everything a method trains.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Literal, get_args

from crosstune.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch

Quantize = Literal["4bit", "8bit"]


def quantization(kind: str, dtype: torch.dtype) -> Any:
    """The setting transformers loads with.

    Args:
        kind: "4bit" or "8bit".
        dtype: That 4-bit weights are multiplied in.

    Raises:
        UserError: Unknown kind, or bitsandbytes is not installed.
    """
    if kind not in get_args(Quantize):
        raise UserError(f'quantize: "{kind}"{did_you_mean(kind, get_args(Quantize))}')
    needs_package("bitsandbytes", f"quantize: {kind}", "quantize")
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_gradients(model: Any) -> None:
    """Keep 4-bit weights in the form that gradients pass through.

    On a CPU with AVX-512 BF16, bitsandbytes packs them anew at the first forward outside of training, for
    good, and from then on no gradient comes through them: training would go on and change nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def needs_package(package: str, what: str, extra: str) -> None:
    """Refuse what a missing package would do.

    Raises:
        UserError: It is not installed; names the extra that brings it.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f'{what} needs {package}: pip install "crosstune[{extra}]"')
