"""Failed runs and their errors: ``<store>/.failed/<run id>.json``, until they are tried again."""

import json
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from crosstune.errors import Diverged, NotHere, UserError
from crosstune.files import open_file, write_text
from crosstune.store import provenance
from crosstune.store.store import RUN_ID

FOLDER = ".failed"


@dataclass(frozen=True)
class Failure:
    """One failed run."""

    id: str  # of the run
    name: str  # task, method and seed
    error: str  # what went wrong, in one line
    when: str  # UTC, ISO 8601
    # Whether training diverged, as it would again; any other failure may have been the moment's.
    diverged: bool = False


_NOTE = TypeAdapter(Failure)


def keep(store: Path, run_id: str, name: str, error: Exception) -> Failure:
    """Record that a run failed, and why. An error that is no `UserError` keeps its traceback.

    What other processes could do (`NotHere`) is not recorded: they try it without being told to.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    known = isinstance(error, UserError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    failure = Failure(run_id, name, " ".join(text.split()), provenance.now(), isinstance(error, Diverged))
    if isinstance(error, NotHere):
        return failure
    content = asdict(failure) | {
        "traceback": None if known else "".join(traceback.format_exception(error)),
        "versions": provenance.versions(),
    }
    write_text(store, f"{FOLDER}/{run_id}.json", json.dumps(content, indent=1, ensure_ascii=False))
    return failure


def read(store: Path) -> dict[str, Failure]:
    """The failures of a store by run id. An unreadable file is ignored: its run is tried again."""
    failures = {}
    for file in sorted((store / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError):
            with open_file(file) as stream:
                failure = _NOTE.validate_json(stream.read())
            if RUN_ID.fullmatch(file.stem) and failure.id == file.stem:
                failures[failure.id] = failure
    return failures


def forget(store: Path, run_id: str) -> None:
    """Remove a failure: its run is tried again, or has finished."""
    (store / FOLDER / f"{run_id}.json").unlink(missing_ok=True)
