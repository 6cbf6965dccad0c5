"""Checkpoints with everything needed to resume training to the same bits, in one file written atomically.

A checkpoint is a safetensors file with the tensors of the loop, and its numbers as JSON in the metadata. It
is written under a temporary name, synced, and renamed to ``checkpoint-<step>-<checksum>.safetensors``. A file
whose content does not match the checksum in its name is ignored. A write error never ends the training: it
is logged once, and training continues without checkpoints.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from crosstune.config import environment
from crosstune.files import draft, put, sha256_of
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.models.tensor_file import write_tensors

# Largest share of the time spent on writing: a checkpoint of full fine-tuning has gigabytes.
_SHARE = 1 / 20


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
                if _checksum(file) != file.stem.rpartition("-")[2]:
                    self._note(f"  {file.name} is damaged and is not used")
                    continue
                with safe_open(file, framework="pt") as opened:
                    head = opened.metadata() or {}
                    if head.get("made_for") != self._made_for:
                        self._note(
                            "  a checkpoint of other settings, data, versions or another model is not used: "
                            "trained from the start"
                        )
                        continue
                    tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                self._note(f"  {file.name} cannot be read and is not used ({error})")
                continue
            for passes, state in zip(self._passes, json.loads(head["passes"]), strict=True):
                passes.put_back(state)
            if self._taken_up is not None:
                self._taken_up()
            self._note(f"  training resumes after step {int(file.stem.split('-')[1])}")
            return Saved(tensors, json.loads(head["facts"]))
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
        before = list(self._folder.glob("checkpoint-*-*.safetensors"))
        with draft(self._folder / "checkpoint") as path:
            passes = json.dumps([limit.state() for limit in self._passes])
            head = {"made_for": self._made_for, "facts": json.dumps(facts), "passes": passes}
            write_tensors(tensors, path, head)
            target = self._folder / f"checkpoint-{step:09d}-{_checksum(path)}.safetensors"
            put(path, target)
        for old in before:
            if old != target:
                old.unlink(missing_ok=True)


def _checksum(file: Path) -> str:
    return sha256_of(file)[:32]
