"""A model's files from the Hugging Face hub (or a server that speaks like it), pinned to one commit."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import huggingface_hub
from huggingface_hub import constants, errors

from crosstune.errors import UserError, first_line
from crosstune.models.loading.fingerprint import INDEX, SINGLE, read_json

# What a tokenizer and a config are made of; code (*.py) and pickles are never fetched.
_SMALL = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
# The HTTP library under huggingface_hub has changed; this is whatever its errors derive from now.
HTTP_ERROR: type[Exception] = getattr(errors, "HTTPError", errors.HfHubHTTPError)


def is_hub_id(name: str) -> bool:
    """Whether a name reads as ``owner/model`` or ``owner/model@revision``."""
    repo = name.partition("@")[0]
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in repo


def parted(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """The repository, and the revision that is asked for or stands in the name."""
    repo, _, at = name.partition("@")
    return repo, revision or at or None


def fetch_config(name: str, revision: str | None = None) -> Path:
    """Path of a hub model's config.json, in the hub's own cache under the commit it belongs to.

    Raises:
        UserError: No such model or revision, no access, not reachable and not cached.
    """
    name, revision = parted(name, revision)
    with explained(name, revision):
        return Path(huggingface_hub.hf_hub_download(name, "config.json", revision=revision))


def fetch(name: str, revision: str | None = None) -> tuple[Path, str]:
    """Fetch config, tokenizer and safetensors of a hub model, unless the hub's cache has them.

    Returns:
        The folder, and the commit hash that ``revision`` (default: the main branch) stands for now.

    Raises:
        UserError: No such model or revision, no access, not reachable and not cached, disk full.
    """
    name, revision = parted(name, revision)
    commit = fetch_config(name, revision).parent.name
    with explained(name, revision):
        weights = _weight_names(name, commit)
        folder = huggingface_hub.snapshot_download(
            name, revision=commit, allow_patterns=[*_SMALL, *weights], ignore_patterns=["*/*"]
        )
    if not any((Path(folder) / file).is_file() for file in weights):
        raise UserError(
            f"{name}: holds no {SINGLE}; pickled weights are never loaded, so look for a revision or a copy "
            "of it with safetensors"
        )
    return Path(folder), commit


def fetch_files(name: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Fetch some small files of a repository, those that it has, unless the hub's cache has them.

    Returns:
        The folder where they lie, of one commit.

    Raises:
        UserError: As `fetch`.
    """
    name, revision = parted(name, revision)
    with explained(name, revision):
        first = Path(huggingface_hub.hf_hub_download(name, files[0], revision=revision))
        for file in files[1:]:
            with suppress(errors.EntryNotFoundError):
                huggingface_hub.hf_hub_download(name, file, revision=first.parent.name)
    return first.parent


def _weight_names(name: str, commit: str) -> list[str]:
    """The files that hold the weights; many repositories hold the same ones again in another layout."""
    if isinstance(huggingface_hub.try_to_load_from_cache(name, SINGLE, revision=commit), str):
        return [SINGLE]  # a model in one file has no index: do not ask the hub for it again
    try:
        index = Path(huggingface_hub.hf_hub_download(name, INDEX, revision=commit))
    except errors.EntryNotFoundError:  # on the hub, or when offline in the cache
        return [SINGLE]
    names = sorted({str(file) for file in read_json(index).get("weight_map", {}).values()})
    for file in names:  # they are given on as patterns of what to fetch
        if not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise UserError(
                f"{name}: {INDEX} names {file!r}, which is no safetensors file; it is not fetched"
            )
    return names


@contextmanager
def explained(name: str, revision: str | None, kind: Literal["model", "dataset"] = "model") -> Iterator[None]:
    """Say in one line what an error of the hub's library means and what to do about it.

    Raises:
        UserError: Whenever the block raises what the library or the system does when files cannot be had.
    """
    at = f' at revision "{revision}"' if revision else ""
    page = f"{constants.ENDPOINT}/{name}" if kind == "model" else f"{constants.ENDPOINT}/datasets/{name}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(f"{name}: gated; accept its terms at {page}, then `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: no such {kind} at {constants.ENDPOINT} (or it is private: log in with `hf auth login`)"
            "; check the spelling"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{name}: no revision {revision!r}; give a branch, tag or commit of the {kind}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        why = (
            "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        )
        local = "a local folder" if kind == "model" else "local files"
        raise UserError(
            f"{name}{at}: not in the local cache ({constants.HF_HUB_CACHE}) and {why}; "
            f"connect once to fetch it, or give {local}"
        ) from error
    except errors.EntryNotFoundError as error:
        missing = "holds no config.json; not a transformers model" if kind == "model" else "a file is gone"
        raise UserError(f"{name}{at}: {missing}") from error
    except errors.HFValidationError as error:
        raise UserError(f'"{name}" is not a hub id; one reads owner/{kind}') from error
    except (HTTP_ERROR, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                f"{name}: no room left in {constants.HF_HUB_CACHE}; free some, or set HF_HOME to another disk"
            ) from error
        raise UserError(
            f"{name}: fetching from {constants.ENDPOINT} failed: {first_line(error)}; try again"
        ) from error
