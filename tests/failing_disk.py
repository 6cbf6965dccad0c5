"""A disk whose n-th operation fails, for real code: every call by which Python reaches files is counted."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

LOOKS = ("stat", "lstat", "fstat", "scandir", "listdir", "readlink", "read")
CHANGES = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "link", "symlink", "chmod", "fchmod",
           "utime", "truncate", "ftruncate", "write", "pwrite", "fsync")  # fmt: skip
FULL = {"open", "mkdir", "link", "symlink", "write", "pwrite", "fsync", "rename", "replace"}
"""Operations that a full disk refuses; reading and removing still work there."""


@dataclass
class Disk:
    """Operations on files below a folder.

    Attributes:
        folder: Whose files count.
        fails_at: Number of the operation that fails, from 1; None for none.
        error: The error's number.
        before_any: Called before each operation.
        before_change: Called before each operation that changes the disk, and in the middle of each write.
        done: The operations so far: name and path.
        quiet: Operations do not count at the moment.
        failed: The operation that has failed, in words.
    """

    folder: Path
    fails_at: int | None = None
    error: int = errno.EIO
    before_any: Callable[[], None] | None = None
    before_change: Callable[[], None] | None = None
    done: list[tuple[str, str]] = field(default_factory=list)
    quiet: bool = False
    failed: str = ""

    def __str__(self) -> str:
        return self.failed

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Operations in here do not count."""
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    def step(self, name: str, where: Any, folder: int | None = None) -> None:
        """One more operation.

        Raises:
            OSError: It is the one that fails.
        """
        if self.quiet:
            return
        with self.unseen():
            path = _path(where, folder)
            if not path.startswith(str(self.folder)):
                return
            self.done.append((name, path))
            if self.before_any is not None:
                self.before_any()
            if self.before_change is not None and name not in LOOKS:
                self.before_change()
        if len(self.done) == self.fails_at:
            self.failed = f"{self.fails_at}: {errno.errorcode[self.error]} {name} {path}"
            raise OSError(self.error, os.strerror(self.error), path)

    def write(self, name: str, write: Callable[[Any], int], where: Any, content: Any) -> int:
        """Write; where that fails, half of it is there, as on a disk that has just become full."""
        half = memoryview(content)[: len(content) // 2]
        try:
            self.step(name, where)
        except OSError:
            write(half)
            raise
        done = 0
        if self.before_change is not None and len(half):
            done = write(half)
            self.before_change()
        return done + write(memoryview(content)[done:])


def _path(where: Any, folder: int | None) -> str:
    if isinstance(where, int):
        return str(Path(f"/proc/self/fd/{where}").readlink())
    path = os.fsdecode(where)
    return path if folder is None else f"{_path(folder, None)}/{path}"


@contextmanager
def watched(disk: Disk) -> Iterator[Disk]:
    """Inside, the operations of this process count."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug here
        for name in (*LOOKS, *CHANGES, "open"):
            patched.setattr(os, name, _counted(disk, name, getattr(os, name)))
        opened, saved = _opened(disk, io.open), _saved(disk, safetensors.torch.save_file)
        patched.setattr(io, "open", opened)
        patched.setattr(builtins, "open", opened)
        patched.setattr(safetensors.torch, "save_file", saved)
        yield disk


def _counted(disk: Disk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def operation(where: Any = ".", *rest: Any, **more: Any) -> Any:
        if name in ("write", "pwrite"):
            return disk.write(name, lambda part: real(where, part, *rest[1:]), where, rest[0])
        disk.step(name, where, more.get("dir_fd"))
        return real(where, *rest, **more)

    return operation


def _opened(disk: Disk, real: Callable[..., Any]) -> Callable[..., Any]:
    class Raw(io.FileIO):
        def write(self, content: Any) -> int:
            return disk.write("write", super().write, self.name, content)

        def readinto(self, into: Any) -> int:
            disk.step("read", self.name)
            return super().readinto(into)

        def readall(self) -> bytes:
            disk.step("read", self.name)
            return super().readall()

        def truncate(self, size: int | None = None) -> int:
            disk.step("truncate", self.name)
            return super().truncate(size)

    def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
               errors: str | None = None, newline: str | None = None, closefd: bool = True,
               opener: Any = None) -> Any:  # fmt: skip
        count = len(disk.done)
        if isinstance(file, int) or disk.quiet:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        disk.step("open", file)
        if len(disk.done) == count:
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Raw(file, mode.replace("b", "").replace("t", ""), opener=opener)
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        buffer: Any = kind(raw)  # type: ignore[operator]
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

    return opened


def _saved(disk: Disk, real: Callable[..., Any]) -> Callable[..., Any]:
    """safetensors writes by itself, and tells what the disk said in words."""

    def save_file(tensors: Any, at: Path, metadata: Any = None) -> None:
        with disk.unseen():
            real(tensors, at, metadata)
            content = at.read_bytes()
            at.unlink()
        try:
            with io.open(at, "wb", buffering=0) as stream:  # noqa: UP020 - the one that counts
                stream.write(content)
        except OSError as error:
            raise safetensors.SafetensorError(
                f"I/O error: {error.strerror} (os error {error.errno})"
            ) from error

    return save_file
