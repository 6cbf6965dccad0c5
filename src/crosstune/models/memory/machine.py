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
    """Whether an error says that memory ran out, of a GPU's or of the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAYS)


def machine_memory() -> int:
    """Bytes of the machine's memory, or what its control group (a container, a batch job) may have of it."""
    nbytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _LIMITS:
        try:
            nbytes = min(nbytes, int(limit.read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return nbytes


def at_hand() -> int | None:
    """Bytes of the machine's memory that can still be had, within a container's limit; None if not known.

    Linux says both; of what a container holds, files that were read lately can be let go.
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
