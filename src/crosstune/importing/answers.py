"""One answer of another program's results, and how its parts are read."""

import json
import math
from dataclasses import dataclass
from typing import Any

from crosstune.data.tables import Row

LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """An example's answer and score."""

    run: tuple[str, str, str, int]  # model, task, method and seed; answers that share them make one run
    language: str  # canonical code where the language table has it, otherwise as written
    example: str  # id; methods are compared on equal ids, and languages that share ids on parallel examples
    score: float  # in [0, 1]
    prediction: str = ""  # what was answered
    gold: str = ""  # what would have been right
    choices: tuple[float, ...] | None = None  # log-probability of each choice; None where there were none
    document: str = ""  # hash or text of what was asked, to tell test sets apart; "" where it is not known
    # What examples that are not independent share, such as a passage; None for independent ones.
    cluster: str | None = None
    metric: str = "score"  # what the score measures


def score_of(row: Row, name: str) -> float:
    """A score in [0, 1].

    Raises:
        BadRow: It is something else.
    """
    value = row.fields.get(name)
    try:
        score = float(value)  # type: ignore[arg-type]  # whatever it is
    except (TypeError, ValueError):
        score = math.nan
    if not 0 <= score <= 1:
        raise row.error(f"{name} is {short(value)}; a score is a number from 0 to 1")
    return score


def name_of(row: Row, name: str) -> str:
    """A short text or a number, as text.

    Raises:
        BadRow: It is something else.
    """
    value = row.fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = Row(row.path, row.line, {name: value}).text(name)
    if len(text) > LONGEST_NAME:
        raise row.error(f"{name} has {len(text):,} letters; the most is {LONGEST_NAME}")
    return text


def text_of(value: Any) -> str:
    """Any value as text that a file can hold."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()


def short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
