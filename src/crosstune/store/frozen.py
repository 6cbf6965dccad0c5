"""Claims that were fixed before results: a copy and its hash in the store, and the runs there were then."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from crosstune.errors import UserError
from crosstune.files import MOST_TEXT, disk_errors, read_text, sha256_of, write_whole
from crosstune.store.store import finished

FROZEN = "frozen-claims.json"


@dataclass(frozen=True)
class Frozen:
    """A file of claims as it was."""

    name: str  # the file's
    sha256: str  # of its bytes
    at: str  # UTC, ISO 8601, to the second
    runs: tuple[str, ...]  # ids of the runs that were finished by then
    text: str  # the file's content

    @property
    def day(self) -> str:
        """Year, month and day."""
        return self.at[:10]


_ENTRIES = TypeAdapter(list[Frozen])


def read_frozen(store: Path) -> list[Frozen]:
    """What was frozen in a store, oldest first; nothing where nothing was.

    Raises:
        UserError: The file is damaged.
    """
    file = store / FROZEN
    if not file.is_file():
        return []
    try:
        return _ENTRIES.validate_json(read_text(file, 100 * MOST_TEXT))
    except ValidationError:
        raise UserError(f"{file} is not as crosstune wrote it; delete it to go on without") from None


def freeze(file: Path, store: Path) -> Frozen:
    """Keep a file of claims in a store as it is now. The same content again stays as it was first kept.

    Raises:
        UserError: The file cannot be read, or the store cannot be written.
    """
    entries, digest = read_frozen(store), sha256_of(file)
    for entry in entries:
        if entry.sha256 == digest:
            return entry
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Frozen(file.name, digest, at, tuple(sorted(finished(store))), read_text(file, MOST_TEXT))
    with disk_errors(store):
        store.mkdir(parents=True, exist_ok=True)
        content = [asdict(kept) for kept in (*entries, entry)]
        write_whole(store / FROZEN, json.dumps(content, indent=1, ensure_ascii=False))
    return entry
