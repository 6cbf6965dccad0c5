"""``grid:`` in a study: lists of values, tried in every combination, as further entries of its methods."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from pydantic import ValidationError

from crosstune.config.mistakes import Loc, invalid
from crosstune.errors import did_you_mean
from crosstune.methods import METHODS
from crosstune.study.entries import MethodEntry
from crosstune.training.settings import ONE_OF, TrainSettings

MOST_RUNS = 20_000
"""More than this in one study is a slip of the hand."""

Axes = dict[str, tuple[list[Any], Loc]]
"""What is swept of a method: dotted setting, its values, and where the file has them."""


@dataclass(frozen=True)
class GridCell:
    """One entry of the methods after grids are written out."""

    entry: Any  # as a study file could have it; read already where that shows whether it is there twice
    index: int  # of the entry in the study's own list that it comes from
    origin: dict[str, Loc] = field(default_factory=dict)  # where the file has the values of swept settings

    def place(self, rest: Loc) -> Loc:
        """The place in the file of a part of the entry."""
        for dotted in (".".join(map(str, rest[:n])) for n in (2, 1)):
            if dotted in self.origin:
                return self.origin[dotted]
        return ("methods", self.index, *rest)


def sweep(methods: Sequence[Any], grid: Any) -> list[GridCell]:
    """Write out the grids of a study (settings such as ``lora.rank`` to lists of values) and of its methods.

    Entries that a grid makes and that exist already are left out. The study's grid does not sweep a setting
    that a method gives itself.

    Raises:
        ValidationError: An unknown key, no list, an empty list, or far too many combinations.
    """
    entries = [entry.as_written() if isinstance(entry, MethodEntry) else entry for entry in methods]
    shared = _axes(grid, ("grid",)) if grid is not None else {}
    names = {_name(entry) for entry in entries}
    for key in shared:
        _check_shared(key, names)
    cells: list[GridCell] = []
    for index, entry in enumerate(entries):
        cells += _cells(entry, index, shared)
        if len(cells) > MOST_RUNS:
            raise _too_many(("grid",), len(cells))
    return _once(cells) if any(cell.origin for cell in cells) else cells


def _cells(entry: Any, index: int, shared: Axes) -> list[GridCell]:
    """The combinations of one method; the entry itself where nothing is swept."""
    name = _name(entry)
    if name not in METHODS:
        return [GridCell(entry, index)]  # a mistake that the entry's own reading names
    plain: dict[str, Any] = {"name": entry} if isinstance(entry, str) else dict(entry)
    train = plain.get("train")
    plain_train = dict(train) if isinstance(train, Mapping) else {}
    axes = _of_method(name, plain, plain_train, shared)
    if "grid" in plain:
        at = ("methods", index, "grid")
        for key, axis in _axes(plain.pop("grid"), at).items():
            _check_setting(name, key, (*at, key))
            if key.removeprefix("train.") in (plain_train if key.startswith("train.") else plain):
                raise invalid(
                    (*at, key), f"grid: method {name} gives {key} itself as well; give one of the two"
                )
            axes[key] = axis
    if not axes:
        return [GridCell(entry, index)]
    many = math.prod(len(values) for values, _ in axes.values())
    if many > MOST_RUNS:
        raise _too_many(next(iter(axes.values()))[1], many)
    origin = {key: where for key, (_, where) in axes.items()}
    cells = []
    for values in product(*(values for values, _ in axes.values())):
        swept = dict(zip(axes, values, strict=True))
        settings = {key: value for key, value in swept.items() if not key.startswith("train.")}
        train = plain_train | {
            key.removeprefix("train."): value for key, value in swept.items() if key not in settings
        }
        cells.append(GridCell(plain | settings | ({"train": train} if train else {}), index, origin))
    return cells


def _of_method(name: str, entry: Mapping[str, Any], train: Mapping[str, Any], shared: Axes) -> Axes:
    """What the study's grid sweeps of a method that does not set it itself."""
    axes: Axes = {}
    for key, axis in shared.items():
        kind, _, setting = key.partition(".")
        if kind == "train":
            setting = key
        elif kind != name:
            continue
        if setting.startswith("train."):
            plain = setting.removeprefix("train.")
            others = {other for pair in ONE_OF if plain in pair for other in pair} | {plain}
            searched = plain == "learning_rate" and entry.get("search")
            if METHODS[name].learning_rate is None or searched or not others.isdisjoint(train):
                continue
        elif setting in entry:
            continue
        # "lora.train.steps" says more than "train.steps" does.
        if setting not in axes or kind != "train":
            axes[setting] = axis
    return axes


def _axes(grid: Any, at: Loc) -> Axes:
    if not isinstance(grid, Mapping) or not grid:
        raise invalid(at, "grid: a mapping of settings to lists is wanted, such as {train.limit: [64, 256]}")
    for key, values in grid.items():
        if not isinstance(values, list | tuple) or not values:
            raise invalid((*at, key), f"grid: {key} needs a list of values to try, such as [1, 2]")
    return {key: (list(values), (*at, key)) for key, values in grid.items()}


def _check_shared(key: str, names: set[str]) -> None:
    """Refuse a key of the study's grid that sweeps nothing."""
    kind, dot, setting = key.partition(".")
    at: Loc = ("grid", key)
    if kind == "train" and dot:
        _check_setting("", key, at)
    elif not dot or kind not in METHODS:
        known = ["train", *METHODS]
        raise invalid(
            at,
            f'grid: unknown key "{key}"; give train.<setting> or <method>.<setting>'
            f"{did_you_mean(kind, known) if dot else ', such as train.limit or lora.rank'}",
        )
    elif kind not in names:
        raise invalid(at, f'grid: the study has no method "{kind}"{did_you_mean(kind, names)}')
    else:
        _check_setting(kind, setting, at)


def _check_setting(name: str, key: str, at: Loc) -> None:
    """Refuse what is neither a setting of a method nor one of its training."""
    if key.startswith("train."):
        key, what, known = key.removeprefix("train."), "train", [*TrainSettings.model_fields]
        also: list[str] = []
    else:
        what, known = f"method {name}", [*METHODS[name].Config.model_fields]
        also = ["train.learning_rate", "train.limit"]
        if METHODS[name].Config.open_ended():
            return
    if key not in known:
        raise invalid(at, f'grid: unknown key "{key}" of {what}{did_you_mean(key, [*known, *also])}')


def _once(cells: Sequence[GridCell]) -> list[GridCell]:
    """The cells without those that a grid made and that mean the same as another."""
    read = [_read(cell) for cell in cells]
    seen = {text for cell, text in read if not cell.origin}
    unique = []
    for cell, text in read:
        if not cell.origin or text not in seen:
            unique.append(cell)
        seen.add(text)
    return unique


def _read(cell: GridCell) -> tuple[GridCell, str]:
    """The cell with its entry read, and a text that is the same for entries that mean the same."""
    try:
        entry = MethodEntry.model_validate(cell.entry)
    except ValidationError:
        return cell, repr(cell.entry)  # its mistake is named when the study's list is read
    return replace(cell, entry=entry), json.dumps(entry.model_dump(), sort_keys=True, default=str)


def _name(entry: Any) -> str:
    name = entry.get("name", "stack" if "stack" in entry else "") if isinstance(entry, Mapping) else entry
    return name if isinstance(name, str) else ""


def _too_many(at: Loc, many: int) -> ValidationError:
    return invalid(at, f"grid: {many:,} combinations; a study takes {MOST_RUNS:,} runs at most")
