"""The weight files of a model folder: which they are, whether they are whole, and a fingerprint of them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from crosstune.errors import UserError
from crosstune.files import open_file, read_bytes, read_text

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Everything beside the weights that decides what a prompt becomes or what the model computes.
_SMALL = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
"""Of these transformers takes one that it cannot read for one that is not there."""
_WINDOW = 4096
_MAX_HEADER = 100_000_000  # what the safetensors format itself allows


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights, in a fixed order.

    Raises:
        UserError: There are none (only pickled ones, perhaps), one is missing, or the index is damaged.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not index.is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
            raise UserError(
                f"{folder}: weights only as pickle (.bin, .pt), which can run code when read and is never "
                "loaded; save the model with save_pretrained(), which writes safetensors"
            )
        raise UserError(f"{folder}: no {SINGLE}; crosstune loads weights from safetensors only")
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    files = [folder / str(name) for name in names]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise UserError(
                f"{index}: names {file.name!r}, which is not in the folder; fetch the model again"
            )
    if not files:
        raise UserError(f"{index}: names no weight files; fetch the model again")
    return files


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: Not JSON (line named) or not an object.
    """
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}:{error.lineno}: not valid JSON ({error.msg}); mend or fetch it again"
        ) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{file}: not valid JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def fingerprint(folder: Path) -> str:
    """16 hex digits that tell two model folders apart without reading every byte of them.

    SHA-256 over the config and tokenizer files whole, and over each weight file's size, its header (name,
    dtype, shape and place of every tensor), and the first and last 4 KiB of every tensor. Training moves
    every entry of the tensors it touches, so two checkpoints of one model differ here; a single number
    changed by hand in the middle of a large tensor would go unseen.

    Raises:
        UserError: A weight file is missing, cut short, or not safetensors.
    """
    digest = hashlib.sha256()
    for name in _SMALL:
        file = folder / name
        if os.path.lexists(file):
            content = read_bytes(file)
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
    for file in weight_files(folder):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        _add_weights(digest, file)
    return digest.hexdigest()[:16]


def _add_weights(digest: Any, file: Path) -> None:
    """Feed a safetensors file's header and the ends of its tensors to the digest."""
    size = file.stat().st_size
    with open_file(file, None) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise UserError(f"{file}: not a safetensors file, or cut short; fetch it again")
        header = stream.read(length)
        digest.update(header)
        try:
            spans = [
                (int(entry["data_offsets"][0]), int(entry["data_offsets"][1]))
                for name, entry in json.loads(header).items()
                if name != "__metadata__"
            ]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UserError(f"{file}: its safetensors header is damaged; fetch it again") from error
        start = 8 + length
        expected = start + max((end for _, end in spans), default=0)
        if size != expected:
            raise UserError(f"{file}: {size:,} bytes where its header says {expected:,}; fetch it again")
        for first, end in spans:
            stream.seek(start + first)
            digest.update(stream.read(min(_WINDOW, end - first)))
            if end - first > _WINDOW:
                stream.seek(start + end - _WINDOW)
                digest.update(stream.read(_WINDOW))
