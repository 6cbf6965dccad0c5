"""What can be said of a model's name without loading it or asking the network."""

from pathlib import Path

from crosstune.errors import UserError, did_you_mean
from crosstune.models.demo import DEMOS, PREFIX
from crosstune.models.geometry import Geometry
from crosstune.models.known import ALIASES, KNOWN, geometry_for


def check_model(name: str) -> None:
    """Refuse a name that cannot be a demo model, a folder or a hub id.

    Raises:
        UserError: What to give instead.
    """
    folder = Path(name).expanduser()
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
    config = Path(name).expanduser() / "config.json"
    if config.is_file():
        return geometry_for(str(config))
    known = {alias.lower() for alias in (*ALIASES, *KNOWN)}
    return geometry_for(name) if name.lower() in known else None


def cheap_revision(name: str) -> str | None:
    """What pins a model's content, where that needs no network; None otherwise.

    Raises:
        UserError: The model's folder is damaged.
    """
    from crosstune.models.fingerprint import fingerprint

    folder = Path(name).expanduser()
    return fingerprint(folder) if folder.is_dir() else None
