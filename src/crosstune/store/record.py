"""RunRecord: what run.json holds, as a typed and versioned model. docs/results.md has it key by key.

Running writes it; study, analysis, claims and report read it, and know of a run nothing else. What a task, a
method or a library decides the keys of (settings, options, versions) stays a mapping of JSON values.
"""

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import TypedDict  # pydantic takes typing's own only from Python 3.12 on

from crosstune.config.mistakes import reworded, shown
from crosstune.errors import UserError
from crosstune.files import open_file

RECORD_VERSION = 1
"""Of records written today. Those without a version are read too: what they lack follows from the rest."""

Json = dict[str, Any]
"""A mapping of JSON values whose keys are not the store's to decide."""

Kind = Literal["result", "search", "stage"]

Whole = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of things. What is larger overflows in every table."""


class _Part(BaseModel):
    """A part of a record. Keys that this version does not know are kept."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=(), allow_inf_nan=False)

    def entries(self) -> Json:
        """What was written, without defaults."""
        return self.model_dump(exclude_unset=True)


class MethodRecord(_Part):
    """A method's name, and beside it each of its settings."""

    name: str

    @property
    def settings(self) -> Json:
        """Its settings, such as rank, without its name."""
        return self.model_extra or {}


class MethodFacts(_Part):
    """What analysis has to know of a method."""

    trains: bool  # it trains weights
    # Another seed would give other answers: it draws weights, an order of examples, or exemplars.
    random: bool
    untuned: bool  # it is a baseline that tuned methods are held against: the model as it came


class TaskRecord(_Part):
    """The task, its version and options."""

    name: str
    version: Whole
    kind: str  # form of its answers, which decides their columns and their statistic (`crosstune.data.forms`)
    metrics: list[str] = Field(min_length=1)  # their names; the first is what ``score`` measures
    # Of a metric of the whole test set: how many columns ``sum.<i>`` it is computed from; else 0.
    sums: Whole = 0
    options: Json = {}  # of the task, such as prompt_language
    file: Json | None = None  # path and SHA-256 of a task from a user's file
    splits: Json = {}  # where each split came from
    licences: dict[str, str] = {}  # of its data, by dataset, where they are known


class Fingerprints(_Part):
    """Hashes of the examples a run saw: by language, or of a whole split."""

    train: str | dict[str, str] | None = None
    dev: str | dict[str, str] | None = None
    test: dict[str, str] = {}


class Overlap(_Part):
    """Test examples that share their prompt, or a field after normalisation, with the training data."""

    prompts: Whole = 0
    normalised: dict[str, Whole] = {}


class DataRecord(_Part):
    """Where examples came from, rows that could not be used, and how many were drawn for training."""

    sources: list[Json] = []
    skipped_rows: Whole = 0
    train_examples: Whole | None = None


class StageRecord(_Part):
    """A run that trained on unlabelled text, and whose weights this one stands on."""

    run: str  # its id
    weights: str  # SHA-256
    text: Json  # source, files, lines and characters
    tokens: Whole | None = None  # read in its training
    trained_parameters: Whole | None = None


class Unlabelled(_Part):
    """Unlabelled text that a run's method was made with."""

    uses: dict[str, str | None]  # by language that the run is scored in, that of the text; None for none
    stages: dict[str, StageRecord]  # by language of the text
    in_text: Whole = 0  # test examples of which a text stands in the unlabelled text of their language
    compared: Whole = 0  # test examples that have a text long enough to be looked for


class HeldOut(_Part):
    """Text held out of a stage's training, and its loss, in mean nats a token."""

    texts: Whole
    tokens: Whole
    before: float
    after: float


class SearchRecord(_Part):
    """The runs that searched a learning rate, and the one chosen by their development scores."""

    runs: list[str]
    scores: list[Json] = []
    chosen: float | None = None
    seed: Whole | None = None  # of these runs; older records do not say


class Cost(_Part):
    """Seconds, tokens, bytes and joules; None where the machine does not tell."""

    train_seconds: float | None = None
    train_tokens: Whole | None = None
    train_padded_tokens: Whole | None = None
    steps: Whole | None = None
    reuse: Json | None = None
    engine: Json | None = None  # another library that wrote answers, and how many of them agreed with ours
    peak_memory_bytes: Whole | None = None
    load_seconds: float | None = None
    evaluate_seconds: float | None = None
    train_from: str | None = None  # the search run whose weights were taken instead of training again
    test_tokens: Whole | None = None
    too_long: Whole = 0  # test texts longer than the model has positions for
    train_too_long: Whole = 0  # training texts likewise, of those drawn for training
    halvings: Whole = 0  # how often a pass was halved because memory ran out
    resumed: Whole = 0  # how often the run was resumed
    energy_joules: float | None = None
    energy_of: list[str] = []  # the processors and boards that were measured


class MergeRecord(_Part):
    """How an update of weights, such as LoRA's, was evaluated: added to the weights or computed beside them.

    Rounding to the weights' dtype takes a share of what is added, ``|kept - update| / |update|``.
    """

    tensors: Whole  # weights that have an update
    merged: Whole  # of these, those it was added to; the others compute it beside the weight
    lost: float | None = None  # the largest share taken of those that were merged; None where none was
    # The largest share that merging the others would have taken; None where it was not measured.
    avoided: float | None = None


class LossPoint(TypedDict):
    """Training loss at a step."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)  # type: ignore[misc]  # pydantic's own way
    step: Whole
    loss: NotRequired[float | None]


class DevPoint(TypedDict):
    """Score on development data after a step."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)  # type: ignore[misc]
    step: Whole
    score: float


