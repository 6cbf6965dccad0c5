"""What the YAML file of a user's own task may say.

The keys are explained in docs/custom-tasks.md.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from crosstune.config.mistakes import invalid, known_keys, read_settings, reworded, shown
from crosstune.config.yaml_file import Document
from crosstune.data.example import MOST_ANSWER_TOKENS
from crosstune.data.forms import CUSTOM, Kind
from crosstune.errors import UserError
from crosstune.languages.table import add, find
from crosstune.metrics.rouge import ROUGE
from crosstune.metrics.tagging import cannot_score

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")
"""``{column}`` or ``{column.inner}`` in a template, ``{code}`` in a file pattern."""
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow")
"""Ends of files that are tables. Files with a word a line, such as PAN-X's, end in .tsv too."""
REPOSITORY = re.compile(r"[\w-]+/[\w.-]+")
_NEEDED = {
    "name": "what results call it",
    "kind": f"one of {', '.join(CUSTOM)}",
    "prompt": "a text with {column} placeholders",
    "answer": "the column of the right answer",
    "test": "the files of the test examples",
}
_SLIPS = {
    **dict.fromkeys(("tags", "labels", "classes"), "all of them are called choices, and their column answer"),
    **dict.fromkeys(("label", "target", "passage"), "the column is called answer"),
    **dict.fromkeys(
        ("query", "question", "text", "sentence", "input"), 'write "prompt:" with the column in braces'
    ),
}
"""Keys that are called otherwise here."""
_SLIPS_OF_TAGS = dict.fromkeys(
    ("tokens", "text", "sentence", "input"),
    "the column of the words is called words, that of their tags answer",
)
_KEYS_OF: dict[Kind, tuple[str, ...]] = {
    "choice": ("prompt", "choices", "answer_is"),
    "generation": ("prompt", "normalise", "max_answer_tokens", "stop"),
    "tags": ("words", "choices", "answer_is"),
    "retrieval": ("prompt", "parallel"),
}
"""Keys that not every kind of task has."""
SOURCE = "source."
"""How columns of the source language's file are called in a task whose files are parallel."""
LINE = "line"
"""The one column of a parallel file that is no table."""
METRICS_OF: dict[Kind, tuple[str, ...]] = {
    "choice": ("accuracy", "macro_f1", "mcc"),
    "generation": ("exact", "squad_f1", "mlqa_f1", "number_match", "entity_f1", "chrf", *ROUGE),
    "tags": ("tag_accuracy", "strict_f1", "xtreme_f1"),
    "retrieval": ("accuracy",),
}
"""Metrics of each kind, the default first."""


