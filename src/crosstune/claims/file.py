"""Reads claims such as "method A beats method B on this task, in every family". See docs/claims.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from crosstune.analysis.groups import Grouping, group_of
from crosstune.config.counts import parse_count
from crosstune.config.mistakes import invalid, known_keys, reworded, shown
from crosstune.config.yaml_file import read_document
from crosstune.errors import UserError, did_you_mean
from crosstune.files import sha256_of, user_path
from crosstune.languages import LANGUAGES, find

SHIPPED = Path(__file__).parent
"""Folder of the claims files that ship with crosstune."""

Quantifier = Literal["every", "most", "some"]
Per = Literal["language", Grouping, "model", "task", "method"]
RELATIONS = ("beats", "matches", "equals", "varies_with", "setup", "literature")
STATED = ("setup", "literature")
"""Relations of a claim that compares nothing."""
QUANTIFIERS = get_args(Quantifier)
LOWER_IS_BETTER = ("wrong_language", "source_language")
"""Metrics based on the language of generated answers; for these ``beats`` means lower."""

CODES = ("languages", "more_in", "than_in")
"""Keys that name languages, by codes or by groups."""

_CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True)


def _listed(raw: Any) -> Any:
    return tuple(raw) if isinstance(raw, list) else (raw,)


def _count(raw: Any) -> int:
    """A number of parameters: 1230000, "1.23M"."""
    try:
        return parse_count(raw, "most_parameters")
    except UserError as error:
        raise invalid(("most_parameters",), str(error)) from None


Text = Annotated[str, Field(min_length=1, max_length=500)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]


class Pick(BaseModel):
    """Selects the runs of a method by their settings.

    Attributes:
        name: The method's, such as "prefix".
        settings: Settings of the method, such as rank.
        train: Training settings, such as learning_rate.
        most_parameters: Maximum number of trained parameters.
    """

    model_config = _CONFIG

    name: Text
    settings: dict[str, Any] = {}
    train: dict[str, Any] = {}
    most_parameters: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            return {"name": raw}
        if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
            raise invalid(
                (), f"a method is its name, or a mapping with its name and settings; found {shown(raw)}"
            )
        fields = {key: value for key, value in raw.items() if key in cls.model_fields}
        if fields.get("most_parameters") is not None:
            fields["most_parameters"] = _count(fields["most_parameters"])
        for key in ("settings", "train"):
            if not isinstance(fields.get(key, {}), Mapping):
                raise invalid((key,), f"{key} of a method is a mapping; found {shown(fields[key])}")
        if "settings" in fields:
            return fields
        return {**fields, "settings": {key: value for key, value in raw.items() if key not in fields}}

    def __str__(self) -> str:
        most = () if self.most_parameters is None else (f"at most {self.most_parameters:,} parameters",)
        pairs = {**self.settings, **self.train}.items()
        return " ".join((self.name, *(f"{key.replace('_', ' ')} {value}" for key, value in pairs), *most))


_SLIPS = dict.fromkeys(
    ("better_than", "than", "against", "other", "baseline", "versus", "vs", "over", "worse_than"),
    'the other method stands behind "beats:", "matches:" or "equals:"',
)
"""Keys that are called otherwise here."""


class Claim(BaseModel):
    """One claim, with exactly one of `RELATIONS`.

    Attributes:
        claim: The claim in words.
        source: Where it was made.
        model: Models; by default every model in the store.
        task: Tasks; by default every task with runs of both methods.
        method: Methods the claim is about.
        beats: The method they exceed by more than ``by`` points.
        matches: The method they are less than ``within`` points below.
        equals: The method they are less than ``within`` points above or below (equivalence).
        setup: What run.json of every run says: languages, learning_rates, rank, ...
        literature: What an author says that no result of a study can decide.
        varies_with: The setting whose values make ``metric`` differ by more than ``by`` points.
        by: Points out of 100.
        within: Points out of 100.
        metric: "score", "wrong_language", "source_language", or a metric that the runs recorded.
        quantity: What of the metric is compared: its "mean" over target languages, the "gap" (source score
            less that mean; a smaller one beats), or "relative" transfer, ``(mean - chance) / (source -
            chance)``.
        chance: Of "relative", what a guess scores, in points.
        languages: Target languages: codes, or groups such as ``{resource: 0}``; None for all.
        more_in: The lead over the other method is larger in these languages by more than ``by`` points
        than_in: than in these; by default in all other target languages.
        than_on: The lead over the other method is larger on ``task`` than on these tasks.
        every: The claim holds in every one of these groups; ``most`` and ``some`` likewise.
        most: In more than half.
        some: In one or more.
        at_least: Minimum number of target languages for a mean; smaller groups are not judged.
        seeds: Minimum number of seeds of a method with randomness.
        options: Task options of the runs, such as prompt_language.
        evaluate: Evaluation settings of the runs.
        despite: Settings that may differ between the two methods' runs, such as steps or dtype.
        zero_shot: Whether the runs are zero-shot.
    """

    model_config = _CONFIG

    claim: Text
    source: str = ""
    model: Names | None = None
    task: Names | None = None
    method: Annotated[tuple[Pick, ...], BeforeValidator(_listed)] = ()
    beats: Pick | None = None
    matches: Pick | None = None
    equals: Pick | None = None
    varies_with: Text | None = None
    setup: Annotated[dict[str, Any], Field(min_length=1)] | None = None
    literature: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    by: float = Field(default=0.0, ge=0, lt=100)
    within: float | None = Field(default=None, gt=0, lt=100)
    metric: Text = "score"
    quantity: Literal["mean", "gap", "relative"] = "mean"
    chance: float = Field(default=0.0, ge=0, lt=100)
    languages: tuple[str, ...] | None = None
    more_in: tuple[str, ...] | None = None
    than_in: tuple[str, ...] | None = None
    than_on: Names | None = None
    every: Per | None = None
    most: Per | None = None
    some: Per | None = None
    at_least: int = Field(default=3, ge=1)
    seeds: int = Field(default=2, ge=1)
    options: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    despite: Annotated[tuple[Text, ...], BeforeValidator(_listed)] = ()
    zero_shot: bool = True

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            raise invalid((), f'a claim is a mapping of keys: "claim:", "method:", ...; found {shown(raw)}')
        known_keys(raw, cls.model_fields, "a claim", slips=_SLIPS)
        for key, example in (("claim", "Prefix tuning beats LoRA."), ("method", "prefix")):
            needed = key == "claim" or all(raw.get(stated) is None for stated in STATED)
            if needed and raw.get(key) in (None, "", [], {}):
                raise invalid((key,), f'a claim needs "{key}:", such as {example}')
        _one_of(raw, RELATIONS, "a claim needs")
        if any(raw.get(key) is not None for key in QUANTIFIERS):
            _one_of(raw, QUANTIFIERS, "a claim takes")
        return {**raw, **{key: _codes(raw[key], key) for key in CODES if raw.get(key) is not None}}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        margin = "matches" if self.matches is not None else "equals" if self.equals is not None else None
        if margin is not None and self.within is None:
            raise invalid((margin,), f"{margin} needs within: how many points are no difference, such as 1")
        if margin is None and self.within is not None:
            raise invalid(("within",), "within belongs to matches and equals; beats and varies_with take by")
        if margin is not None and self.by:
            raise invalid(("by",), f"by belongs to beats and varies_with; {margin} takes within")
        self._check_quantity()
        if self.varies_with is not None and self.per in _GROUPS:
            raise invalid((self.quantifier,), f"varies_with is not judged by {self.per}; take it out")
        for what in ("model", "task", "method"):
            values: Sequence[Any] = getattr(self, what) or ()
            for i, value in enumerate(values):
                if value in values[:i]:
                    raise invalid((what, i), f"{what}: {value} is listed twice")
        return self

    def _check_quantity(self) -> None:
        """Refuse keys that have no effect or no meaning together."""
        if self.chance and self.quantity != "relative":
            raise invalid(("chance",), "chance belongs to quantity: relative")
        several = [key for key in ("more_in", "than_on") if getattr(self, key) is not None]
        several += ["quantity"] if self.quantity != "mean" else []
        if len(several) > 1:
            raise invalid((several[0],), f"a claim takes one of {', '.join(several)}")
        for key in several:
            if self.against is None:
                raise invalid((key,), f"{key} compares two methods: beats, matches or equals")
            if self.metric in LOWER_IS_BETTER and key == "quantity":
                raise invalid((key,), f"{key}: {self.quantity} is of a score, not of {self.metric}")
            by_group = _GROUPS if key != "quantity" else ("language",)
            if self.per in (*by_group, *(("task",) if key == "than_on" else ())):
                raise invalid((self.quantifier,), f"{key} is not judged by {self.per}; take it out")
        if self.than_in is not None and self.more_in is None:
            raise invalid(("than_in",), "than_in belongs to more_in")
        if both := set(self.more_in or ()) & set(self.than_in or ()):
            raise invalid(("than_in",), f"than_in: {min(both)} is in more_in, too")
        if self.than_on is not None and (self.task is None or set(self.task) & set(self.than_on)):
            raise invalid(("than_on",), "than_on needs task: other tasks, on which the lead is larger")

    @property
    def compares(self) -> bool:
        """Whether results decide it."""
        return self.setup is None and self.literature is None

    @property
    def quantifier(self) -> Quantifier:
        """How many cells have to hold."""
        return next((q for q in QUANTIFIERS if getattr(self, q) is not None), "every")

    @property
    def per(self) -> Per | None:
        """What the quantifier goes over."""
        result: Per | None = getattr(self, self.quantifier)
        return result

    @property
    def measured(self) -> str:
        """What the difference of a comparison is of: the metric, or what is made of it."""
        of_metric = "" if self.metric == "score" else f" of {self.metric}"
        if self.quantity != "mean":
            return {"gap": "transfer gap", "relative": "relative transfer"}[self.quantity] + of_metric
        if self.more_in is not None:
            return f"lead{of_metric} in some languages less that in others"
        if self.than_on is not None:
            return f"lead{of_metric} on {', '.join(self.task or ())} less that on {', '.join(self.than_on)}"
        return self.metric

    @property
    def against(self) -> Pick | None:
        """The other method of a comparison."""
        return self.beats or self.matches or self.equals

    @property
    def threshold(self) -> float:
        """What a difference has to be above (of ``equals``, below in size), as a share of 1."""
        if self.within is None:
            return self.by / 100
        return (self.within if self.equals is not None else -self.within) / 100


@dataclass(frozen=True)
class PlacedClaim:
    """A claim, where it stands ("paper.yaml:12"), and the SHA-256 of that file."""

    claim: Claim
    place: str
    sha256: str = ""


_GROUPS = ("language", *get_args(Grouping))


def read_claims(path: str | Path) -> list[PlacedClaim]:
    """Read a file of claims.

    Args:
        path: The file, or the name of one that crosstune ships ("paper", "demo").

    Raises:
        UserError: One line, ``<file>:<line>: <what is wrong and what to do>``, for the first mistake.
    """
    file = claims_file(path)
    document = read_document(file)
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("claims"), list) or not data["claims"]:
        raise document.error((), 'a file of claims is a mapping with a list "claims:" of one claim or more')
    for key in data:
        if key != "claims":
            raise document.error((key,), f'unknown key "{key}"; a file of claims has "claims:" alone')
    result, problems, digest = [], [], sha256_of(file)
    for i, raw in enumerate(data["claims"]):
        try:
            claim = Claim.model_validate(raw)
        except ValidationError as error:
            problems += [(("claims", i, *loc), text) for loc, text in reworded(error, raw)]
            continue
        result.append(PlacedClaim(claim, f"{file.name}:{document.line(('claims', i))}", digest))
    if problems:
        raise document.first_error(problems)
    return result


def claims_file(path: str | Path) -> Path:
    """The file that a path, or the name of one that crosstune ships, stands for.

    Raises:
        UserError: There is no such name.
    """
    file = user_path(path)
    if str(path) in shipped():
        return SHIPPED / f"{path}.yaml"
    if not file.exists() and not file.suffix:
        raise UserError(f'no claims "{path}": give a file, or a name{did_you_mean(str(path), shipped())}')
    return file


def shipped() -> dict[str, str]:
    """Names of the files of claims that crosstune ships, and the first line of each."""
    heads = {
        file.stem: file.read_text(encoding="utf-8").partition("\n")[0] for file in SHIPPED.glob("*.yaml")
    }
    return {name: heads[name].lstrip("# ") for name in sorted(heads, reverse=True)}


def _one_of(raw: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
    named = [key for key in keys if raw.get(key) is not None]
    if len(named) != 1:
        result = f"found {' and '.join(named)}" if named else "none of them is there"
        raise invalid((named[1],) if named else (), f"{what} one of {', '.join(keys)}; {result}")


def _codes(raw: Any, key: str) -> tuple[str, ...]:
    """Codes of languages named one by one, or by groups."""
    if isinstance(raw, str):
        raw = [raw]
    if isinstance(raw, list) and raw:
        codes = []
        for i, name in enumerate(raw):
            try:
                codes.append(find(name if isinstance(name, str) else "").code)
            except UserError as error:
                raise invalid((key, i), f"{key}: {error}") from None
        return tuple(dict.fromkeys(codes))
    if not isinstance(raw, Mapping) or not raw:
        raise invalid((key,), f"{key}: give codes such as [sw, yo], or groups such as {{resource: [0, 1]}}")
    codes = list(LANGUAGES)
    for by, values in raw.items():
        # Whether a script is seen depends on the runs' source language, which a file does not know.
        known_groupings = [name for name in get_args(Grouping) if name != "seen_script"]
        if by not in known_groupings:
            raise invalid((key, by), f'{key}: no grouping "{by}"{did_you_mean(str(by), known_groupings)}')
        groups = {code: group_of(code, by) for code in LANGUAGES}
        wanted = [f"class {value}" if by == "resource" else value for value in _listed(values)]
        for value in wanted:
            if value not in groups.values():
                known = set(groups.values())
                raise invalid(
                    (key, by), f"{key}: no {by} {shown(value)} in the table{did_you_mean(str(value), known)}"
                )
        codes = [code for code in codes if groups[code] in wanted]
    if not codes:
        raise invalid((key,), f"{key}: no language is in all of these groups")
    return tuple(codes)
