"""The environment variables that crosstune reads; `check` reads all of them before anything runs."""

import os
import sys
from pathlib import Path
from typing import Literal, get_args

from crosstune.errors import UserError, did_you_mean
from crosstune.files import user_path

CACHE = "CROSSTUNE_CACHE"
"""Folder for what is kept between runs: demo models, shapes of models, timings."""
DATA = "CROSSTUNE_DATA"
"""Folder of the benchmark files."""
CHECKPOINT_SECONDS = "CROSSTUNE_CHECKPOINT_SECONDS"
"""Seconds between two checkpoints of a training, 0 for one after every step."""
STATES_GB = "CROSSTUNE_STATES_GB"
"""Most gigabytes of cached activations of frozen layers, 0 for none."""
GPU_OFF = "CROSSTUNE_GPU_OFF"
"""Names of `GpuPart` to switch off, with commas between them."""
GpuPart = Literal["graphs", "packing", "fitting", "fusing"]
"""What only a GPU uses and can be switched off (`crosstune.models.proof`).

``graphs``: recorded decoding steps (`crosstune.models.fast.graphs`). ``packing``: no padding in training
(`crosstune.models.attention.gpu_line`). ``fitting``: memory measured before the first large step of training
and the first large batch of evaluation (`crosstune.models.memory.measure`). ``fusing``: norms, rotation and
gates in one kernel each (`crosstune.models.fast.kernels`), gradients summed within products
(`crosstune.models.fast.products`), and LoRA's update in 16 bits.
"""

NAMES = (CACHE, DATA, CHECKPOINT_SECONDS, STATES_GB, GPU_OFF)
_DEFAULT_DATA = "../shared/data"


def check() -> None:
    """Read every variable once.

    Raises:
        UserError: A variable's value cannot be used; the line names it.
    """
    cache_root()
    user_path(os.environ.get(DATA, ""))
    checkpoint_seconds()
    states_gigabytes()
    gpu_off()


def cache_root() -> Path:
    """Folder for data kept between runs: `CACHE`, or the platform's cache folder."""
    if folder := os.environ.get(CACHE):
        return user_path(folder)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or user_path("~") / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = user_path("~") / "Library" / "Caches"
    else:
        base = user_path(os.environ.get("XDG_CACHE_HOME") or user_path("~") / ".cache")
    return base / "crosstune"


def data_root(option: str | None) -> Path:
    """The folder of the benchmarks: a task's ``data`` option, or `DATA`, or a default.

    Raises:
        UserError: The option or the variable names no folder.
    """
    chosen = option or os.environ.get(DATA)
    root = user_path(chosen or _DEFAULT_DATA)
    if chosen and not root.is_dir():
        raise UserError(
            f"no data folder {root}: set {DATA}, or the task's option data, to the folder of the "
            "benchmark files"
        )
    return root


def checkpoint_seconds() -> float:
    """Least seconds between two checkpoints, 30 by default; a `UserError` if the variable is no number."""
    seconds = _number(CHECKPOINT_SECONDS, "seconds; 0 writes a checkpoint after every step")
    return 30.0 if seconds is None else seconds


def states_gigabytes() -> float | None:
    """Most gigabytes of cached activations, None if not set; a `UserError` if the variable is no number."""
    return _number(STATES_GB, "gigabytes; 0 keeps no states")


def gpu_off() -> list[str]:
    """Names of the parts that `GPU_OFF` switches off.

    Raises:
        UserError: The variable names something else.
    """
    names = [name.strip() for name in os.environ.get(GPU_OFF, "").split(",") if name.strip()]
    for name in names:
        if name not in get_args(GpuPart):
            raise UserError(f'{GPU_OFF}: "{name}"{did_you_mean(name, get_args(GpuPart))}')
    return names


def _number(variable: str, unit: str) -> float | None:
    text = os.environ.get(variable, "")
    try:
        number = float(text) if text else None
    except ValueError:
        number = -1.0
    if number is not None and not 0 <= number < float("inf"):
        raise UserError(f"{variable}={text}: not a number of {unit}")
    return number
