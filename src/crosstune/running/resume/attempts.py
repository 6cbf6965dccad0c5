"""Records on disk which pass a run is in, so that a process killed in it can be learned from.

A kernel that runs out of memory kills a process without an error, and the next process would do the same. So
every pass through the model is recorded before it begins, and the file is removed however the run ends, even
by an error or Ctrl-C. If the file still exists, the process was killed in that pass. After `DEATHS` processes
in a row killed in the same pass, the token limit is lowered.

The cause of the kill does not matter: Ray, systemd-oomd and clusters kill for memory too. Kills for other
reasons do not hit the same pass that often: they hit another, or come after a later checkpoint or answer.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from crosstune.errors import UserError
from crosstune.models.memory.token_limit import TokenLimit

DEATHS = 3
"""Deaths in the same pass after which fewer tokens go through the model at once."""

_FILE = "pass.json"
_BYTES = 4096


@dataclass(frozen=True)
class _Mark:
    """A pass that has begun."""

    made_for: str  # names everything that decides the run
    position: str  # what was kept of the run when its process began
    number: int  # of the pass, counted from there
    doing: str  # "training" or "evaluation"
    rows: int  # examples in the pass
    size: int  # tokens, padding included
    limits: dict[str, tuple[int, int]]  # by what is done: most tokens at once, and how often that was halved
    deaths: int = 0  # how many processes before this one died in the very same pass


@contextmanager
def attempt(
    folder: Path, made_for: str, position: str, passes: Sequence[TokenLimit], note: Callable[[str], None]
) -> Iterator[None]:
    """Inside, passes are recorded; the token limit is lowered if earlier processes were killed.

    ``position`` names what is saved of the run so far; ``passes`` are of different kinds.

    Raises:
        UserError: They were killed on a single example.
    """
    file = folder / _FILE
    before = _read(file, made_for)
    if before is not None:
        before = replace(before, deaths=before.deaths + 1)
        _learn(before, position, passes, note)
    descriptor = None
    with suppress(OSError):  # a full disk: nothing can be learnt from a death then
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    number = 0

    def begun(kind: TokenLimit, rows: int, size: int) -> None:
        nonlocal number
        number += 1
        limits = {other.doing: (other.limit, other.halvings) for other in passes}
        mark = _Mark(made_for, position, number, kind.doing, rows, size, limits)
        if before is not None and mark == replace(before, deaths=0):
            mark = before
        if descriptor is not None:
            with suppress(OSError):
                os.pwrite(descriptor, json.dumps(asdict(mark)).encode().ljust(_BYTES), 0)

    for kind in passes:
        kind.watch = begun
    try:
        yield
    finally:
        for kind in passes:
            kind.watch = None
        if descriptor is not None:
            os.close(descriptor)
        file.unlink(missing_ok=True)


def _learn(mark: _Mark, position: str, passes: Sequence[TokenLimit], note: Callable[[str], None]) -> None:
    """Restore the limits that applied, and lower one if processes repeatedly died in the same pass."""
    for kind in passes:
        kind.cap(*mark.limits[kind.doing])
    if mark.position != position or mark.deaths < DEATHS:
        return
    died = f"this run's process was killed {mark.deaths} times in {mark.doing}"
    if mark.rows <= 1:
        raise UserError(
            f"{died} on one example of {mark.size} tokens, as when memory runs out; "
            "set train.gradient_checkpointing, or take a smaller model or another device"
        )
    lowered = next(kind for kind in passes if kind.doing == mark.doing)
    lowered.cap_below(mark.size)
    note(f"  {died}, as when memory runs out: {lowered.limit} tokens at once from here on")


def _read(file: Path, made_for: str) -> _Mark | None:
    """What a killed process was doing; None if none was killed, or the file cannot be read."""
    try:
        mark = TypeAdapter(_Mark).validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None
    return mark if mark.made_for == made_for else None
