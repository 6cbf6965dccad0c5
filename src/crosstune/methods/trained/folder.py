"""What a trained adapter is read from: a folder of PEFT's, here or on the hub, or a run of a store.

Nothing but safetensors and JSON is read, and no code.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosstune.errors import UserError
from crosstune.files import open_file, sha256_of, user_path
from crosstune.models.geometry import Geometry
from crosstune.models.loading.fingerprint import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from crosstune.store.record import RunRecord

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MOST_HEADER = 100_000_000
_LAYER = re.compile(r"\.layers\.(?P<layer>\d+)\.(?P<module>.+)\.(?P<end>lora_[AB]\.weight|adaption_\w+)$")


@dataclass(frozen=True)
class Source:
    """A trained adapter's files."""

    name: str  # for people, as the study has it
    settings: Mapping[str, Any]  # PEFT's config, or the method's of a run with its name
    weights: Path  # the file of its tensors

    @cached_property
    def content(self) -> str:
        """SHA-256 of settings and tensors."""
        settings = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(f"{settings} {sha256_of(self.weights)}".encode()).hexdigest()

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of the tensors, by name, from the head of their file.

        Raises:
            UserError: It is no safetensors file.
        """
        with open_file(self.weights, None) as stream:
            length = int.from_bytes(stream.read(8), "little")
            head = stream.read(min(length, _MOST_HEADER))
        try:
            entries = json.loads(head)
            return {n: tuple(map(int, e["shape"])) for n, e in entries.items() if n != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{self.weights}: not a safetensors file, or cut short; fetch it again"
            ) from error

    def tensors(self) -> "dict[str, Tensor]":
        """The tensors, on the CPU.

        Raises:
            UserError: They cannot be read, or are no numbers.
        """
        import torch

        from crosstune.models.tensor_file import read_tensors

        tensors = read_tensors(self.weights, torch.device("cpu"))
        for name, x in tensors.items():
            if not bool(x.isfinite().all()):
                raise UserError(f"{self.weights}: {name} holds NaN or infinite numbers; train it again")
        return tensors


def peft_folder(path: str, revision: str | None = None) -> Source:
    """A folder that PEFT's ``save_pretrained`` wrote, or a repository of the hub with the same files.

    Raises:
        UserError: No such folder or repository, or files that are missing or pickled.
    """
    folder = user_path(path)
    if not folder.is_dir():
        from crosstune.models.loading import hub

        if not hub.is_hub_id(path):
            raise UserError(f"adapter: {path} is no folder, and no hub id, which reads owner/name")
        folder = hub.fetch_files(path, (CONFIG, WEIGHTS), revision)
    elif revision is not None:
        raise UserError(f"adapter: {path} is a folder, which has no revisions; take revision out")
    if not (folder / CONFIG).is_file():
        raise UserError(f"adapter: {path} has no {CONFIG}; give a folder that PEFT's save_pretrained wrote")
    if not (folder / WEIGHTS).is_file():
        pickled = f", and pickled weights are never loaded; save it with {WEIGHTS}"
        raise UserError(
            f"adapter: {path} has no {WEIGHTS}{pickled if any(folder.glob('*.bin')) else '; fetch it again'}"
        )
    return Source(path, read_json(folder / CONFIG), folder / WEIGHTS)


def check_sizes(source: Source, geometry: Geometry) -> None:
    """Refuse a folder of a model of other sizes by the shapes of its tensors, where their names tell.

    Raises:
        UserError: The tensor, its size, and the model's.
    """
    prompt_width = {
        "PROMPT_TUNING": geometry.embedding or geometry.hidden,
        "P_TUNING": geometry.embedding or geometry.hidden,
        "PREFIX_TUNING": geometry.layers * 2 * geometry.kv_size,
    }.get(str(source.settings.get("peft_type")))
    for name, shape in source.shapes.items():
        if name == "prompt_embeddings" and prompt_width and shape[-1] != prompt_width:
            raise _other_sizes(source, name, shape[-1], prompt_width)
        if not (match := _LAYER.search(name)):
            continue
        layer, module, end = int(match["layer"]), match["module"], match["end"]
        if layer >= geometry.layers and not geometry.encoder_layers:
            raise UserError(f"adapter: {source.name} has {name}, and this model {geometry.layers} layers")
        if end.startswith("adaption_prompt") and shape[-1] != geometry.hidden:
            raise _other_sizes(source, name, shape[-1], geometry.hidden)
        for linear, inputs, outputs in () if geometry.encoder_layers else geometry.linears_of(layer):
            wanted = inputs if end == "lora_A.weight" else outputs
            size = shape[-1] if end == "lora_A.weight" else shape[0]
            if linear == module and end in ("lora_A.weight", "lora_B.weight") and size != wanted:
                raise _other_sizes(source, name, size, wanted)


def _other_sizes(source: Source, name: str, size: int, wanted: int) -> UserError:
    return UserError(
        f"adapter: {source.name} is of another model: {name} is {size} wide, and this model's {wanted}"
    )


def finished_run(path: str) -> "tuple[Source, RunRecord]":
    """A run of a store, ``<store>/<id>``.

    Raises:
        UserError: No such run, or it has no weights.
    """
    from crosstune.store import store

    folder = user_path(path)
    record = store.read_run(folder)
    if not (folder / store.WEIGHTS).is_file():
        raise UserError(f"adapter: {path} is a run of {record.method.name}, which has no trained weights")
    if wrong := store.damage(folder, (store.RUN, store.WEIGHTS)):
        raise UserError(wrong)
    return Source(path, record.method.entries(), folder / store.WEIGHTS), record
