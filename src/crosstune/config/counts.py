"""Numbers of parameters as people write them: 1230000, "1.23M", "500K"."""

import re
from typing import Any

from crosstune.errors import UserError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMB]?)", re.IGNORECASE)
_MOST = 10**12


def parse_count(count: Any, what: str) -> int:
    """A number of parameters; ``what`` is its name in the `UserError` for anything else."""
    number = -1.0
    if isinstance(count, int | float) and not isinstance(count, bool):
        number = count
    elif isinstance(count, str) and (match := _WRITTEN.fullmatch(count.strip())):
        number = round(float(match[1]) * _UNITS[match[2].upper()], 6)
    if not 1 <= number <= _MOST or number != int(number):
        raise UserError(
            f"{what}: give a number of parameters, such as 1.23M, 500K or 1230000; found {count!r}"
        )
    return int(number)


def written(count: int) -> str:
    """As a person would write it: "1.23M", "500K", "1,228,800"."""
    unit = next((unit for unit in ("B", "M", "K") if count >= _UNITS[unit]), "")
    text = f"{count / _UNITS[unit]:.2f}".rstrip("0").rstrip(".") + unit
    return text if parse_count(text, "") == count else f"{count:,}"