class RunRecord(_Part):
    """One finished run."""

    id: str  # hash of everything that decides the result; its folder's name
    record_version: Whole  # `RECORD_VERSION` of the crosstune that wrote it
    # "search" for a run that only chose a setting on development data, "stage" for one that only trained on
    # unlabelled text what others stand on.
    kind: Kind = "result"
    study: str
    model: str
    revision: str | None = None
    model_parameters: Whole | None = None
    model_layers: Whole | None = None
    method: MethodRecord
    method_facts: MethodFacts
    label: str  # the method with those settings that tell it from others of its study
    task: TaskRecord
    source_language: str
    languages: list[str]
    added_languages: dict[str, dict[str, Any]] = {}
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    train: Json | None = None  # training settings; None where nothing is trained
    search: SearchRecord | None = None  # None where the learning rate was given
    evaluate: Json = {}  # evaluation settings
    # Tokens that answers start with, by language (`crosstune.outputs.seq2seq.language_tokens`); None for
    # models without any, where that was switched off, and in older records.
    target_language_tokens: dict[str, str] | None = None
    # How many tokens that the tokenizer puts behind every text were cut off prompts; None where it puts
    # none, and in older records, whose prompts kept them.
    closed_by: Whole | None = None
    # `crosstune.metrics.language_id.IDENTIFIER`, version of the rules that told the language of written
    # answers; None for choices, and in older records.
    identifier: Whole | None = None
    merge: MergeRecord | None = None  # None for a method that changes no weights, and in older records
    trained_parameters: Whole | None
    head_parameters: Whole | None = None  # of a head trained with it; None for none, and in older records
    zero_shot: bool  # nothing but source-language data was trained on
    unlabelled: Unlabelled | None = None  # text that parts of the method were trained on
    held_out: HeldOut | None = None  # of a stage whose ``text`` has ``held_out``
    fingerprints: Fingerprints
    overlap: Overlap | None = None
    data: DataRecord = DataRecord()
    versions: Json = {}
    hardware: Json = {}
    git: Json = {}
    device: str | None = None
    dtype: str
    quantize: str | None = None
    device_map: str | Json | None = None
    cost: Cost
    curve: list[LossPoint] = []
    dev: list[DevPoint] = []
    chosen_step: Whole | None = None
    started: str | None = None  # UTC, ISO 8601
    finished: str | None = None  # UTC, ISO 8601

    @model_validator(mode="before")
    @classmethod
    def _of_any_version(cls, data: Any) -> Any:
        """A record without a version as one of today; a later one is refused."""
        if not isinstance(data, dict):
            return data
        if not _finite(data):
            raise ValueError("a number in it is infinite, or none")
        if label := _label(data):
            data = {**data, "label": label}
        version = data.get("record_version")
        if version is None:
            return {**data, "record_version": RECORD_VERSION, "method_facts": _facts_by_name(data)}
        if isinstance(version, int) and version > RECORD_VERSION:
            raise ValueError(
                f"record_version should be {RECORD_VERSION} or less: a newer crosstune wrote it, and reads it"
            )
        return data

    @field_validator("train")
    @classmethod
    def _numbers(cls, train: Json | None) -> Json | None:
        """Of the settings that tables put into columns."""
        for key in ("steps", "epochs", "batch_size", "learning_rate", "limit", "per_label"):
            if isinstance((train or {}).get(key), list | dict):
                raise ValueError(f"has a {key} that is no number")
        return train

    @property
    def dev_score(self) -> float | None:
        """The score on development data of the weights that were kept: the best; None where it has none."""
        return max((point["score"] for point in self.dev), default=None)

    @classmethod
    def read(cls, file: Path) -> Self:
        """The record in a run.json.

        Raises:
            UserError: It cannot be read, is no JSON, lacks a field, or holds a value of another type.
        """
        try:
            with open_file(file) as stream:
                return cls.parse(stream.read(), file)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None

    @classmethod
    def parse(cls, text: bytes, file: Path) -> Self:
        """The record in the text of a run.json.

        Raises:
            UserError: As `read`.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{file}: {_mistake(error, text)}") from None


def _label(data: Json) -> Any:
    """A record's label as it is written today: older ones have True behind a setting that is on."""
    label = data.get("label")
    if isinstance(label, str) and " True" in label:
        settings = json.dumps([data.get("method"), data.get("train")], default=str)
        for name in re.findall(r'"(\w+)": true', settings):
            plain = name.replace("_", " ")
            label = re.sub(rf"\b{plain} True\b", plain, label)
    return label


def _finite(data: Any) -> bool:
    """Whether all numbers are finite: JSON has no others, and Python reads them all the same."""
    if isinstance(data, dict | list):
        return all(map(_finite, data.values() if isinstance(data, dict) else data))
    return not isinstance(data, float) or math.isfinite(data)


def _facts_by_name(data: Json) -> Json:
    """What only the method's name tells in a record without a version."""
    method = data.get("method")
    name = method.get("name") if isinstance(method, dict) else None
    return {
        "trains": data.get("train") is not None,
        "random": name != "none",
        "untuned": name in ("none", "few-shot"),
    }


def _mistake(error: ValidationError, text: bytes) -> str:
    """The first thing that is wrong, and what to do."""
    mend = "; the file is not as crosstune wrote it: delete the run's folder and run the study again"
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"is no JSON{mend}"
    if first["type"] == "missing":
        return f"has no {'.'.join(map(str, first['loc']))}{mend}"
    if not first["loc"] and first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return f"should be a mapping; found {shown(first['input'])}{mend}"
    return f"{reworded(error, json.loads(text))[0][1]}{mend}"
