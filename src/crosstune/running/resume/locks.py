"""One lock a run, so that several processes or machines can share one store.

A process locks ``<store>/.claims/<run id>.lock`` and holds it until the run is stored or has failed. The
operating system frees the locks of a process that dies, whatever killed it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from crosstune.errors import UserError
from crosstune.store.store import CLAIMS


class RunLocks:
    """The locks of a store's runs; the store's folder exists."""

    def __init__(self, store: Path) -> None:
        self.folder = store / CLAIMS
        self.folder.mkdir(exist_ok=True)

    @contextmanager
    def acquire(self, run_id: str) -> Iterator[bool]:
        """Lock a run for the block; yields False immediately if another process holds the lock.

        Raises:
            UserError: The store's file system has no locks.
        """
        file = self.folder / f"{run_id}.lock"
        lock = filelock.FileLock(file)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            yield False
            return
        except (OSError, NotImplementedError) as error:
            raise UserError(
                f"{file}: cannot be locked ({error}); put the store on a file system with locks, "
                "see docs/cluster.md"
            ) from error
        try:
            yield True
        finally:
            # The file stays: were it removed, one process could lock the old file and another a new one.
            lock.release()

    def held(self, run_id: str) -> bool:
        """Whether another process is making the run now."""
        if not (self.folder / f"{run_id}.lock").exists():
            return False
        with self.acquire(run_id) as acquired:
            return not acquired
