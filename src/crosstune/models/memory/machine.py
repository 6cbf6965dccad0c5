"""How much memory the machine has, and whether an error says that it ran out."""

import os
from pathlib import Path

import torch

# What PyTorch says, beside its own OutOfMemoryError, when an allocation fails.
_SAYS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# Of control groups, versions 2 and 1.
_LIMITS = (_GROUP / "memory.max", _GROUP / "memory/memory.limit_in_bytes")


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out, of the GPU or the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAYS)


def machine_memory() -> int:
    """Bytes of the machine's memory, or the limit of its control group (a container, a batch job)."""
    nbytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _LIMITS:
        try:
            nbytes = min(nbytes, int(limit.read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return nbytes


def at_hand() -> int | None:
    """Bytes of available memory within a container's limit, from Linux; None if not known.

    The page cache of a container counts as available.
    """
    try:
        lines = _MEMORY.read_text("ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    try:
        limit, held = (int((_GROUP / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text("ascii").splitlines())
        return min(available, limit - held + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return available  # no limit
