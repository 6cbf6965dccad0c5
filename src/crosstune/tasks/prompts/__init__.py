"""Prompts as data: TOML files beside this module, and the one way their places are filled.

Imports nothing of its neighbours.
"""

import re
from functools import cache
from typing import Any

from crosstune.files import table_beside

_PLACE = re.compile(r"\{(\w+)\}")


@cache
def load_prompts(name: str) -> dict[str, Any]:
    """The parsed ``<name>.toml`` of this folder. Read once; callers do not change it."""
    return table_beside(__file__, f"{name}.toml")


def render(template: str, /, **values: str) -> str:
    """Fill ``{place}`` with its value, in one pass.

    A value is copied as it is: braces, percent signs or backslashes inside a dataset's text mean nothing
    here, which is why this is not `str.format`.

    Raises:
        KeyError: The template names a place that was not given (a mistake in a prompt file, not a user's).
    """
    return _PLACE.sub(lambda place: values[place[1]], template)
