"""Tensors in safetensors files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from crosstune.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def read_tensors(file: Path, device: "torch.device") -> "dict[str, Tensor]":
    """The tensors of a file, on a device.

    Raises:
        UserError: It cannot be read, or is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file, device=str(device))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def write_tensors(tensors: Mapping[str, "Tensor"], at: Path) -> None:
    """Write a file of tensors.

    Raises:
        OSError: The disk is full or cannot be written. Safetensors itself says so in words only.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), at)
    except SafetensorError as error:
        text = str(error)
        number = text.partition("os error ")[2].partition(")")[0]
        if number.isdigit():
            raise OSError(int(number), os.strerror(int(number))) from error
        raise OSError(0, text) from error
