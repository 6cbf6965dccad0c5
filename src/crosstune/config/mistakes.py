"""Mistakes in a user's YAML as places and plain sentences, carried by pydantic's own error type.

pydantic puts the place of an outer validator in front of the places of the errors an inner one raises, so
a validator needs to know only its own part of a file.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from crosstune.errors import did_you_mean

Loc = tuple[str | int, ...]
"""Keys and indices that lead from the top of a file to a place in it."""

M = TypeVar("M", bound=BaseModel)
_OURS = "mistake"
_SENTENCES = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "should be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "should be true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "should be a list"),
    "string_type": "should be text",
    "dict_type": "should be a mapping",
}


def invalid(*problem: Any) -> ValidationError:
    """A validation error with one problem: a place and a sentence."""
    return _raised([problem])


def _raised(problems: Iterable[tuple[Any, ...]]) -> ValidationError:
    return ValidationError.from_exception_data(
        _OURS,
        [
            InitErrorDetails(
                type=PydanticCustomError(_OURS, "{message}", {"message": message}), loc=loc, input=None
            )
            for loc, message in problems
        ],
    )


def known_keys(
    given: Mapping[str, Any], fields: Collection[str], what: str, also: Collection[str] = (), at: Loc = ()
) -> None:
    """Refuse keys that a part of a file does not have.

    Raises:
        ValidationError: One problem for each.
    """
    known = [*fields, *also]
    problems = []
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known) if fields else "; it has no settings"
            problems.append(((*at, key), f'unknown key "{key}" in {what}{hint}'))
    if problems:
        raise _raised(problems)


def read_settings(model: type[M], given: Mapping[str, Any], what: str) -> M:
    """Settings of one part of a file; see `read_levels`."""
    return read_levels(model, [((), given)], what)


def read_levels(
    model: type[M],
    levels: Sequence[tuple[Loc, Mapping[str, Any]]],
    what: str,
    one_of: Iterable[tuple[str, str]] = (),
) -> M:
    """Settings that several parts of a file give.

    Args:
        model: Their pydantic model.
        levels: Place and values of each part; a later one comes before an earlier one.
        what: What the settings are called in messages.
        one_of: Pairs of settings that say the same thing: the nearer of the two holds.

    Raises:
        ValidationError: One problem for each mistake, at the place of the value that holds.
    """
    merged: dict[str, Any] = {}
    places: dict[str, Loc] = {}
    nearest = levels[0][0]
    for place, settings in levels:
        for pair in one_of:
            if not settings.keys().isdisjoint(pair):
                merged = {key: value for key, value in merged.items() if key not in pair}
        merged |= settings
        places |= {key: (*place, key) for key in settings}
        nearest = place if settings else nearest
    problems: list[tuple[Loc, str]] = []
    for key, value in merged.items():
        # A YAML "true" would pass for the number 1, and an infinite rate for a positive one.
        if isinstance(value, bool) and key in model.model_fields and not _takes_bool(model, key):
            problems.append(((key,), f"{what}: {key} cannot be {shown(value)}"))
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append(((key,), f"{what}: {key} must be a finite number"))
    if not problems:
        try:
            return model.model_validate(merged)
        except ValidationError as error:
            problems = [(loc, f"{what}: {message}") for loc, message in reworded(error, merged)]
    raise _raised(
        [((*places.get(str(loc[0]), loc[:1]), *loc[1:]) if loc else nearest, text) for loc, text in problems]
    )


def reworded(error: ValidationError, data: Any) -> list[tuple[Loc, str]]:
    """Pydantic's errors as places in ``data`` and sentences; the branches of a union become one sentence."""
    found: dict[Loc, list[str]] = {}
    values: dict[Loc, str] = {}
    for each in error.errors():
        if each["type"] == _OURS:
            found.setdefault(each["loc"], []).append(each["msg"])
            continue
        loc = _there(each["loc"], data)
        name = ".".join(str(step) for step in loc)
        text = each["msg"].removeprefix("Value error, ").replace("Input should", "should")
        text = _SENTENCES.get(each["type"], text[:1].lower() + text[1:])
        if loc and loc not in values:
            values[loc] = f"; found {shown(each['input'])}"
            text = f"{name} {text}"
        found.setdefault(loc, []).append(text)
    return [(loc, " or ".join(texts) + values.get(loc, "")) for loc, texts in found.items()]


def shown(value: Any) -> str:
    """A value for a message: as YAML would have it, short."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _there(loc: Loc, given: Any) -> Loc:
    """``loc`` without the names of union branches that pydantic puts at its end."""
    data = given
    kept: list[str | int] = []
    for step in loc:
        if isinstance(data, Mapping) and not kept and step not in data:
            return (step,)  # a missing key
        there = range(len(data)) if isinstance(data, list | tuple) else data
        if not isinstance(data, Mapping | list | tuple) or step not in there:
            break
        data = data[step]  # type: ignore[index]  # narrowed by the line above
        kept.append(step)
    return tuple(kept)


def _takes_bool(model: type[BaseModel], key: str) -> bool:
    annotation = model.model_fields[key].annotation
    return bool in (annotation, *get_args(annotation))
