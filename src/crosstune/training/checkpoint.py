"""Checkpoints: all that a training needs to go on to the same bits, in one file that is whole or not there.

A checkpoint is a safetensors file with the tensors of the loop, and its numbers as JSON in the file's head.
It is written under another name, synced, and renamed to ``checkpoint-<step>-<checksum>.safetensors``: a file
whose content is not what its name says is passed over. Nothing here can end a training: where the disk takes
no more, it is said once, and the training goes on without.
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

# Writing may take this share of the time at most: a checkpoint of full fine-tuning is gigabytes.
_SHARE = 1 / 20


@dataclass(frozen=True)
class Saved:
    """A checkpoint's content.

    Attributes:
        tensors: On the CPU.
        facts: Numbers and lists, as JSON knows them.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoint:
    """The checkpoint of one training.

    Args:
        folder: Of this training alone; it is there.
        made_for: Names everything that decides the training. A checkpoint of something else is not used.
        note: Told in one line what was taken up, and what could not be used or written.
        passes: Their limits and counts are kept as well, and put back.
        taken_up: Called when a checkpoint is gone on from.

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
        """The newest whole checkpoint; None if there is none of this training."""
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
            self._note(f"  training goes on behind step {int(file.stem.split('-')[1])}")
            return Saved(tensors, json.loads(head["facts"]))
        return None

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return self._writes and time.monotonic() >= self._next

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint in place of the one before."""
        if not self._writes:
            return
        began = time.monotonic()
        try:
            self._write(step, tensors, facts)
        except OSError as error:
            self._writes = False
            self._note(
                f"  no checkpoint can be written ({error.strerror or error}); "
                "training goes on, but if stopped it would begin anew"
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
