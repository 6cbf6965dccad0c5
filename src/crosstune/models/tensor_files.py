"""Tensors to safetensors files, with a full disk told as the error it is."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], at: Path, facts: Mapping[str, str] | None = None) -> None:
    """Write a file of tensors.

    Args:
        tensors: By name.
        at: Where to.
        facts: Texts to put into the file's head.

    Raises:
        OSError: The disk is full or cannot be written. Safetensors itself says so in words only.
    """
    try:
        save_file(dict(tensors), at, metadata=None if facts is None else dict(facts))
    except SafetensorError as error:
        text = str(error)
        number = text.partition("os error ")[2].partition(")")[0]
        raise OSError(int(number) if number.isdigit() else 0, text) from error
