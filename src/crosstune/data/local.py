"""The order in which a source's examples are taken, and the error for a language it lacks."""

import hashlib
from collections.abc import Sequence

from crosstune.errors import UserError, did_you_mean


def missing_language(task: str, language: str, offered: Sequence[str]) -> UserError:
    """The error for a language a task's source lacks: how many it has, and the nearest."""
    return UserError(
        f'task {task} has no "{language}" among its {len(offered)} languages{did_you_mean(language, offered)}'
    )


def fair_order(key: str) -> bytes:
    """Sort key that shuffles by content: the same in every language, process and machine.

    Files are often sorted by label; in this order the first n examples of a split are a fair sample of it.
    """
    return hashlib.sha256(key.encode()).digest()