class NewLanguage(BaseModel):
    """A language that the table lacks; see `crosstune.languages.add`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100)
    family: str = Field(min_length=1, max_length=100)
    script: str
    resource: Annotated[int, Field(strict=True)] | None = None


def _described(value: Any, info: ValidationInfo) -> Any:
    for code, language in value.items() if isinstance(value, Mapping) else ():
        if not isinstance(language, Mapping) or not {"name", "family", "script"} <= language.keys():
            raise invalid((code,), f"{info.field_name}: {code} needs a name, a family and a script")
    return value


def _added(languages: dict[str, NewLanguage], info: ValidationInfo) -> dict[str, NewLanguage]:
    for code, language in languages.items():
        try:
            add(code, **language.model_dump())
        except UserError as error:
            raise invalid((code,), f"{info.field_name}: {error}") from error
    return languages


NewLanguages = Annotated[dict[str, NewLanguage], BeforeValidator(_described), AfterValidator(_added)]
"""By code; read into the table at once, so that all that is read after them may name them."""


class Definition(BaseModel):
    """What a task's YAML file says, key by key as docs/custom-tasks.md explains them.

    Codes of ``source_language`` and ``prompt`` are canonical; ``languages`` are added to crosstune's table
    before anything else is read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    languages: NewLanguages = {}
    name: str
    kind: Kind
    version: int = Field(default=1, ge=1)
    licence: str | None = Field(default=None, min_length=1)
    source_language: str = "en"
    prompt: dict[str, str] = {}
    words: str | None = None
    choices: str | tuple[str, ...] = ()
    answer: str = ""
    parallel: bool = False
    answer_is: Literal["text", "index0", "index1", "letter"] = "text"
    id: str | None = None
    cluster: str | None = None
    language: str | None = None
    hub: str | None = None
    revision: str | None = None
    train: str | None = None
    dev: str | None = None
    test: str
    metric: str = ""
    normalise: Literal["NFC"] | None = None
    max_answer_tokens: int = Field(default=32, ge=1, le=MOST_ANSWER_TOKENS)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ("\n",)
    on_bad_rows: Literal["error", "skip"] = "error"

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError('should be letters, digits, "-" and "_"')
        return name

    @field_validator("source_language")
    @classmethod
    def _source(cls, code: str) -> str:
        try:
            return find(code).code
        except UserError as error:
            raise ValueError(f"is an {error}") from error

    @field_validator("prompt")
    @classmethod
    def _templates(cls, prompts: dict[str, str]) -> dict[str, str]:
        codes = {}
        for language, text in prompts.items():
            if not PLACEHOLDER.search(text):
                raise invalid(
                    (language,), "prompt: no {column} in it; write {text} for what column text holds"
                )
            try:
                codes[language] = find(language).code
            except UserError as error:
                raise invalid((language,), f"prompt: {error}") from error
        if len(set(codes.values())) < len(codes):
            raise invalid((), f"prompt: a language is there twice: {', '.join(codes)}")
        return {codes[language]: text.rstrip() for language, text in prompts.items()}

    @field_validator("choices", mode="before")
    @classmethod
    def _choices(cls, value: Any) -> Any:
        if isinstance(value, list):
            for i, choice in enumerate(value):
                if choice is None or (isinstance(choice, str) and not choice.strip()):
                    raise invalid((i,), f"choices: entry {i + 1} is empty")
                if not isinstance(choice, str):
                    quoted = "{column}" if isinstance(choice, Mapping) else shown(choice)
                    raise invalid(
                        (i,), f'choices: entry {i + 1} is no text; put quotes around it, as in "{quoted}"'
                    )
            if len(value) < 2 or len(set(value)) < len(value):
                raise invalid((), "choices: two or more different ones are wanted")
        return value

    @field_validator("hub")
    @classmethod
    def _repository(cls, name: str | None) -> str | None:
        if name is not None and not REPOSITORY.fullmatch(name):
            raise ValueError("should be a dataset's id on the hub, owner/name")
        return name

    @field_validator("train", "dev", "test")
    @classmethod
    def _files(cls, pattern: str | None, info: ValidationInfo) -> str | None:
        if pattern is None:
            return None
        if info.data.get("hub") and not PurePosixPath(pattern).suffix:
            pattern += "/*.parquet"  # a config and a split, as the hub's conversion of every dataset has them
        path = PurePosixPath(pattern)
        if path.is_absolute() or ".." in path.parts or "\\" in pattern or pattern.startswith("~"):
            raise ValueError(
                "should be a path below the definition's folder, without '..'; for data elsewhere set the "
                "task's option data in the study"
            )
        if unknown := [name for name in PLACEHOLDER.findall(pattern) if name != "code"]:
            raise ValueError(
                f"has the unknown placeholder {{{unknown[0]}}}; {{code}} stands for the language"
            )
        if pattern.count("{code}") > 1 or "**" in pattern or re.search(r"[][?]", pattern) or not path.parts:
            raise ValueError("should have {code} at most once, * within a name, and none of [ ] ? **")
        return path.as_posix()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for key in dict.fromkeys(key for keys in _KEYS_OF.values() for key in keys):
            if key in self.model_fields_set and key not in _KEYS_OF[self.kind]:
                raise invalid((key,), f"{key} has no meaning for a task of kind {self.kind}; leave it out")
        shared = not isinstance(self.choices, str) and not any(map(PLACEHOLDER.search, self.choices))
        if "choices" in _KEYS_OF[self.kind] and not self.choices:
            such = (
                "all tags, such as [O, B-PER, I-PER]"
                if self.kind == "tags"
                else "such as [positive, negative]"
            )
            raise invalid(("kind",), f'a task of kind {self.kind} needs "choices:", {such}')
        if self.kind == "tags":
            self._check_tags(shared)
        if self.parallel:
            self._check_parallel()
        if (self.hub is None) != (self.revision is None):
            raise invalid(
                ("hub" if self.revision is None else "revision",),
                "hub and revision go together: a dataset's id, and the commit that results are to be of",
            )
        if self.metric and self.metric not in (known := METRICS_OF[self.kind]):
            raise invalid(
                ("metric",),
                f'metric of a {self.kind} task should be {" or ".join(known)}; found "{self.metric}"',
            )
        if self.scored_by in ("macro_f1", "mcc") and not shared:
            raise invalid(("metric",), f"metric {self.metric} needs choices that are the same in every row")
        if "prompt" in _KEYS_OF[self.kind] and self.source_language not in self.prompt:
            raise invalid(("prompt",), f"prompt: none in {self.source_language}, the source language")
        return self

    def _check_tags(self, shared: bool) -> None:
        if not shared or any(len(tag.split()) != 1 for tag in self.choices):
            raise invalid(("choices",), "choices: a list of all tags is wanted, without spaces in them")
        if why := cannot_score(self.metric, self.choices):
            raise invalid(("metric",), why)
        for key in ("answer", "answer_is", "id", "cluster", "language") if self.words is None else ():
            if key in self.model_fields_set:
                raise invalid(
                    (key,), f'{key} is of tables; add "words:", the column of the words, or leave {key} out'
                )
        if self.words is None and (self.hub or PurePosixPath(self.test).suffix in {*TABLES} - {".tsv"}):
            raise invalid(("test",), f'{self.test} is a table; add "words:", the column of the words')
        if self.words is not None and not self.answer:
            raise invalid(("words",), 'words needs "answer:" beside it, the column of the tags')

    def _check_parallel(self) -> None:
        for key in ("train", "dev"):
            if key in self.model_fields_set:
                raise invalid(
                    (key,), f"{key} of parallel files would be a text and itself; leave {key} or parallel out"
                )
        if "{code}" not in self.test or not any(name.startswith(SOURCE) for name in self._named):
            raise invalid(
                ("parallel",),
                "parallel needs {code} in test:, and in prompt or answer a column of the source language's "
                "file, such as source.text",
            )

    @property
    def scored_by(self) -> str:
        """The metric."""
        return self.metric or METRICS_OF[self.kind][0]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that every file must have."""
        names = (name.removeprefix(SOURCE) if self.parallel else name for name in self._named)
        return tuple(dict.fromkeys(names))

    @property
    def lines(self) -> bool:
        """Whether files have one text a line, and are no tables."""
        return self.parallel and LINE in self.columns and PurePosixPath(self.test).suffix not in TABLES

    @property
    def _named(self) -> tuple[str, ...]:
        """Columns that the keys name."""
        frame = self.kind == "retrieval" and PLACEHOLDER.search(self.answer) is not None
        listed = isinstance(self.choices, str)
        texts = [*self.prompt.values(), *(() if listed else self.choices), *((self.answer,) if frame else ())]
        columns = (self.words, self.choices if listed else None, None if frame else self.answer, self.id)
        placed = (name for text in texts for name in PLACEHOLDER.findall(text))
        return (*placed, *(str(column) for column in columns if column))


def read_definition(document: Document) -> Definition:
    """What a task's YAML file says, checked.

    Raises:
        UserError: One line, ``<file>:<line>: <what is wrong>``, for the first mistake.
    """
    try:
        return _definition(document.data)
    except ValidationError as error:
        raise document.first_error(reworded(error, document.data)) from None


def _definition(data: Any) -> Definition:
    if not isinstance(data, Mapping):
        raise invalid((), 'a task is a mapping of keys: "name:", "kind:", "prompt:", "answer:", ...')
    slips = _SLIPS | _SLIPS_OF_TAGS if data.get("kind") == "tags" else _SLIPS
    known_keys(data, Definition.model_fields, "a task", slips=slips)
    if (kind := data.get("kind")) and kind not in CUSTOM:
        raise invalid(("kind",), f'task: kind should be one of {", ".join(CUSTOM)}; found "{kind}"')
    free = ("prompt", "answer") if data.get("kind") == "tags" else ()
    for key, what in _NEEDED.items():
        if data.get(key) in (None, "", {}) and key not in free:
            raise invalid((key,), f'a task needs "{key}:", {what}')
    settings = {key: value for key, value in data.items() if value is not None}
    if isinstance(settings.get("prompt"), str):
        settings["prompt"] = {str(settings.get("source_language", "en")): settings["prompt"]}
    return read_settings(Definition, settings, "task")
