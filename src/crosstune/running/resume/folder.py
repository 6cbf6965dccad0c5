"""The working folder of an unfinished run, from which the next process resumes."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.journal import Journal
from crosstune.running.recording import fingerprints
from crosstune.running.resume.attempts import attempt
from crosstune.running.task_data import TaskData
from crosstune.store import provenance
from crosstune.study.runs import Run
from crosstune.training.checkpoint import Checkpoint, TensorFile

_JOURNAL = "journal.jsonl"


class ResumeFolder:
    """A run's checkpoint, journal, and number of times it was resumed.

    Args:
        folder: For this run only; created if missing. None to save nothing.
        made_for: Hash of everything that determines the run (`made_for`).
        note: Logs one line when resuming, and for files that cannot be used or written.
    """

    def __init__(self, folder: Path | None, made_for: str, note: Callable[[str], None]) -> None:
        self._folder, self._made_for, self._note = folder, made_for, note
        self._counted = False
        self._checkpoint: Checkpoint | None = None
        self.resumed = 0
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.resumed = _number(folder / "resumed")
        except OSError as error:
            note(f"  {folder} cannot be written ({error.strerror or error}); a stopped run would start over")
            self._folder = None

    def checkpoint(self, *passes: TokenLimit) -> Checkpoint | None:
        """Of the training."""
        if self._folder is None:
            return None
        self._checkpoint = Checkpoint(self._folder, self._made_for, self._note, passes, self._count)
        return self._checkpoint

    @property
    def trained(self) -> TensorFile | None:
        """The file of the parameters that training has ended with, where one could be written."""
        return None if self._checkpoint is None else self._checkpoint.finished

    @contextmanager
    def attempt(self, *passes: TokenLimit) -> Iterator[None]:
        """All passes of the run; see `crosstune.running.resume.attempts`.

        Raises:
            UserError: Processes before this one died on one example alone.
        """
        if self._folder is None:
            yield
            return
        checkpoints = sorted(file.name for file in self._folder.glob("checkpoint-*-*.safetensors"))
        journal = self._folder / _JOURNAL
        lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
        position = json.dumps([checkpoints, max(0, lines - 1)])  # the first line holds no answers
        with attempt(self._folder, self._made_for, position, passes, self._note):
            yield

    @contextmanager
    def journal(self, weights: Mapping[str, Tensor]) -> Iterator[Journal[Any] | None]:
        """Of the evaluation of these weights."""
        if self._folder is None:
            yield None
            return
        # Gigabytes in full fine-tuning: what is on disk has its digest.
        digest = _digest(weights) if self.trained is None else self.trained.sha256
        name = f"{self._made_for} {digest}"
        journal: Journal[Any] = Journal(self._folder / _JOURNAL, name, self._note, self._count)
        try:
            yield journal
        finally:
            journal.close()

    def _count(self) -> None:
        """Something made before is gone on from: counted once for each process."""
        if self._folder is None or self._counted:
            return
        self._counted = True
        self.resumed += 1
        with suppress(OSError):  # a count for the record, nothing that decides a result
            (self._folder / "resumed").write_text(str(self.resumed), encoding="utf-8")


def made_for(run: Run, lm: LanguageModel, data: TaskData, stages: Mapping[str, str]) -> str:
    """One name for everything that decides a run: id, learning rate, data, model revision, versions.

    ``stages`` are the digests of those it stands on.
    """
    content = {
        "run": run.id,
        "train": None if run.train is None else run.train.facts(),
        "data": fingerprints(run, data).entries(),
        "revision": lm.revision,
        "versions": provenance.versions(),
    }
    if stages:
        content["stages"] = dict(stages)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Of the weights' very bits: on a GPU the same training may end in others."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _number(file: Path) -> int:
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return int(text) if text.isdigit() else 0
