"""One rule of trust for every fast way to compute what a plain way computes too.

A fast way is compared with the plain one before its first use, on this machine and model. It is used if the
results agree within its tolerance. If they do not, or if it raises any error then or later, the plain way is
used, and one line is logged. Those that only a GPU has can be switched off: ``CROSSTUNE_GPU_OFF=graphs``
always uses the plain way, which only costs time.
"""

import logging
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from crosstune.config.environment import GPU_OFF, GpuPart, gpu_off
from crosstune.errors import first_line

T = TypeVar("T")
Note = Callable[[str], None]

_log = logging.getLogger("crosstune")
TOLD: dict[str, None] = {}
"""Lines of all that was tried in this process and not used, for run.json."""


def wanted(part: GpuPart) -> bool:
    """Whether a part is not switched off; a `UserError` if the environment variable names something else."""
    return part not in gpu_off()


@dataclass(eq=False)
class FastWay:
    """A fast way and the plain one beside it."""

    fast: str  # what it is, as the line that is said names it
    plain: str  # what is done in its place
    # Largest difference that is trusted, as a share of the plain way's largest number; 0 for the same bits.
    tolerance: float
    because: str  # why that much
    part: GpuPart | None = None  # its name among those that can be switched off, if it is one
    # By what was tried (a model, a shape): why it is not used; empty where it is.
    verdicts: dict[Hashable, str] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def same(self, fast: Tensor, plain: Tensor) -> bool:
        """Whether two results agree within the tolerance; never if one holds NaN."""
        if fast.shape != plain.shape or not self.tolerance:
            return torch.equal(fast, plain)
        fast, plain = fast.detach().float(), plain.detach().float()
        return bool((fast - plain).abs().max() <= self.tolerance * plain.abs().max())

    def fault(self, compare: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> str:
        """Why not to use it: it raises or differs; empty if it is right.

        ``compare`` yields results of the fast way, each with the plain one's.
        """
        try:
            right = all(self.same(fast, plain) for fast, plain in compare())
        except Exception as error:  # of any class: what fails is not used, the plain way still is
            return first_line(error)
        return "" if right else "it gives other numbers"

    def trusted(
        self, key: Hashable, compare: Callable[[], Iterable[tuple[Tensor, Tensor]]], note: Note | None = None
    ) -> bool:
        """Whether to use it: compared, as in `fault`, the first time for each ``key``.

        A model is a key by a weak reference. ``note`` logs one line if it is not used.
        """
        if self.part is not None and not wanted(self.part):
            return False
        if key not in self.verdicts:
            self.verdicts[key] = self.fault(compare)
            if self.verdicts[key]:
                self.tell(self.verdicts[key], note)
        return not self.verdicts[key]

    def distrust(self, key: Hashable, why: str | BaseException, note: Note | None = None) -> bool:
        """Stop using it for ``key``; returns whether it was in use, and so may be the cause."""
        used = self.verdicts.get(key) == ""
        self.verdicts[key] = why if isinstance(why, str) else first_line(why)
        if used:
            self.tell(self.verdicts[key], note)
        return used

    def attempt(self, work: Callable[[], T], note: Note | None = None) -> T | None:
        """Run work whose result cannot be compared; if it raises, log one line and return None."""
        try:
            return work()
        except Exception as error:  # as in `fault`
            self.tell(first_line(error), note)
            return None

    def tell(self, why: str, note: Note | None = None) -> None:
        """Log that the plain way is used: to ``note``, or else once to the log."""
        off = f"; {GPU_OFF}={self.part} does not try" if self.part else ""
        line = f"{self.plain}, not {self.fast} ({why}){off}"
        TOLD[line] = None
        if note is not None:
            note(f"  {line}")
        elif line not in self._said:
            self._said.add(line)
            _log.info(line)
