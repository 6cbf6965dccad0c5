"""Files written whole or not at all, with a full disk told as the error it is; and where caches are kept."""

import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crosstune.errors import UserError

TMP = ".tmp-"
"""What the names of files begin with while they are being written."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_root() -> Path:
    """Folder for what crosstune keeps between runs: ``CROSSTUNE_CACHE``, else the platform's cache folder."""
    if wish := os.environ.get("CROSSTUNE_CACHE"):
        return Path(wish).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "crosstune"


def write_text(store: Path, name: str, text: str) -> None:
    """Put a small text file into a store, whole.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    with disk_errors(store):
        target = store / name
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.with_name(f"{TMP}{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            write_synced(work, text.encode())
            work.replace(target)
        finally:
            work.unlink(missing_ok=True)


@contextmanager
def disk_errors(store: Path) -> Iterator[None]:
    """Say in one line what kept something from being written."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"no room on disk: {store} cannot take another run; free some and give the same command "
                "again (finished runs are kept)"
            ) from error
        raise UserError(f"{store}: cannot be written ({error.strerror or error})") from error


def write_synced(file: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Wait until the disk has a file or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
