"""The entries of a study's lists of methods and tasks: a name, or a mapping with a name and settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from crosstune.config.mistakes import Loc, invalid, known_keys, read_settings
from crosstune.errors import UserError, did_you_mean
from crosstune.methods import METHODS
from crosstune.methods.budget import parse_budget
from crosstune.methods.config import MethodConfig
from crosstune.outputs.settings import EvaluateSettings
from crosstune.study.search import SearchSettings
from crosstune.tasks import TASKS
from crosstune.tasks.base import Task, TaskOptions
from crosstune.tasks.custom.load import SUFFIXES, TaskFile, load_task
from crosstune.training.settings import TrainSettings

ENTRY = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


_METHOD_KEYS = ("name", "train", "search", "budget", "grid")


class MethodEntry(BaseModel):
    """One method of a study.

    Attributes:
        name: In `METHODS`.
        config: The method's settings.
        train: Training settings for this method.
        search: Learning rates searched for this method; False for no search, None for the study's.
        budget: Trained parameters that the method's size is solved for, model by model; False for none, None
            for the study's.
    """

    model_config = ENTRY

    name: str
    config: MethodConfig
    train: dict[str, Any] = {}
    search: SearchSettings | Literal[False] | None = None
    budget: int | Literal[False] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if isinstance(given, MethodEntry):
            given = given.as_given(mode="python")
        name, rest = _entry(given, "method", METHODS)
        train = settings_part(rest, "train", f"train of method {name}", TrainSettings)
        search = search_part(rest)
        if isinstance(search, SearchSettings) and "learning_rate" in train:
            raise invalid(("search",), f"method {name}: give search or train.learning_rate, not both")
        budget = budget_part(rest)
        config, size = METHODS[name].Config, METHODS[name].size
        known_keys(rest, config.model_fields, f"method {name}", also=_METHOD_KEYS)
        read = read_settings(config, rest, f"method {name}")
        if budget:
            if size is None:
                raise invalid(("budget",), f"method {name} has no size that a budget could decide")
            if size in rest:
                raise invalid(("budget",), f"method {name}: give {size} or budget, not both")
        if isinstance(search, SearchSettings) and not METHODS[name](read).trains:
            raise invalid(("search",), f"method {name} is not trained: there is no learning rate to search")
        return {"name": name, "config": read, "train": train, "search": search, "budget": budget}

    @field_validator("config", mode="plain")
    @classmethod
    def _kept(cls, config: MethodConfig) -> MethodConfig:
        return config

    def budget_of(self, study: int | None) -> int | None:
        """Trained parameters that the size is solved for; the study's where it has no budget."""
        size = METHODS[self.name].size
        if size is None or self.budget is False or size in self.config.model_fields_set:
            return None
        return self.budget or study

    def as_given(self, mode: Literal["json", "python"] = "json") -> dict[str, Any]:
        """The entry as a study file has it."""
        # A size that was not given must stay so: a budget would decide it.
        settings = self.config.model_dump(mode=mode, exclude_unset=True)
        given: dict[str, Any] = {"name": self.name, **settings, "train": self.train}
        if self.budget is not None:
            given["budget"] = self.budget
        if self.search is not None:
            given["search"] = self.search.model_dump(mode=mode) if self.search else False
        return given


