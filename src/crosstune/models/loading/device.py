"""Where a model runs and in which number format, chosen from what the machine can do."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crosstune.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch

DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
"""What a study may write, and PyTorch's name for it."""
DeviceMap = Literal["auto", "balanced", "sequential"]
"""How accelerate spreads a model over GPUs."""
_KINDS = ("auto", "cpu", "cuda", "mps")


def named(device: str, dtype: str) -> tuple[str, str]:
    """The kind of device and the number format that wishes come to, such as ``("cuda", "bfloat16")``.

    PyTorch, which takes seconds to import, is asked only where a wish depends on the machine. Arguments and
    errors are those of `choose_device` and `choose_dtype`.
    """
    if device == "cpu" and dtype in DTYPES:
        return device, DTYPES[dtype]
    chosen = choose_device(device)
    return chosen.type, str(choose_dtype(dtype, chosen)).removeprefix("torch.")


def choose_device(wish: str = "auto") -> torch.device:
    """Turn a wish into a device that is there.

    Args:
        wish: "auto" (the first GPU, else Apple's, else the CPU), "cpu", "cuda", "cuda:1", "mps".

    Raises:
        UserError: Unknown, or not on this machine.
    """
    import torch

    if wish == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", _own_gpu())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = wish.partition(":")
    if kind not in _KINDS or kind == "auto" or (":" in wish and not (index.isascii() and index.isdigit())):
        raise UserError(f'unknown device "{wish}"{did_you_mean(kind, _KINDS)} (a second GPU is "cuda:1")')
    if kind == "cuda":
        if index and together():
            raise UserError(f'device "{wish}": each of several processes has a GPU of its own; write "cuda"')
        return _cuda(wish, int(index or _own_gpu()))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError(f'device "{wish}": PyTorch finds no Apple GPU on this machine; use "auto" or "cpu"')
    if index not in ("", "0"):
        raise UserError(f'device "{wish}": there is only one {kind} device; write "{kind}"')
    return torch.device(kind)


def together() -> bool:
    """Whether several processes train together."""
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()


def _own_gpu() -> int:
    """Of several processes that train together, each has a GPU; the first one otherwise.

    Raises:
        UserError: There are fewer GPUs than processes.
    """
    import torch

    number, count = int(os.environ.get("LOCAL_RANK", "0")) if together() else 0, torch.cuda.device_count()
    if number and number >= count:
        raise UserError(
            f"process {number + 1} of this machine has no GPU, there are {count}; start as many processes "
            "with torchrun --nproc-per-node, or set device: cpu"
        )
    return number


def _cuda(wish: str, index: int) -> torch.device:
    """The GPU of that number, or what keeps it from being used."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        raise UserError(
            f'device "{wish}": PyTorch {torch.__version__} is built without CUDA; install a CUDA build '
            '(https://pytorch.org/get-started) or use "cpu"'
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise UserError(
            f'device "{wish}": PyTorch sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use "cpu"'
        )
    if index >= count:
        raise UserError(
            f'device "{wish}": the machine has {count} GPU{"s" if count > 1 else ""}, numbered from 0; '
            f'use "cuda:{count - 1}" or lower'
        )
    return torch.device("cuda", index)


def choose_dtype(wish: str, device: torch.device) -> torch.dtype:
    """Turn a wish into the number format of the frozen weights.

    Args:
        wish: "auto" (bfloat16 where the device multiplies it in hardware, else float32) or a key of `DTYPES`.
        device: Where the model will run.

    Raises:
        UserError: Unknown name.
    """
    import torch

    if wish != "auto":
        if wish not in DTYPES:
            raise UserError(f'unknown dtype "{wish}"{did_you_mean(wish, ["auto", *DTYPES])}')
        dtype: torch.dtype = getattr(torch, DTYPES[wish])
        return dtype
    if device.type == "cuda":
        with torch.cuda.device(device):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    """Whether PyTorch multiplies bf16 matrices faster than fp32 ones here.

    With AMX, with AVX-512's bf16 on AMD, or with Arm's bf16. On Intel AVX-512's alone is not enough: two
    cores with it and without AMX reached 165 GFLOP/s in bf16 and 320 in fp32; two of an AMD EPYC 310 to 430
    against 67 to 181 (benchmarks/NOTES.md). A rule and not a measurement, because the dtype is part of a
    run's id: it must not change with what else the machine is doing. PyTorch's checks are private to it and
    differ between its versions; one that is missing counts as no.
    """
    import torch

    if _supported("_is_amx_tile_supported"):
        return True
    # oneDNN, whose kernels these are, is not part of PyTorch for macOS.
    if not torch._C._has_mkldnn:
        return False
    if _supported("_is_avx512_bf16_supported") and "AuthenticAMD" in _cpu_vendor():
        return True
    cpu: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return cpu.get("architecture") in ("arm64", "aarch64") and bool(cpu.get("bf16"))


def _supported(check: str) -> bool:
    import torch

    return bool(getattr(torch.cpu, check, bool)())


def _cpu_vendor() -> str:
    """Who made the CPU, as the system says it: Linux in a file, Windows in the processor's name."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        lines = file.read_text().splitlines()
        return next((line for line in lines if line.startswith("vendor_id")), "")
    return platform.processor()
