"""What a run's process is doing, on disk, so that one that died without a word can be learnt from.

A kernel that runs out of memory kills a process at once: no error, and the next process would do the same.
So every pass through the model is written down before it begins, and taken away however the run ends, be it
by an error or by Ctrl-C. Where it is still there, the process was killed in that pass. Linux counts what its
kernel kills for memory: the count is written down with the pass, and a death beside which it rose is taken
for one of memory. `DEATHS` of those in the very same pass, one after the other, and less goes at once.

A kill for any other reason must not change a result, but some who kill for memory are not the kernel (Ray,
systemd-oomd, a cluster's limits), and not every system counts. So deaths in the very same pass that nothing
explains have the same effect when there are `UNEXPLAINED_DEATHS`: kills at random do not hit one pass that
often, for they hit another each time, or leave a checkpoint or answers that are further on.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from crosstune.errors import UserError
from crosstune.models.memory.token_limit import Passes

DEATHS = 2
"""Deaths by the kernel in the same pass after which fewer tokens go through the model at once."""

UNEXPLAINED_DEATHS = 5
"""The same, where the kernel says it killed nothing or says nothing."""

_FILE = "pass.json"
_BYTES = 4096
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_COUNTS = Path("/proc/vmstat")


@dataclass(frozen=True)
class _Mark:
    """A pass that has begun.

    Attributes:
        made_for: Names everything that decides the run.
        position: What was kept of the run when its process took it up.
        number: Of the pass, counted from there.
        doing: "training" or "evaluation".
        rows: Examples in the pass.
        size: Tokens, padding included.
        limits: By what is done: most tokens at once, and how often that was halved.
        deaths: How many processes before this one died in the very same pass.
        by_kernel: How many of them while the kernel killed for memory.
        boot: Of the machine; empty where it does not say.
        kernel_kills: The machine's, for memory, since it started; -1 where it does not say.
    """

    made_for: str
    position: str
    number: int
    doing: str
    rows: int
    size: int
    limits: dict[str, tuple[int, int]]
    deaths: int
    by_kernel: int
    boot: str
    kernel_kills: int

    def same_pass(self, other: "_Mark") -> bool:
        mine, its = (
            (mark.position, mark.number, mark.doing, mark.rows, mark.size, mark.limits[mark.doing])
            for mark in (self, other)
        )
        return mine == its

    def died(self) -> "_Mark":
        """The pass, with the death of its process counted."""
        boot, kills = kernel_kills()
        by_kernel = self.boot == boot and 0 <= self.kernel_kills < kills
        return replace(self, deaths=self.deaths + 1, by_kernel=self.by_kernel + by_kernel)

    def too_large(self) -> bool:
        return self.by_kernel >= DEATHS or self.deaths >= UNEXPLAINED_DEATHS


def kernel_kills() -> tuple[str, int]:
    """Which start of the machine this is, and how many processes its kernel killed for memory since.

    All of the machine's, whoever's they were: a kill beside ours is taken for ours, which at worst costs a
    second death. "" and -1 where the system does not tell (it is not Linux, or hides it).
    """
    try:
        boot, counts = _BOOT.read_text("ascii").strip(), _COUNTS.read_text("ascii")
        return boot, next(
            int(line.split()[1]) for line in counts.splitlines() if line.startswith("oom_kill ")
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return "", -1


@contextmanager
def attempt(
    folder: Path, made_for: str, position: str, passes: Sequence[Passes], note: Callable[[str], None]
) -> Iterator[None]:
    """Inside, passes are written down; fewer tokens go at once where processes before died without a word.

    Args:
        folder: Of this run alone; it is there.
        made_for: Names everything that decides the run.
        position: Names what is kept of the run so far.
        passes: Of the run, each of another kind.
        note: Told in one line when something was learnt.

    Raises:
        UserError: They died on one example alone.
    """
    file = folder / _FILE
    before = _read(file, made_for)
    if before is not None:
        before = before.died()
        _learn(before, position, passes, note)
    descriptor = None
    with suppress(OSError):  # a full disk: nothing can be learnt from a death then
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    number = 0
    boot, kills = kernel_kills()

    def begun(one: Passes, rows: int, size: int) -> None:
        nonlocal number
        number += 1
        limits = {each.doing: (each.limit, each.halvings) for each in passes}
        mark = _Mark(made_for, position, number, one.doing, rows, size, limits, 0, 0, boot, kills)
        if before is not None and mark.same_pass(before):
            mark = replace(mark, deaths=before.deaths, by_kernel=before.by_kernel)
        if descriptor is not None:
            with suppress(OSError):
                os.pwrite(descriptor, json.dumps(asdict(mark)).encode().ljust(_BYTES), 0)

    for each in passes:
        each.watch = begun
    try:
        yield
    finally:
        for each in passes:
            each.watch = None
        if descriptor is not None:
            os.close(descriptor)
        file.unlink(missing_ok=True)


def _learn(mark: _Mark, position: str, passes: Sequence[Passes], note: Callable[[str], None]) -> None:
    """Put back the limits that held, and lower one if processes died in the same pass again and again."""
    for each in passes:
        each.cap(*mark.limits[each.doing])
    if mark.position != position or not mark.too_large():
        return
    times = "twice" if mark.deaths == 2 else f"{mark.deaths} times"
    died = f"this run's process died {times} without a word in {mark.doing}"
    if mark.rows <= 1:
        raise UserError(
            f"{died} on one example of {mark.size} tokens, as when the kernel kills for memory; "
            "set train.gradient_checkpointing, or take a smaller model or another device"
        )
    one = next(each for each in passes if each.doing == mark.doing)
    one.cap_below(mark.size)
    note(f"  {died}, as when the kernel kills for memory: {one.limit} tokens at once from here on")


def _read(file: Path, made_for: str) -> _Mark | None:
    """What a process that died was doing; None if none died, or nothing can be made of it."""
    try:
        mark = _Mark(**json.loads(file.read_bytes()))
        limits = {doing: (int(limit), int(halvings)) for doing, (limit, halvings) in mark.limits.items()}
        mark = replace(mark, limits=limits)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return mark if mark.made_for == made_for else None
