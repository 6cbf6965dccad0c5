"""Prompts as data: TOML files beside this module, and the one way their places are filled.

Imports nothing of its neighbours.
"""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

_PLACE = re.compile(r"\{(\w+)\}")


@cache
def load_prompts(name: str) -> dict[str, Any]:
    """The parsed ``<name>.toml`` of this folder. Read once; callers do not change it."""
    return tomllib.loads((files(__package__) / f"{name}.toml").read_text(encoding="utf-8"))


def render(template: str, /, **values: str) -> str:
    """Fill ``{place}`` with its value, in one pass.

    A value is copied as it is: braces, percent signs or backslashes inside a dataset's text mean nothing
    here, which is why this is not `str.format`.

    Raises:
        KeyError: The template names a place that was not given (a mistake in a prompt file, not a user's).
    """
    return _PLACE.sub(lambda place: values[place[1]], template)
