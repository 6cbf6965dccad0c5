"""Where benchmark files lie on this machine, and in which order their examples are taken."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from crosstune.errors import UserError, did_you_mean

DATA_VARIABLE = "CROSSTUNE_DATA"
DEFAULT_DATA = "../shared/data"


def data_root(option: str | None) -> Path:
    """The folder that holds the benchmarks: the task's ``data`` option, else $CROSSTUNE_DATA, else a default.

    Raises:
        UserError: The option or the variable names no folder.
    """
    given = option or os.environ.get(DATA_VARIABLE)
    root = Path(given or DEFAULT_DATA).expanduser()
    if given and not root.is_dir():
        raise UserError(
            f"no data folder {root}: set {DATA_VARIABLE}, or the task's option data, to the folder of the "
            "benchmark files"
        )
    return root


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