class TaskEntry(BaseModel):
    """One task of a study: its options, and the settings that hold for it alone.

    Attributes:
        name: In `TASKS`, or as the user's own file has it.
        options: The task's.
        train: Training settings for this task.
        evaluate: Evaluation settings for this task.
        file: Where a task of the user's own comes from; None for one of crosstune's.
    """

    model_config = ENTRY

    name: str
    options: TaskOptions
    train: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    file: TaskFile | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any, info: ValidationInfo) -> Any:
        if isinstance(given, TaskEntry):
            named = {"name": given.name} if given.file is None else {"file": given.file}
            given = {**named, **given.options.model_dump(), "train": given.train, "evaluate": given.evaluate}
        elif isinstance(given, str) and given.endswith(SUFFIXES):
            given = {"file": given}
        if isinstance(given, Mapping) and "file" in given:
            file, rest = _own(given, Path((info.context or {}).get("folder", "")))
            name, task = file.task.name, file.task
        else:
            name, rest = _entry(given, "task", TASKS)
            file, task = None, TASKS[name]
        train = settings_part(rest, "train", f"train of task {name}", TrainSettings)
        evaluate = settings_part(rest, "evaluate", f"evaluate of task {name}", EvaluateSettings)
        also = ("name" if file is None else "file", "train", "evaluate")
        known_keys(rest, task.Options.model_fields, f"task {name}", also=also)
        return {
            "name": name,
            "options": read_settings(task.Options, rest, f"task {name}"),
            "train": train,
            "evaluate": evaluate,
            "file": file,
        }

    @field_validator("options", mode="plain")
    @classmethod
    def _kept(cls, options: TaskOptions) -> TaskOptions:
        return options

    @property
    def task_class(self) -> type[Task]:
        """What makes the task."""
        return TASKS[self.name] if self.file is None else self.file.task

    def make(self) -> Task:
        """The task itself."""
        return self.task_class(self.options)

    def named(self) -> dict[str, str]:
        """How a study file anywhere on this machine names the task."""
        return {"name": self.name} if self.file is None else {"file": str(self.file.path)}

    def record(self) -> dict[str, str] | None:
        """The user's own file, for run.json; None for one of crosstune's tasks."""
        return None if self.file is None else {"path": str(self.file.path), "sha256": self.file.sha256}


def settings_part(rest: dict[str, Any], key: str, what: str, model: type[BaseModel]) -> dict[str, Any]:
    """Take a block of settings out; its values are checked when all levels are merged.

    Raises:
        ValidationError: It is no mapping, or has a key that the settings do not have.
    """
    given = rest.pop(key, None)
    if given is None:
        return {}
    if isinstance(given, BaseModel):
        given = given.model_dump(exclude_unset=True)
    if not isinstance(given, Mapping):
        example = next(iter(model.model_fields))
        raise invalid((key,), f"{what}: a mapping of settings is wanted, such as {{{example}: 10}}")
    known_keys(given, model.model_fields, what, at=(key,))
    return dict(given)


def search_part(rest: dict[str, Any]) -> SearchSettings | Literal[False] | None:
    """Take ``search`` out: settings, False where it is switched off, None where nothing is said.

    Raises:
        ValidationError: It has other keys than `SearchSettings`, or rates that make no search.
    """
    if "search" not in rest:
        return None
    given = rest.pop("search")
    if given is None or given is False:
        return False
    if isinstance(given, SearchSettings):
        return given
    if not isinstance(given, Mapping) or not given:
        example = "search: {learning_rates: [3e-3, 1e-3, 3e-4]}"
        raise invalid(("search",), f"search: give the rates, such as {example}, or false")
    known_keys(given, SearchSettings.model_fields, "search", at=("search",))
    rates: Loc = ("search", "learning_rates")
    return read_settings(SearchSettings, given, "search", origin={"learning_rates": rates})


def budget_part(rest: dict[str, Any]) -> int | Literal[False] | None:
    """Take ``budget`` out: parameters, False where it is switched off, None where nothing is said.

    Raises:
        ValidationError: It is no number of parameters.
    """
    if "budget" not in rest:
        return None
    given = rest.pop("budget")
    if given is None or given is False:
        return False
    try:
        return parse_budget(given)
    except UserError as error:
        raise invalid(("budget",), str(error)) from error


def _own(given: Mapping[str, Any], folder: Path) -> tuple[TaskFile, dict[str, Any]]:
    """The user's own task that an entry names by its file, and the entry's other settings."""
    rest = dict(given)
    file = rest.pop("file")
    if "name" in rest:
        raise invalid(("name",), "give name or file, not both: a task of your own has its name in its file")
    if not isinstance(file, TaskFile):
        if not isinstance(file, str | Path) or not str(file).endswith(SUFFIXES):
            raise invalid(("file",), f"file: a task's file ends in {', '.join(SUFFIXES)}")
        path = folder / Path(file).expanduser()
        if not path.is_file():
            raise invalid(("file",), f"file: there is no {path}; give its path from the study file's folder")
        file = load_task(path)
    if file.task.name in TASKS:
        raise invalid(
            ("file",), f'{file.path}: "{file.task.name}" is a task of crosstune; give yours another name'
        )
    return file, rest


def _entry(given: Any, what: str, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and settings of an entry that is a name, or a mapping with a name."""
    rest = {"name": given} if isinstance(given, str) else given
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
