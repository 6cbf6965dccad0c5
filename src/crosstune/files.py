"""Reads and writes users' files: only regular ones are read, and they are written whole or not at all."""

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from crosstune.errors import UserError

TMP = ".tmp-"
"""What the names of files and folders begin with while they are being written."""

MOST_BYTES = 2**32
"""Of one file that is read whole."""
MOST_TEXT = 2**20
"""Of one that a person writes: a study, a task, claims."""

SUMS = "checksums.json"
"""In a run's folder: SHA-256 of each of its files."""

T = TypeVar("T")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def table_beside(module: str, name: str) -> dict[str, Any]:
    """The TOML file of a name that lies beside a module, whose ``__file__`` is given."""
    return tomllib.loads(Path(module).with_name(name).read_text(encoding="utf-8"))


def user_path(name: str | Path) -> Path:
    """A path as a user wrote it, with ``~`` written out.

    Raises:
        UserError: No file can have it: too long, a zero byte, half a character, a home that nobody has.
    """
    try:
        os.fspath(name).encode()
        path = Path(name).expanduser()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError, RuntimeError) as error:
        shown = os.fspath(name)
        shown = shown if len(shown) <= 80 else f"{shown[:60]}... ({len(shown):,} letters)"
        why = "half a character in it" if isinstance(error, UnicodeError) else _why(error)
        raise UserError(f"{shown}: no file can be called that: {why}") from error
    return path


def open_file(file: Path, most: int | None = MOST_BYTES) -> BufferedReader:
    """Open a regular file of at most so many bytes to read. A pipe would block, and a device may never end.

    Raises:
        OSError: It does not exist, cannot be read, is no regular file, or is larger.
    """
    stream = open(file, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller's to close
    status = os.fstat(stream.fileno())
    why = None
    if not stat.S_ISREG(status.st_mode):
        why = "it is a pipe or a device; give a file"
    elif most is not None and status.st_size > most:
        why = f"{status.st_size:,} bytes, where {most:,} is the most"
    if why is not None:
        stream.close()
        raise OSError(errno.EINVAL, why, str(file))
    return stream


def read_bytes(file: Path, most: int = MOST_BYTES) -> bytes:
    """All of a user's file.

    Raises:
        UserError: As `open_file` refuses it.
    """
    try:
        with open_file(file, most) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({_why(error)})") from error


def as_text(content: bytes, file: Path) -> str:
    """A file's content as UTF-8 text, without a byte order mark.

    Raises:
        UserError: It is not UTF-8; the line is named.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{line}: not UTF-8 text (byte {error.start + 1} of the file)") from error


def read_text(file: Path, most: int = MOST_BYTES) -> str:
    """All of a user's file as text; errors as of `read_bytes` and `as_text`."""
    return as_text(read_bytes(file, most), file)


def _without_waiting(name: str, flags: int) -> int:
    """How `open` opens a file: a pipe without a writer does not block."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


@contextmanager
def draft(target: Path) -> Iterator[Path]:
    """A free path beside ``target`` to write a file or folder to, which `put` moves to its final name.

    Whatever is left there is removed when the block ends.
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
    """Rename a written file or folder to its final name once it is on disk, replacing what is there."""
    sync(path)
    if not (path.is_dir() and target.is_dir()):
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
    """Swap two folders atomically, so that no reader finds one missing; False where the system cannot."""
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
    """Write a small text file into a store, whole.

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
                f"no room on disk: {store} cannot take another run; free some and run the same command "
                "again (finished runs are kept)"
            ) from error
        raise UserError(f"{store}: cannot be written ({error.strerror or error})") from error


def write_synced(file: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    file.write_bytes(content)
    sync(file)


def sync(path: Path) -> None:
    """Wait until a file's content or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open_file(file, None) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- folders with checksums -------------------------------------------------------------------------


class DamagedError(UserError):
    """A file of a run that is missing or is not what its checksum says; the text says what to do."""


def verify(folder: Path, names: Sequence[str], others: bool = False) -> None:
    """Check files of a run against its checksums; with ``others`` all files that these name too.

    Raises:
        DamagedError: One is missing or damaged.
        UserError: One exists and cannot be read, which says nothing about its content.
    """

    def compare(sums: Mapping[str, str]) -> None:
        # A checksums.json that lost a line must not hide what it no longer names.
        for name in dict.fromkeys((*names, *sums)) if others else names:
            if Path(name).name != name:
                raise DamagedError(f"{folder / SUMS} is damaged; {mend(folder)}")
            with _readable(folder / name):
                digest = sha256_of(folder / name)
            _compare(folder / name, digest, sums)

    _against_sums(folder, compare)


def read_verified(file: Path) -> bytes:
    """A file of a run, its checksum verified.

    Raises:
        DamagedError: It is missing or damaged.
        UserError: It cannot be read.
    """

    def read(sums: Mapping[str, str]) -> bytes:
        with _readable(file), open_file(file) as stream:
            content = stream.read()
        _compare(file, hashlib.sha256(content).hexdigest(), sums)
        return content

    return _against_sums(file.parent, read)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a run, by its name.

    Raises:
        DamagedError: They are missing or damaged.
        UserError: They cannot be read.
    """
    file = folder / SUMS
    with _readable(file), suppress(ValueError, RecursionError), open_file(file, MOST_TEXT) as stream:
        sums = json.load(stream)
        if isinstance(sums, dict):
            return sums
    raise DamagedError(f"{file} is damaged; {mend(folder)}")


def _against_sums(folder: Path, check: Callable[[dict[str, str]], T]) -> T:
    """Check a run by its checksums; retry if another process has replaced the run meanwhile."""
    before = None
    while True:
        sums = checksums(folder)
        try:
            return check(sums)
        except DamagedError:
            if sums == before:
                raise
        before = sums


def _compare(file: Path, digest: str, sums: Mapping[str, str]) -> None:
    if digest != sums.get(file.name):
        raise DamagedError(f"{file} is damaged (its checksum differs); {mend(file.parent)}")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Distinguish a missing file from one that cannot be read."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedError(f"{file} is missing; {mend(file.parent)}") from error
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({_why(error)}); see that it can be, then try again"
        ) from error


def mend(folder: Path) -> str:
    """What to do about a damaged run."""
    return f"run the study again, or delete {folder}"
