"""Provenance of a run: versions, machine, memory."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = (
    "crosstune",
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "babel",
    "num2words",
    "polars",
    "py3langid",
)


def versions() -> dict[str, str]:
    """Versions of Python, crosstune and the libraries that determine results."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """Read once per process: reading them takes as long as a small run."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def hardware() -> dict[str, Any]:
    """Machine name, CPU model and instruction set, cores, threads, memory in GiB, and the GPU if any.

    Instruction set and threads are included because sums of floats may depend on them.
    """
    import torch
    from torch import distributed

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    together = distributed.is_available() and distributed.is_initialized()
    return {
        "host": platform.node(),
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "gpu": gpu,
    } | ({"processes": distributed.get_world_size()} if together else {})


@cache
def git_state() -> dict[str, dict[str, Any] | None]:
    """Commit of crosstune's own checkout and of the working folder, and whether files have changed since.

    None for a folder that is no checkout, or without git.
    """
    return {"crosstune": _git(Path(__file__).parent), "working_folder": _git(Path.cwd())}


def _git(folder: Path) -> dict[str, Any] | None:
    def ask(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *off, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    off = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
    try:
        # The settings of a checkout name programs that git would run, and it may be anybody's.
        names = subprocess.run(
            ["git", "-C", str(folder), "config", "--name-only", "--get-regexp", r"^filter\."],
            capture_output=True, text=True, check=False, timeout=10,
        ).stdout.split("\n")  # fmt: skip
        off += [word for name in names if name for word in ("-c", f"{name}=")]
        # A library installed below somebody else's checkout is not part of it.
        if not ask("ls-files", "--", str(folder)):
            return None
        # Checkouts inside this one have settings of their own: only their commits are looked at.
        changed = ask("status", "--porcelain", "--ignore-submodules=dirty")
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory(device: str) -> int:
    """Peak bytes: of GPU memory since `reset_peak_memory`, or of the whole process on a CPU."""
    if device == "cuda":
        import torch

        # All GPUs: a model may be spread over them.
        return sum(torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count()))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: str) -> None:
    """Restart the count, where the device supports it."""
    if device == "cuda":
        import torch

        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)


def now() -> str:
    """UTC time in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
