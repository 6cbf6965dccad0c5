"""Answers on disk as they are computed, so that a killed evaluation resumes after its last whole batch.

Each line holds one batch: the CRC-32 of the rest, and JSON. The first line identifies the evaluation. The
file is cut off at the first torn or damaged line. Nothing here can end an evaluation: if the disk is full,
one line is logged and evaluation continues without a journal.
"""

import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypedDict, TypeVar

from crosstune.models.memory.token_limit import TokenLimit

T = TypeVar("T")

SYNC_EVERY = 5.0
"""Seconds between two waits for the disk: a killed process loses nothing, a lost machine as much as this."""


class Journal(Generic[T]):
    """The answers of one evaluation, in a file that is created if missing.

    ``made_for`` names everything that determines the answers: a journal of another evaluation is emptied.
    ``note`` logs one line about what was read, and what could not be used or written; ``taken_up`` is called
    if answers are reused.

    Attributes:
        answers: Those read, by index.
        seconds: Wall time that they took.
        passes: State of the passes after the last of them (`TokenLimit.state`).
    """

    def __init__(
        self,
        file: Path,
        made_for: str,
        note: Callable[[str], None],
        taken_up: Callable[[], None] | None = None,
    ) -> None:
        self.answers: dict[int, T] = {}
        self.passes: dict[str, Any] | None = None
        self.seconds = 0.0
        self._note = note
        self._stream: BinaryIO | None = None
        self._began = self._synced = time.monotonic()
        try:
            good = self._read(file, made_for)
            self._stream = file.open("r+b" if file.exists() else "w+b")
            self._stream.truncate(good)
            self._stream.seek(good)
            if good == 0:
                self._write({"made_for": made_for})
        except OSError as error:
            self._give_up(error)
        if self.answers:
            note(f"  evaluation resumes after {len(self.answers)} examples")
            if taken_up is not None:
                taken_up()

    def add(self, items: Sequence[int], answers: Sequence[T], passes: TokenLimit) -> None:
        """Append the answers of a finished batch."""
        if self._stream is None:
            return
        try:
            now = time.monotonic()
            seconds = self.seconds + now - self._began
            entry = {"items": list(items), "answers": list(answers)}
            self._write(entry | {"passes": passes.state(), "seconds": seconds})
            if now - self._synced > SYNC_EVERY:
                os.fsync(self._stream.fileno())
                self._synced = now
        except OSError as error:
            self._give_up(error)

    def section(self, first: int, count: int) -> "Journal[T]":
        """The same journal for ``count`` examples from ``first`` on, which are counted from 0 in it."""
        return _Section(self, first, count)

    def close(self) -> None:
        """Close the file."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OSError):  # what a full disk did not take, as said before
                stream.close()

    def _write(self, entry: dict[str, Any]) -> None:
        assert self._stream is not None
        text = json.dumps(entry, separators=(",", ":")).encode()
        self._stream.write(b"%08x %s\n" % (zlib.crc32(text), text))
        self._stream.flush()

    def _read(self, file: Path, made_for: str) -> int:
        """Read the whole entries; returns how many bytes of the file they take."""
        if not file.exists():
            return 0
        good = 0
        with file.open("rb") as lines:
            for line in lines:
                entry = _entry(line)
                if entry is None:
                    break
                if good == 0:
                    if entry.get("made_for") != made_for:
                        self._note("  answers of another model, data or version are not used: starting again")
                        return 0
                else:
                    self.answers.update(zip(entry["items"], entry["answers"], strict=True))
                    self.passes, self.seconds = entry["passes"], entry["seconds"]
                good += len(line)
        return good

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._note(
            f"  answers cannot be saved as they are computed ({error.strerror or error}); "
            "continuing, but a stopped evaluation would start again"
        )


class _Section(Journal[T]):
    def __init__(self, whole: Journal[T], first: int, count: int) -> None:
        self._whole, self._first = whole, first
        self.answers = {i: whole.answers[first + i] for i in range(count) if first + i in whole.answers}
        self.passes = whole.passes

    def add(self, items: Sequence[int], answers: Sequence[T], passes: TokenLimit) -> None:
        self._whole.add([self._first + i for i in items], answers, passes)


class Stream(TypedDict, total=False):
    """Progress, limits and journal of an evaluation."""

    tell: Callable[[int], None] | None  # called with the number of examples done since the last call
    # Says how many tokens go at once, and is lowered when memory runs out; made from the settings by
    # default.
    passes: TokenLimit | None
    # Saves answers as they are computed, and has those computed before for the same examples.
    journal: Journal[Any] | None


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None if it is torn or damaged."""
    sum_, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or sum_ != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry
