"""Files written whole or not at all, with a full disk reported as the error it is."""

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crosstune.errors import UserError

TMP = ".tmp-"
"""What the names of files and folders begin with while they are being written."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def draft(target: Path) -> Iterator[Path]:
    """A free path beside ``target`` to write a file or folder to; `put` moves it to its place.

    What is still there when the block ends is removed.
    """
    path = target.with_name(f"{TMP}{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield path
    finally:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def put(path: Path, target: Path) -> None:
    """Rename a written file or folder to its final name, once the disk has it; what is there is replaced."""
    sync(path)
    if not target.is_dir():
        path.replace(target)
    elif not _exchanged(path, target):
        with draft(target) as replaced:
            target.rename(replaced)
            try:
                path.rename(target)
            except OSError:
                replaced.rename(target)
                raise
    sync(target.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, so that no reader finds neither; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2  # of Linux
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; missing folders are made.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with draft(file) as path:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        put(path, file)


def write_text(store: Path, name: str, text: str) -> None:
    """Put a small text file into a store, whole.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    with disk_errors(store):
        write_whole(store / name, text)


@contextmanager
def disk_errors(store: Path) -> Iterator[None]:
    """Report in one line why a store could not be written."""
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
    file.write_bytes(content)
    sync(file)


def sync(path: Path) -> None:
    """Wait until the disk has a file's content or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
