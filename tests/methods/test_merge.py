"""LoRA merged for evaluation: what rounding takes of an update is measured, and a small one is not merged."""

import numpy as np
import pytest
import torch

from crosstune.methods.adapters.merged import MOST_LOST
from tiny_models import all_logits, make_method, random_ids

IDS = random_ids(12)


def rounded(weight: np.ndarray) -> np.ndarray:
    """fp32 to the nearest bf16, ties to even, by the bits."""
    bits = weight.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize(("b", "dtype", "merges"), [(3e-4, "bfloat16", False), (0.3, "bfloat16", True),
                                                    (3e-4, "float32", True)])  # fmt: skip
def test_a_small_update_is_not_rounded_away(tiny_lm, b, dtype, merges):
    lm = tiny_lm("llama", dtype=getattr(torch, dtype))
    method = make_method("lora")
    method.attach(lm, seed=3)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in method.parameters().items():
            if name.endswith(".B"):
                parameter.copy_(b * torch.randn(parameter.shape, generator=draw))
    losses = []
    for name, module in method.wrapped.items():
        p = {key: x.detach().cpu().numpy() for key, x in method.parameters().items() if key.startswith(name)}
        change = method.config.alpha / method.config.rank * p[f"{name}.B"] @ p[f"{name}.A"]
        weight = module.get_base_layer().weight.float().cpu().numpy()
        total = weight + change
        kept = (rounded(total) if dtype == "bfloat16" else total) - weight
        losses.append(float(np.linalg.norm(kept - change) / np.linalg.norm(change)))
    unmerged = all_logits(lm, IDS)
    with method.evaluating():
        evaluated = all_logits(lm, IDS)
    told = method.merge
    assert told.tensors == len(losses)
    assert told.merged == (len(losses) if merges else 0)
    assert told.lost == (pytest.approx(max(losses), rel=1e-3, abs=1e-6) if merges else None)
    assert told.avoided == (None if merges else pytest.approx(max(losses), rel=1e-3))
    assert (max(losses) <= MOST_LOST) == merges
    assert torch.equal(evaluated, unmerged) != merges
