"""How many tokens a GPU's memory takes at once, from two small passes measured on it.

A pass needs bytes that do not depend on its size (gradients, say) and bytes a token; two passes of different
sizes tell both. So the first large pass has the right size at once, where halving after a failure costs the
failed pass and stops at up to half of what would have fitted. Halving stays as the net below it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

# Of what is free: the allocator's blocks do not fit together without gaps.
SHARE = 0.9
# Batches of fewer tokens are not worth two passes more.
WORTH = 2048


@dataclass(frozen=True, slots=True)
class Trial:
    """A pass that was measured: its tokens, padding included, and the most bytes it held."""

    tokens: int
    nbytes: int


def tokens_that_fit(small: Trial, large: Trial, free: float) -> int | None:
    """Tokens of a pass that takes `SHARE` of ``free`` bytes, one at least; None if the trials do not tell."""
    if large.tokens <= small.tokens or large.nbytes <= small.nbytes:
        return None
    each = (large.nbytes - small.nbytes) / (large.tokens - small.tokens)
    fixed = max(0.0, small.nbytes - each * small.tokens)
    return max(1, int((SHARE * free - fixed) / each))


def peak(device: torch.device, work: Callable[[], object]) -> int:
    """The most bytes that some work holds on a GPU beyond what was held before."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def free(device: torch.device) -> int:
    """Bytes of a GPU that can still be had: those nobody holds, and those PyTorch holds without use."""
    unused, _ = torch.cuda.mem_get_info(device)
    return unused + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
