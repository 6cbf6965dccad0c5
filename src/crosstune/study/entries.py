"""The entries of a study's lists of methods and tasks: a name, or a mapping with a name and settings."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from crosstune.config.counts import parse_count, written
from crosstune.config.mistakes import Loc, invalid, known_keys, named, read_settings
from crosstune.errors import UserError, did_you_mean
from crosstune.files import user_path
from crosstune.languages import find
from crosstune.methods import METHODS
from crosstune.methods.base import Method
from crosstune.methods.config import MethodConfig
from crosstune.methods.stack import StackConfig, Stacked
from crosstune.outputs.settings import EvaluateSettings
from crosstune.study.slips import METHOD_SLIPS, OTHER_NAMES
from crosstune.tasks import TASKS
from crosstune.tasks.base import Task, TaskOptions
from crosstune.tasks.custom.load import SUFFIXES, TaskFile, load_task
from crosstune.tasks.text.task import UnlabelledText
from crosstune.training.settings import TrainSettings

Codes = Literal["all"] | tuple[str, ...]

_METHOD_KEYS = ("name", "label", "train", "search", "budget", "grid")
_SETTINGS: dict[str, type[BaseModel]] = {"train": TrainSettings, "evaluate": EvaluateSettings}


class SearchSettings(BaseModel):
    """Learning rates to choose from, on source-language development data.

    The method is trained once with each. No target language and no test split takes part.

    Attributes:
        learning_rates: Two or more.
        seed: Of the search runs; None for the first of the study's seeds. With a seed that the study does not
            test, no result comes from a run that was itself chosen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rates: tuple[Annotated[float, Field(gt=0)], ...]
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @field_validator("learning_rates")
    @classmethod
    def _several(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(rates) < 2:
            raise ValueError("should be two rates or more; for one, give train: {learning_rate: ...}")
        for i, rate in enumerate(rates):
            if rate in rates[:i]:
                raise ValueError(f"should be rates that differ: {rate:g} is listed twice")
        return rates


class StudyPart(BaseModel):
    """What a study says of everything, of one method or of one task: here are the parts they share."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    kind: ClassVar[str] = ""
    """What messages call it: "method", "task", or nothing for the whole study."""

    @field_validator("train", "evaluate", mode="before", check_fields=False)
    @classmethod
    def _settings(cls, value: Any, info: ValidationInfo) -> Any:
        """Only the keys are looked at: values are checked when all levels are merged."""
        key = str(info.field_name)
        what = f"{key} of {cls.kind} {info.data['name']}" if cls.kind else key
        model = _SETTINGS[key]
        if isinstance(value, model):
            value = value.model_dump(exclude_unset=True)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            example = next(iter(model.model_fields))
            raise invalid((), f"{what}: a mapping of settings is wanted, such as {{{example}: 10}}")
        known_keys(value, model.model_fields, what)
        return dict(value)

    @field_validator("search", mode="before", check_fields=False)
    @classmethod
    def _search(cls, value: Any) -> SearchSettings | Literal[False]:
        if value is None or value is False or isinstance(value, SearchSettings):
            return value or False
        if not isinstance(value, Mapping) or not value:
            example = "search: {learning_rates: [3e-3, 1e-3, 3e-4]}"
            raise invalid((), f"search: give the rates, such as {example}, or false")
        known_keys(value, SearchSettings.model_fields, "search")
        return read_settings(SearchSettings, value, "search")

    @field_validator("budget", mode="before", check_fields=False)
    @classmethod
    def _budget(cls, value: Any) -> int | Literal[False]:
        try:
            return False if value is None or value is False else parse_count(value, "budget")
        except UserError as error:
            raise invalid((), str(error)) from error


class MethodEntry(StudyPart):
    """One method of a study."""

    kind = "method"

    name: str  # in `METHODS`
    config: SerializeAsAny[MethodConfig]  # the method's settings
    train: dict[str, Any] = {}  # training settings for this method
    # Learning rates searched for this method; False for no search, None for the study's.
    search: SearchSettings | Literal[False] | None = None
    # Trained parameters that the method's size is solved for, model by model; False for none, None for the
    # study's.
    budget: int | Literal[False] | None = None
    title: str | None = Field(default=None, min_length=1, max_length=60)  # ``label:``, the user's name for it

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, MethodEntry):
            return value
        if isinstance(value, Mapping) and "stack" in value:
            value = {"name": "stack", **value}
        called = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(called, str) and called not in METHODS and (other := OTHER_NAMES.get(called.lower())):
            raise invalid((), f'unknown method "{called}"; it is called {other}: crosstune list methods')
        name, rest = named(value, "method", METHODS)
        shared: dict[str, Any]
        shared = {key: rest.pop(key) for key in ("train", "search", "budget") if key in rest}
        if "label" in rest:
            shared["title"] = rest.pop("label")
        config = METHODS[name].Config
        if not config.open_ended():
            known_keys(rest, config.model_fields, f"method {name}", also=_METHOD_KEYS, slips=METHOD_SLIPS)
        try:
            settings = read_settings(config, rest, f"method {name}")
        except UserError as error:  # of a file that they name
            raise invalid((), str(error)) from error
        return {"name": name, "config": settings, **shared}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        name, size, free = self.name, METHODS[self.name].size, METHODS[self.name].open_size(self.config)
        if problem := METHODS[name].lacking(self.config):
            raise invalid((), problem)
        if self.search and "learning_rate" in self.train:
            raise invalid(("search",), f"method {name}: give search or train.learning_rate, not both")
        if self.search and not self.make().trains:
            raise invalid(("search",), f"method {name} is not trained: there is no learning rate to search")
        if self.train and not self.make().trains:
            raise invalid(("train",), f"method {name} is not trained: it has no training settings")
        if self.budget and size is free is None:
            raise invalid(("budget",), f"method {name} has no size that a budget could decide")
        if self.budget and free is None:
            raise invalid(("budget",), f"method {name}: give {size} or budget, not both")
        return self

    @field_validator("config", mode="plain")
    @classmethod
    def _kept(cls, config: MethodConfig) -> MethodConfig:
        return config

    def make(self) -> Method:
        """The method, not attached to anything yet."""
        return METHODS[self.name](self.config)

    def budget_of(self, study: int | Literal[False] | None) -> int | None:
        """Trained parameters that the size is solved for; the study's where it has no budget."""
        if self.budget is False or METHODS[self.name].open_size(self.config) is None:
            return None
        return self.budget or study or None

    def label(self, budget: int | Literal[False] | None) -> str:
        """Such as "prefix", "prefix kv", "few-shot turns", "lora rank 8 lr 0.003", "lora 1.23M"."""
        if self.title is not None:
            return self.title
        config, default = self.config, METHODS[self.name].Config()
        parts = [self.name]
        if isinstance(config, StackConfig):
            parts, config = [" + ".join(map(_label_of, config.stack))], default
        if (solved_for := self.budget_of(budget)) is not None:
            parts.append(written(solved_for))
        settings = {name: value for name, value in config if value != getattr(default, name, None)}
        settings = {name: value for name, value in settings.items() if not isinstance(value, dict)}
        fields = TrainSettings.model_fields
        train = {key: x for key, x in self.train.items() if x is not None or fields[key].default is not None}
        if train.get("learning_rate") == self.make().default_rate:
            train.pop("learning_rate", None)
        for name, value in (*settings.items(), *train.items()):
            plain = {"learning_rate": "lr"}.get(name, name.replace("_", " "))
            choice = name in settings and isinstance(value, str) and name != "init_text"
            parts.append(str(value) if choice else plain if value is True else f"{plain} {_short(value)}")
        return " ".join(parts)

    def as_written(self) -> dict[str, Any]:
        """The entry as a study file has it."""
        # A size that was not given must stay so: a budget would decide it.
        settings = self.config.model_dump(mode="json", exclude_unset=True)
        shared = self.model_dump(mode="json", include={"search", "budget"}, exclude_none=True)
        title = {} if self.title is None else {"label": self.title}
        return {"name": self.name, **title, **settings, "train": self.train, **shared}


class TaskEntry(StudyPart):
    """One task of a study: its options, and the settings that hold for it alone."""

    kind = "task"

    name: str  # in `TASKS`, or as the user's own file has it
    options: TaskOptions  # the task's
    train: dict[str, Any] = {}  # training settings for this task
    evaluate: dict[str, Any] = {}  # evaluation settings for this task
    file: TaskFile | None = None  # where a task of the user's own comes from; None for one of crosstune's
    optional: bool = False  # whether it is left out, and that is said, where its files are not there

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, TaskEntry):
            return value
        if isinstance(value, str) and value.endswith(SUFFIXES):
            value = {"file": value}
        if isinstance(value, Mapping) and "file" in value:
            file, rest = _users_task(value, Path((info.context or {}).get("folder", "")))
            name, task = file.task.name, file.task
        else:
            name, rest = named(value, "task", TASKS)
            file, task = None, TASKS[name]
        shared = {key: rest.pop(key) for key in ("train", "evaluate", "optional") if key in rest}
        also = ("name" if file is None else "file", "train", "evaluate", "optional")
        known_keys(rest, task.Options.model_fields, f"task {name}", also=also)
        options = read_settings(task.Options, rest, f"task {name}")
        return {"name": name, "options": options, "file": file, **shared}

    @field_validator("options", mode="plain")
    @classmethod
    def _kept(cls, options: TaskOptions) -> TaskOptions:
        return options

    @property
    def task_class(self) -> type[Task]:
        """What makes the task."""
        if self.file is not None:
            return self.file.task
        return UnlabelledText if self.name == UnlabelledText.name else TASKS[self.name]

    def make(self) -> Task:
        """The task itself."""
        return self.task_class(self.options)

    def chosen_languages(self, chosen: Codes | Mapping[str, Codes], index: int) -> tuple[str, ...]:
        """Canonical codes of the languages the task is evaluated in, its source language first.

        ``chosen`` is the study's choice, for all its tasks or by task; ``index`` is the task's place in the
        study.

        Raises:
            ValidationError: A language that the task has not, or its files cannot be read.
        """
        task = self.make()
        where: Loc = ("languages",)
        if isinstance(chosen, Mapping):
            if task.name not in chosen:
                raise invalid(where, f'languages: task "{task.name}" is missing; add "{task.name}: all"')
            where, chosen = (*where, task.name), chosen[task.name]
        try:
            if chosen == "all":
                return tuple(task.languages())
            # A set of published files may lack the source language; then there is no gap to report.
            codes = {code: None for code in (task.source_language,) if task.offers(code)}
        except UserError as error:
            raise invalid(("tasks", index), f"task {task.name}: {error}") from error
        for i, name in enumerate(chosen):
            try:
                code = find(name).code
            except UserError as error:
                raise invalid((*where, i), f"languages: {error}") from error
            if not task.offers(code):
                offered = task.languages()
                raise invalid(
                    (*where, i),
                    f'task {task.name} has no language "{name}"; it has {len(offered)}'
                    f"{did_you_mean(code, offered)}",
                )
            codes[code] = None
        return tuple(codes)

    def as_written(self) -> dict[str, Any]:
        """The entry as a study file anywhere on this machine has it."""
        named = {"name": self.name} if self.file is None else {"file": str(self.file.path)}
        options = self.options.model_dump(mode="json")
        optional = {"optional": True} if self.optional else {}
        return {**named, **options, "train": self.train, "evaluate": self.evaluate, **optional}


