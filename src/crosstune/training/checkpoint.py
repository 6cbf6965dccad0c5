"""Checkpoints with everything needed to resume training to the same bits, written whole or not at all.

A checkpoint is a safetensors file with the tensors of the loop, and its numbers as JSON in a file beside it.
The tensors are written under a temporary name, synced, and renamed to
``checkpoint-<step>-<checksum>.safetensors`` once ``checkpoint-<step>-<checksum>.json`` is there. Files whose
content does not match the checksum in their name are ignored. A write error never ends the training: it is
logged once, and training continues without checkpoints.

That of a finished training holds the parameters alone: where those are what the store keeps, a run's weights
are this very file, so that gigabytes are copied, written and hashed once (`Checkpoint.finished`).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from crosstune.config import environment
from crosstune.files import draft, open_file, put, write_synced
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.models.tensor_file import write_tensors

# Largest share of the time spent on writing: a checkpoint of full fine-tuning has gigabytes.
_SHARE = 1 / 20


@dataclass(frozen=True)
class TensorFile:
    """A file of tensors that is on disk."""

    path: Path
    sha256: str

    def taken_to(self, at: Path) -> str:
        """Make it the file at another path too, copied only where the disk has no links; its SHA-256."""
        try:
            at.hardlink_to(self.path)
        except OSError:
            shutil.copyfile(self.path, at)
        return self.sha256


@dataclass(frozen=True)
class Saved:
    """A checkpoint's content."""

    tensors: dict[str, Tensor]  # on the CPU
    facts: dict[str, Any]  # JSON values


class Checkpoint:
    """The checkpoint of one training, in an existing folder for it only.

    ``made_for`` is a hash of everything that determines the training: other checkpoints are not used. The
    limits and counts of ``passes`` are saved too. ``note`` logs one line when resuming, and for checkpoints
    that cannot be used or written; ``taken_up`` is called when training resumes.

    Attributes:
        finished: The parameters of the finished training, once they are written or read.

    Raises:
        UserError: The environment variable is no number of seconds.
    """

    def __init__(
        self,
        folder: Path,
        made_for: str,
        note: Callable[[str], None],
        passes: Sequence[TokenLimit] = (),
        taken_up: Callable[[], None] | None = None,
    ) -> None:
        self._folder, self._made_for, self._note, self._passes = folder, made_for, note, passes
        self._taken_up = taken_up
        self.finished: TensorFile | None = None
        self._every = environment.checkpoint_seconds()
        self._writes = True
        self._next = time.monotonic() + self._every

    def load(self) -> Saved | None:
        """The newest intact checkpoint of this training, or None."""
        # What a killed process has half written, under its own name or that of safetensors.
        with suppress(OSError):
            for leftover in self._folder.glob(".tmp*"):
                leftover.unlink(missing_ok=True)
        for file in sorted(self._folder.glob("checkpoint-*-*.safetensors"), reverse=True):
            try:
                head = file.with_suffix(".json").read_bytes()
                sha256, name = _digests(file, head)
                if name != file.stem.rpartition("-")[2]:
                    self._note(f"  {file.name} is damaged and is not used")
                    continue
                content = json.loads(head)
                if content["made_for"] != self._made_for:
                    self._note(
                        "  a checkpoint of other settings, data, versions or another model is not used: "
                        "trained from the start"
                    )
                    continue
                with safe_open(file, framework="pt") as opened:
                    tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                self._note(f"  {file.name} cannot be read and is not used ({error})")
                continue
            for passes, state in zip(self._passes, content["passes"], strict=True):
                passes.put_back(state)
            if self._taken_up is not None:
                self._taken_up()
            self._note(f"  training resumes after step {int(file.stem.split('-')[1])}")
            if content["facts"]["finished"]:
                self.finished = TensorFile(file, sha256)
            return Saved(tensors, content["facts"])
        return None

    def due(self) -> bool:
        """Whether it is time to write one."""
        return self._writes and time.monotonic() >= self._next

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint, replacing the previous one."""
        if not self._writes:
            return
        began = time.monotonic()
        try:
            self._write(step, tensors, facts)
        except OSError as error:
            self._writes = False
            self._note(
                f"  no checkpoint can be written ({error.strerror or error}); "
                "training continues, but would start over if stopped"
            )
        ended = time.monotonic()
        self._next = ended + (max(self._every, (ended - began) / _SHARE) if self._every else 0.0)

    def _write(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        before = list(self._folder.glob("checkpoint-*-*.*"))
        passes = [limit.state() for limit in self._passes]
        head = json.dumps({"made_for": self._made_for, "facts": facts, "passes": passes}).encode()
        with draft(self._folder / "checkpoint") as path:
            write_tensors(tensors, path)
            sha256, name = _digests(path, head)
            target = self._folder / f"checkpoint-{step:09d}-{name}.safetensors"
            write_synced(target.with_suffix(".json"), head)
            put(path, target)
        for old in before:
            if old.stem != target.stem:
                old.unlink(missing_ok=True)
        if facts["finished"]:
            self.finished = TensorFile(target, sha256)


def _digests(file: Path, head: bytes) -> tuple[str, str]:
    """SHA-256 of a file of tensors, and the checksum of it and of what is written beside it."""
    with open_file(file, None) as stream:
        digest = hashlib.file_digest(stream, "sha256")
    sha256 = digest.hexdigest()
    digest.update(head)
    return sha256, digest.hexdigest()[:32]
