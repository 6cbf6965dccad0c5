"""Errors in a user's YAML, as locations and messages inside pydantic's ValidationError.

pydantic prepends the location of an outer validator to those of the errors an inner one raises, so a
validator only needs to know its own part of a file.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from crosstune.errors import did_you_mean

Loc = tuple[str | int, ...]
"""Keys and indices from the top of a file to a location in it."""

MOST = 10**9
"""Largest number allowed in settings. More is a typing error, and overflows or never ends."""
M = TypeVar("M", bound=BaseModel)
_TYPE = "mistake"
_SENTENCES = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "should be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "should be true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "should be a list"),
    "int_parsing_size": f"should be {MOST:,} at most",
    "string_type": "should be text",
    "dict_type": "should be a mapping",
}


def invalid(*problem: Any) -> ValidationError:
    """A validation error with one problem: a location and a message."""
    return _raised([problem])


def _raised(problems: Iterable[tuple[Any, ...]]) -> ValidationError:
    return ValidationError.from_exception_data(
        _TYPE,
        [
            InitErrorDetails(
                type=PydanticCustomError(_TYPE, "{message}", {"message": message}), loc=loc, input=None
            )
            for loc, message in problems
        ],
    )


def known_keys(
    settings: Mapping[str, Any],
    fields: Collection[str],
    what: str,
    also: Collection[str] = (),
    at: Loc = (),
    slips: Mapping[str, str] | None = None,
) -> None:
    """Reject unknown keys in a part of a file; ``slips`` says of some common ones what to write instead.

    Raises:
        ValidationError: One problem for each.
    """
    known = [*fields, *also]
    problems = []
    for key in settings:
        if key not in known:
            hint = did_you_mean(str(key), known) if fields else "; it has no settings"
            if slips and key in slips:
                hint = f"; {slips[key]}"
            problems.append(((*at, key), f'unknown key "{key}" in {what}{hint}'))
    if problems:
        raise _raised(problems)


def named(entry: Any, what: str, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and settings of an entry that is a name, or a mapping with a name.

    Raises:
        ValidationError: Neither, or an unknown name.
    """
    rest = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(rest, Mapping):
        shown = ", ".join(known)
        raise invalid((), f"a {what} is a name, or a mapping with a name and settings; known: {shown}")
    rest = dict(rest)
    if "name" not in rest:
        raise invalid((), f'a {what} with settings needs its name: "- {{name: {next(iter(known))}, ...}}"')
    name = rest.pop("name")
    if not isinstance(name, str) or name not in known:
        raise invalid(("name",), f'unknown {what} "{name}"{did_you_mean(str(name), known)}')
    return name, rest


def read_settings(model: type[M], settings: Mapping[str, Any], what: str) -> M:
    """Settings of one part of a file; see `read_levels`."""
    return read_levels(model, [((), settings)], what)


def read_levels(
    model: type[M],
    levels: Sequence[tuple[Loc, Mapping[str, Any]]],
    what: str,
    one_of: Iterable[tuple[str, str]] = (),
) -> M:
    """Merge settings of several parts of a file (locations and values), later ones over earlier ones.

    ``what`` names the settings in messages; of two settings in ``one_of`` the later one applies.

    Raises:
        ValidationError: One problem per mistake, at the location of the value in effect.
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
        # A YAML "true" would pass for the number 1.
        if isinstance(value, bool) and key in model.model_fields and not _takes_bool(model, key):
            problems.append(((key,), f"{what}: {key} cannot be {shown(value)}"))
    if not problems:
        try:
            read = model.model_validate(merged)
        except ValidationError as error:
            problems = [(loc, f"{what}: {message}") for loc, message in reworded(error, merged)]
        else:
            problems = [
                ((key,), f"{what}: {key} should be finite and {MOST:,} at most; found {shown(merged[key])}")
                for key in merged
                if not _bounded(getattr(read, key, None))
            ]
            if not problems:
                return read
    raise _raised(
        [((*places.get(str(loc[0]), loc[:1]), *loc[1:]) if loc else nearest, text) for loc, text in problems]
    )


def reworded(error: ValidationError, data: Any) -> list[tuple[Loc, str]]:
    """Pydantic's errors as locations in ``data`` and messages; the branches of a union become one message."""
    messages: dict[Loc, list[str]] = {}
    values: dict[Loc, str] = {}
    for problem in error.errors():
        if problem["type"] == _TYPE:
            messages.setdefault(problem["loc"], []).append(problem["msg"])
            continue
        loc = _existing(problem["loc"], data)
        name = ".".join(str(step) for step in loc)
        text = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
        text = _SENTENCES.get(problem["type"], text[:1].lower() + text[1:])
        if loc and loc not in values:
            values[loc] = f"; found {shown(problem['input'])}"
            text = f"{name} {text}"
        messages.setdefault(loc, []).append(text)
    return [(loc, " or ".join(texts) + values.get(loc, "")) for loc, texts in messages.items()]


def shown(value: Any) -> str:
    """A value for a message, in YAML style, shortened."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _existing(loc: Loc, data: Any) -> Loc:
    """``loc`` without the names of union branches that pydantic appends."""
    steps: list[str | int] = []
    for step in loc:
        if isinstance(data, Mapping) and not steps and step not in data:
            return (step,)  # a missing key
        keys = range(len(data)) if isinstance(data, list | tuple) else data
        if not isinstance(data, Mapping | list | tuple) or step not in keys:
            break
        data = data[step]  # type: ignore[index]  # narrowed by the line above
        steps.append(step)
    return tuple(steps)


def _bounded(value: Any) -> bool:
    """Whether all numbers of a setting are within `MOST`: "1e400" is read as infinity."""
    if isinstance(value, tuple | list):
        return all(map(_bounded, value))
    return not isinstance(value, int | float) or abs(value) <= MOST


def _takes_bool(model: type[BaseModel], key: str) -> bool:
    annotation = model.model_fields[key].annotation
    return bool in (annotation, *get_args(annotation))
