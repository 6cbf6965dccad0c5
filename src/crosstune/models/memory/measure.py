"""How many tokens fit into a GPU's memory, from two small measured trials.

A pass needs a fixed number of bytes (such as gradients) and a number of bytes per token, which two passes of
different sizes reveal. So the first large pass has the right size at once, where halving after a failure
wastes the failed pass and stops at as little as half of what would have fitted. Halving remains as a
fallback.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from crosstune.models.memory.token_limit import TokenLimit
from crosstune.models.proof import FastWay, wanted
from crosstune.models.protocol import Model

# Of what is free: the allocator's blocks do not fit together without gaps.
SHARE = 0.9
# Batches of fewer tokens are not worth two passes more.
WORTH = 2048
MEASURED = FastWay(
    fast="measured",
    plain="memory is found by halving what does not fit",
    tolerance=0.0,
    because="sizes of passes, which change no result but by rounding: nothing is compared",
    part="fitting",
)


@dataclass(frozen=True, slots=True)
class Trial:
    """Measured work: its size (tokens of a pass, padding included), and its peak memory in bytes."""

    size: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Need:
    """Memory of work of any size: fixed bytes, and bytes per token."""

    fixed: float
    per_token: float

    def of(self, size: int) -> float:
        """Bytes of work of some size."""
        return self.fixed + self.per_token * size

    def fits(self, room: float) -> int:
        """Size of the work that takes ``room`` bytes, one at least."""
        return max(1, int((room - self.fixed) / self.per_token))


def need(small: Trial, large: Trial) -> Need | None:
    """The memory need that two trials show; None if they are inconsistent."""
    if large.size <= small.size or large.nbytes <= small.nbytes:
        return None
    per_token = (large.nbytes - small.nbytes) / (large.size - small.size)
    return Need(max(0.0, small.nbytes - per_token * small.size), per_token)


def measures(lm: Model) -> bool:
    """Whether memory is measured for this model: it is on one GPU, and measuring is not switched off."""
    one = {lm.layer_device(i) for i in range(lm.geometry.layers)} == {lm.device}
    return lm.device.type == "cuda" and one and wanted("fitting")


def fit(
    passes: TokenLimit,
    tokens: int,
    trial: Callable[[int], Trial],
    device: torch.device,
    later: int = 0,
    save: Callable[[Need, float], Need] | None = None,
) -> Need | None:
    """Lower the limit of passes to what two parts of the first large batch show of a GPU's memory.

    Args:
        passes: None of which was large enough before.
        tokens: Of the batch.
        trial: Runs a part of so many of its tokens, and changes nothing.
        device: The GPU.
        later: Bytes that will be allocated later, beside the passes.
        save: Lowers the need to some room, as far as it can.

    Returns:
        The measurement; None if it failed, or for batches too small to measure.
    """
    tokens = min(tokens, passes.limit)
    if tokens < WORTH:
        return None
    passes.measured = True

    def measure() -> Need | None:
        bytes_of = need(trial(tokens // 8), trial(tokens // 4))
        if bytes_of is not None:
            room = SHARE * (free(device) - later)
            if save is not None:
                bytes_of = save(bytes_of, room)
            passes.lower_to(bytes_of.fits(room))
        return bytes_of

    # Where it fails the work itself goes on in smaller parts, or says what is wrong.
    return MEASURED.attempt(measure, passes.say)


def peak(device: torch.device, work: Callable[[], object]) -> int:
    """Peak bytes that some work allocates on a GPU beyond what was allocated before."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def free(device: torch.device) -> int:
    """Free bytes of a GPU: those of the device, and those that PyTorch has reserved without using them."""
    unused, _ = torch.cuda.mem_get_info(device)
    return unused + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
