"""What this machine can do, measured in the run that uses it, and what it is."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosstune.models.fast.weights import can_pack, product, reorder

# (rows, inner, columns): the MLP of Gemma 3 270M at 1024 tokens, both ways, and a square product.
SHAPES = ((1024, 640, 2048), (1024, 2048, 640), (2048, 2048, 2048))
COPIED = 64 * 2**20  # fp32 numbers, 256 MB
PACKAGES = ("torch", "transformers", "peft", "lm_eval", "accelerate")


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = CLOCKS["wall"]


def use_clock(name: str) -> None:
    """Time by the wall, or by the processor time spent: for one thread on a machine that others use too."""
    global _clock  # noqa: PLW0603 - one run has one clock
    _clock = CLOCKS[name]


def now() -> float:
    """Seconds on the clock in use."""
    return _clock()


def synchronise(device: torch.device) -> None:
    """Wait for a GPU's queue; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(work: Callable[[], object], device: torch.device, times: int = 10) -> float:
    """Shortest of several timings of some work, the first one (warm-up) left out."""
    best = float("inf")
    for i in range(times + 1):
        synchronise(device)
        began = now()
        work()
        synchronise(device)
        if i:
            best = min(best, now() - began)
    return best


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Highest FLOP/s among products of `SHAPES` (larger ones on a GPU), also over weights in blocks on a CPU.

    What crosstune computes with has to be among them, or its share of the floor would flatter it.
    """
    rate = 0.0
    blocks = device.type == "cpu" and dtype == torch.bfloat16 and can_pack()
    for shape in SHAPES:
        m, k, n = (x * 4 for x in shape) if device.type == "cuda" else shape
        x = torch.randn(m, k, device=device, dtype=dtype)
        w = torch.randn(n, k, device=device, dtype=dtype)
        products: list[Callable[[], Tensor]] = [partial(torch.nn.functional.linear, x, w)]
        if blocks:
            products.append(partial(product, x, reorder(w)))
        rate = max(rate, *(2 * m * k * n / best_seconds(work, device) for work in products))
    return rate


def bandwidth(device: torch.device) -> float:
    """Bytes/s of a copy, reads and writes both counted."""
    source = torch.ones(COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device, times=5)


def facts(device: torch.device) -> dict[str, Any]:
    """Machine, versions, threads, date and commit, as they go into every result."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "cpu": _cpu(),
        "bf16_flags": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in _cpu_field("flags").split()],
        "threads": torch.get_num_threads(),
        "clock": next(name for name, clock in CLOCKS.items() if clock is _clock),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu_field(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty where there is no such file."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")


def _cpu() -> str:
    return f"{_cpu_field('model name') or platform.machine()}, {os.cpu_count()} cores"


def _commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
        here = Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
