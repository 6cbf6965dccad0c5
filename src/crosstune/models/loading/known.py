"""Shapes of well-known models, typed in as facts: parameters can be counted offline, without torch."""

import hashlib
import importlib.metadata
import json
import os
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from crosstune.errors import UserError, did_you_mean
from crosstune.files import read_bytes, user_path
from crosstune.models.geometry import Geometry
from crosstune.models.loading.demo import DEMOS, PREFIX

_LLAMA_8B = Geometry(32, 4096, 32, 8, 128, 14336, 128_256, tied=False, parameters=8_030_261_248)

KNOWN: dict[str, Geometry] = {
    "llama-3.1-8b": _LLAMA_8B,
    "llama-3.2-1b": Geometry(16, 2048, 32, 8, 64, 8192, 128_256, tied=True, parameters=1_235_814_400),
    "llama-3.2-3b": Geometry(28, 3072, 24, 8, 128, 8192, 128_256, tied=True, parameters=3_212_749_824),
    "mistral-7b-v0.3": replace(_LLAMA_8B, vocabulary=32_768, parameters=7_248_023_552),
    "mistral-small-24b": Geometry(
        40, 5120, 32, 8, 128, 32768, 131_072, tied=False, parameters=23_572_403_200
    ),
    "gemma-3-270m": Geometry(18, 640, 4, 1, 256, 2048, 262_144, tied=True, parameters=268_098_176),
    "gemma-3-1b": Geometry(26, 1152, 4, 1, 256, 6912, 262_144, tied=True, parameters=999_885_952),
    "qwen3-0.6b": Geometry(28, 1024, 16, 8, 128, 3072, 151_936, tied=True, parameters=596_049_920),
    "qwen3-1.7b": Geometry(28, 2048, 16, 8, 128, 6144, 151_936, tied=True, parameters=1_720_574_976),
    "qwen3-8b": Geometry(36, 4096, 32, 8, 128, 12288, 151_936, tied=False, parameters=8_190_735_360),
    "smollm2-135m": Geometry(30, 576, 9, 3, 64, 1536, 49_152, tied=True, parameters=134_515_008),
}
_E5_LINEARS = (
    *((f"attention.{name}", 384, 384) for name in ("self.query", "self.key", "self.value", "output.dense")),
    ("intermediate.dense", 384, 1536),
    ("output.dense", 1536, 384),
)
KNOWN["e5-small"] = Geometry(
    *(12, 384, 12, 12, 32, 1536, 250_037),
    tied=False,
    parameters=117_505_920,
    unknown=("norm before the MLP",),
    by_layer=(*[(1_774_464, 4224, 1536)] * 12, (96_212_352, 384, 768)),
    linears=(_E5_LINEARS,) * 12,
    encoder="bare",
)
# Norms that Llama lacks: of queries and keys, and Gemma's behind attention and MLP.
KNOWN |= {
    name: replace(
        g, by_layer=g.counts_with((4 if name.startswith("gemma") else 2) * g.hidden + 2 * g.head_dim)
    )
    for name, g in KNOWN.items()
    if name.startswith(("gemma", "qwen"))
}

# The first hub id of each is the one suggested to someone who wants to load it.
ALIASES: dict[str, str] = {
    "meta-llama/Llama-3.1-8B": "llama-3.1-8b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Meta-Llama-3.1-8B": "llama-3.1-8b",
    "meta-llama/Llama-3.2-1B": "llama-3.2-1b",
    "meta-llama/Llama-3.2-1B-Instruct": "llama-3.2-1b",
    "meta-llama/Llama-3.2-3B": "llama-3.2-3b",
    "meta-llama/Llama-3.2-3B-Instruct": "llama-3.2-3b",
    "mistralai/Mistral-7B-v0.3": "mistral-7b-v0.3",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral-7b-v0.3",
    "mistralai/Mistral-Small-24B-Base-2501": "mistral-small-24b",
    "mistralai/Mistral-Small-24B-Instruct-2501": "mistral-small-24b",
    "mistral-small-24b-2501": "mistral-small-24b",
    "google/gemma-3-270m": "gemma-3-270m",
    "google/gemma-3-270m-it": "gemma-3-270m",
    "google/gemma-3-1b-pt": "gemma-3-1b",
    "google/gemma-3-1b-it": "gemma-3-1b",
    "Qwen/Qwen3-0.6B-Base": "qwen3-0.6b",
    "Qwen/Qwen3-0.6B": "qwen3-0.6b",
    "Qwen/Qwen3-1.7B-Base": "qwen3-1.7b",
    "Qwen/Qwen3-1.7B": "qwen3-1.7b",
    "Qwen/Qwen3-8B-Base": "qwen3-8b",
    "Qwen/Qwen3-8B": "qwen3-8b",
    "HuggingFaceTB/SmolLM2-135M": "smollm2-135m",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m",
    "demo:gemma-3-270m": "gemma-3-270m",
    "demo:smollm2-135m": "smollm2-135m",
    "demo:e5-small": "e5-small",
}

