"""Shapes of well-known models (``known_models.toml``): parameters can be counted offline, without torch."""

import hashlib
import importlib.metadata
import json
import os
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from crosstune.errors import UserError, did_you_mean
from crosstune.files import read_bytes, table_beside, user_path
from crosstune.models.geometry import Geometry
from crosstune.models.loading.demo import DEMOS, PREFIX

_E5_LINEARS = (
    *((f"attention.{name}", 384, 384) for name in ("self.query", "self.key", "self.value", "output.dense")),
    ("intermediate.dense", 384, 1536),
    ("output.dense", 1536, 384),
)
# What `Geometry` says of an encoder and the table does not.
_E5: dict[str, Any] = {
    "unknown": ("norm before the MLP",),
    "by_layer": (*[(1_774_464, 4224, 1536)] * 12, (96_212_352, 384, 768)),
    "linears": (_E5_LINEARS,) * 12,
    "encoder": "bare",
}


def _read() -> tuple[dict[str, Geometry], dict[str, str]]:
    """Shapes by name, and names by what else the models are called."""
    table = table_beside(__file__, "known_models.toml")
    shapes = {
        name: Geometry(**entry["shape"], **(_E5 if name == "e5-small" else {}))
        for name, entry in table.items()
    }
    for name, entry in table.items():
        if "norms" in entry:  # of queries and keys, and Gemma's behind attention and MLP
            norms = entry["norms"] * shapes[name].hidden + 2 * shapes[name].head_dim
            shapes[name] = replace(shapes[name], by_layer=shapes[name].counts_with(norms))
    return shapes, {alias: name for name, entry in table.items() for alias in entry["names"]}


KNOWN, ALIASES = _read()
_LOWERED = {alias.lower(): name for alias, name in ALIASES.items()} | {name: name for name in KNOWN}


def hub_id_of(name: str) -> str | None:
    """Where a known model lies on the hub; None for any other."""
    return next((alias for alias, known in ALIASES.items() if known == name.lower() and "/" in alias), None)


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
        return TypeAdapter(Geometry).validate_python(stored)
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
        hint = f"; give its hub id, {hub_id}" if (hub_id := hub_id_of(name)) else did_you_mean(name, ALIASES)
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