def labels(methods: Sequence[MethodEntry], budget: int | Literal[False] | None = None) -> list[str]:
    """A short name for each method of a study: its name and the settings that are not the default.

    A method whose size a budget decides is named by the budget, since the size differs between models.
    """
    texts = [method.label(budget) for method in methods]
    counts, numbers = Counter(texts), defaultdict[str, Iterator[int]](lambda: count(1))
    return [text if counts[text] == 1 else f"{text} ({next(numbers[text])})" for text in texts]


def _label_of(part: Stacked) -> str:
    """Of a method in a stack."""
    train = {} if part.learning_rate is None else {"learning_rate": part.learning_rate}
    return MethodEntry.model_construct(name=part.name, config=part.config, train=train).label(None)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    text = f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 24 else text[:21] + "..."


def _users_task(entry: Mapping[str, Any], folder: Path) -> tuple[TaskFile, dict[str, Any]]:
    """The user's own task that an entry names by its file, and the entry's other settings."""
    rest = dict(entry)
    file = rest.pop("file")
    if "name" in rest:
        raise invalid(("name",), "give name or file, not both: a task of your own has its name in its file")
    if not isinstance(file, str | Path) or not str(file).endswith(SUFFIXES):
        raise invalid(("file",), f"file: a task's file ends in {', '.join(SUFFIXES)}")
    try:
        path = folder / user_path(file)
        if not path.is_file():
            raise UserError(f"there is no {path}; give its path from the study file's folder")
    except (UserError, OSError) as error:
        raise invalid(("file",), f"file: {error}") from error
    loaded = load_task(path)
    if loaded.task.name in TASKS:
        raise invalid(
            ("file",), f'{loaded.path}: "{loaded.task.name}" is a task of crosstune; give yours another name'
        )
    return loaded, rest


def read_codes(value: Any, at: Loc) -> Codes:
    """Languages as a study names them.

    Raises:
        ValidationError: At ``at``: they are neither "all" nor a list of texts.
    """
    if value == "all":
        return "all"
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not value:
        raise invalid(at, 'languages: give "all" or a list of codes such as [en, de, sw]')
    for i, code in enumerate(value):
        if not isinstance(code, str):
            raise invalid((*at, i), "languages: a language is a code or a name, such as sw or Swahili")
    return tuple(value)