_LOWERED = {alias.lower(): name for alias, name in ALIASES.items()} | {name: name for name in KNOWN}


def geometry_for(name: str) -> Geometry:
    """The shape of a model, given any of its names; no weights are read or fetched.

    Args:
        name: A known name or alias in any case, a folder with config.json, that file itself, or a hub id
            (of which only config.json is fetched).

    Raises:
        UserError: None of these.
    """
    if name.lower() in _LOWERED:
        return KNOWN[_LOWERED[name.lower()]]
    from crosstune.models.loading.hub import fetch_config, is_hub_id

    path = user_path(name)
    if path.name == "config.json" and path.is_file():
        path = path.parent
    if not path.is_dir():
        if path.exists():
            raise UserError(f"{name}: give a model folder, or its config.json")
        if not is_hub_id(name):
            if os.sep in name:
                raise UserError(f"{name}: no such folder")
            raise UserError(f'unknown model "{name}"{did_you_mean(name, _LOWERED)}')
        path = fetch_config(name).parent
    return geometry_in(path, name)


def geometry_in(folder: Path, name: str) -> Geometry:
    """The shape in a folder's config.json, after the architecture has been tried (see `probe`).

    Kept in the cache folder, a refusal too, as transformers takes seconds: by the config, the version of
    transformers, and the code that was tried.

    Raises:
        UserError: No config that can be read, or a model that crosstune would compute differently.
    """
    from crosstune.config.environment import cache_root

    config = folder / "config.json"
    content = read_bytes(config) if config.is_file() else b""
    digest = hashlib.sha256(f"{importlib.metadata.version('transformers')}\n".encode() + content)
    for file in _tried():
        digest.update(file.read_bytes())
    cached = cache_root() / "geometry" / f"{digest.hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, TypeError):  # not there, damaged, or of another version of crosstune
        stored = json.loads(cached.read_bytes())
        if "refused" in stored:
            raise UserError(stored["refused"])
        if stored["linears"] is not None:
            stored["linears"] = tuple(tuple(map(tuple, layer)) for layer in stored["linears"])
        for key in ("unknown", "uneven", "uncalled"):
            stored[key] = tuple(stored[key])
        if stored["by_layer"] is not None:
            stored["by_layer"] = tuple(map(tuple, stored["by_layer"]))
        if stored["cached"] is not None:
            stored["cached"] = tuple(stored["cached"])
        return Geometry(**stored)
    from crosstune.files import write_whole
    from crosstune.models.loading.config import foreseen, read_config
    from crosstune.models.loading.log_noise import without_notices
    from crosstune.models.loading.probe import examine

    described = read_config(folder, name)
    answer: dict[str, object] = {}
    try:
        with (
            foreseen("its config.json describes no model that can be computed", "mend it"),
            without_notices(),
        ):
            geometry = examine(described)
        answer = asdict(geometry)
        return geometry
    except UserError as error:
        answer = {"refused": str(error)}
        raise
    finally:
        with suppress(OSError):  # it is asked again then
            if answer:
                write_whole(cached, json.dumps(answer))


def _tried() -> list[Path]:
    """The files whose code `probe` tries."""
    models = Path(__file__).parents[1]
    loading = [models / "loading" / name for name in ("copies.py", "probe.py")]
    folders = ("*.py", "attention/*.py", "loading/probes/*.py")
    return sorted([*(file for files in folders for file in models.glob(files)), *loading])


def check_model(name: str) -> None:
    """Refuse a name that cannot be a demo model, a folder or a hub id.

    Raises:
        UserError: What to give instead.
    """
    folder = user_path(name)
    if name.startswith(PREFIX):
        if name not in DEMOS:
            raise UserError(f'unknown demo model "{name}"{did_you_mean(name, DEMOS)}')
    elif folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f'model: "{name}" is a folder without config.json')
    elif len(folder.parts) != 2 or folder.exists() or name.startswith(("./", "~", "/")):
        if "/" in name or name.startswith(("~", ".")):
            raise UserError(f'model: no folder "{name}" with a config.json')
        ids = [alias for alias, known in ALIASES.items() if known == name.lower() and "/" in alias]
        hint = f"; give its hub id, {ids[0]}" if ids else did_you_mean(name, ALIASES)
        raise UserError(f'model: "{name}" is no model folder, hub id or demo model{hint}')


def cheap_geometry(name: str) -> Geometry | None:
    """A model's shape, if a folder's config or the table of known models tells it; None otherwise."""
    config = user_path(name) / "config.json"
    if config.is_file():
        return geometry_for(str(config))
    return geometry_for(name) if name.lower() in _LOWERED else None


def cheap_revision(name: str) -> str | None:
    """What pins a model's content, where that needs no network; None otherwise.

    Raises:
        UserError: The model's folder is damaged.
    """
    from crosstune.models.loading.fingerprint import fingerprint

    folder = user_path(name)
    return fingerprint(folder) if folder.is_dir() else None
