"""transformers without its progress bars and notices, for as long as a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as _logging

logging: Any = _logging  # not annotated throughout


@contextmanager
def without_notices() -> Iterator[None]:
    """Silence transformers below errors; what was set before comes back, also after an exception.

    What its notices would have said that matters (weights missing from a file) is checked by the caller.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
