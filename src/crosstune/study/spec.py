"""What a study file says: models x tasks x methods x seeds, checked whole before anything is loaded."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from crosstune.config.mistakes import Loc, invalid, known_keys, read_settings, reworded
from crosstune.config.yaml_file import dump
from crosstune.data.forms import form_of
from crosstune.errors import UserError, did_you_mean
from crosstune.languages import find
from crosstune.methods import METHODS
from crosstune.models.loading.device import DTYPES, DeviceMap
from crosstune.models.loading.known import cheap_geometry, check_model
from crosstune.models.loading.quantize import Quantize
from crosstune.outputs.settings import EvaluateSettings
from crosstune.study.entries import ENTRY, MethodEntry, TaskEntry, budget_part, search_part, settings_part
from crosstune.study.file import StudyFile
from crosstune.study.grid import MOST_RUNS, sweep
from crosstune.study.search import SearchSettings
from crosstune.training.settings import ONE_OF, TrainSettings

Codes = Literal["all"] | tuple[str, ...]


class Study(BaseModel):
    """A grid of runs, as a study file names them. See ``studies/demo.yaml`` for the form.

    Attributes:
        name: Of the study; letters, digits, ``_``, ``-`` and ``.``.
        models: What to load: hub ids, folders or ``demo:`` names (``model:`` for a single one).
        device: "auto", "cpu", "cuda", "cuda:1", ...
        dtype: "auto", "float32", "bfloat16", ...
        tasks: Names, or a name with options and ``train``/``evaluate`` settings for that task; for a task of
            your own, its file in place of the name (docs/custom-tasks.md).
        methods: Names, or a name with settings and ``train`` settings for that method.
        languages: "all", a list, or one of these for each task. The source language is always included.
        train: Training settings of every run. A task's own come before these, a method's own before both.
        search: Learning rates to choose from, on source-language development data, for every trained method
            that names no rate of its own and has no search of its own.
        budget: Trained parameters that the size of every method is solved for, model by model, unless it
            names its size or has a budget itself.
        evaluate: Evaluation settings of every run.
        prompt_language: "source" or "target", for every task that has the option and does not set it itself.
        seeds: One run of everything for each.
        store: Folder of the results; ``runs/<name>`` when not given.
        quantize: "4bit" or "8bit" for the frozen weights of linear layers (an extra: bitsandbytes).
        device_map: "auto", "balanced" or "sequential", to spread each model over all GPUs (an extra).
        trackers: Of "tensorboard", "wandb" and "trackio", what else is told of the runs (docs/trackers.md).
    """

    model_config = ENTRY

    name: str
    models: tuple[str, ...]
    device: str = "auto"
    dtype: str = "auto"
    tasks: tuple[TaskEntry, ...]
    methods: tuple[MethodEntry, ...]
    languages: Codes | dict[str, Codes] = "all"
    train: dict[str, Any] = {}
    search: SearchSettings | None = None
    budget: int | None = None
    evaluate: dict[str, Any] = {}
    prompt_language: Literal["source", "target"] | None = None
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    store: str | None = None
    quantize: Quantize | None = None
    device_map: DeviceMap | None = None
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    _text: str | None = PrivateAttr(default=None)

    # --- reading ----------------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise invalid((), 'a study is a mapping of keys: "name:", "model:", "tasks:", "methods:", ...')
        known_keys(given, cls.model_fields, "a study", also=("model", "grid"))
        read = dict(given)
        if "model" in read and "models" in read:
            raise invalid(("model",), "give model or models, not both")
        if "model" in read:
            read["models"] = read.pop("model")
        for key, example in (
            ("name", "demo"),
            ("models", "demo:gemma-3-270m"),
            ("tasks", "cldr-names"),
            ("methods", "lora"),
        ):
            if read.get(key) in (None, "", [], ()):
                plain = key.removesuffix("s") if key == "models" else key
                raise invalid((plain,), f'a study needs "{plain}:", such as {example}')
        for key in ("models", "tasks", "methods", "seeds", "trackers"):
            if isinstance(read.get(key), str | int | Mapping | BaseModel):
                read[key] = [read[key]]
        if isinstance(read["methods"], list | tuple):
            cells = sweep(read["methods"], read.get("grid"))
            read["methods"] = [cell.entry for cell in cells]
        read["train"] = settings_part(read, "train", "train", TrainSettings)
        read["evaluate"] = settings_part(read, "evaluate", "evaluate", EvaluateSettings)
        read["search"] = search_part(read) or None
        if read["search"] is not None and "learning_rate" in read["train"]:
            raise invalid(("search",), "give search or train.learning_rate, not both (search: null for none)")
        if "train.learning_rate" in (read.pop("grid", None) or {}) and read["search"] is not None:
            raise invalid(("search",), "give search or train.learning_rate in grid, not both")
        read["budget"] = budget_part(read) or None
        if isinstance(read.get("store"), Path):
            read["store"] = str(read["store"])
        if read.get("store") == "":
            raise invalid(("store",), "store: is empty; name a folder, or leave it out for runs/<name>")
        return read

    @field_validator("name")
    @classmethod
    def _name(cls, given: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", given):
            raise invalid((), f'name: "{given}" should be letters, digits, "_", "-" and "." only')
        return given

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(seed, bool) for seed in value):
            raise invalid((), "seeds: true and false are no seeds; give whole numbers")
        return value

    @field_validator("dtype")
    @classmethod
    def _dtype(cls, given: str) -> str:
        if given not in ("auto", *DTYPES):
            raise invalid((), f'unknown dtype "{given}"{did_you_mean(given, ["auto", *DTYPES])}')
        return given

    @field_validator("languages", mode="plain")
    @classmethod
    def _codes(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            return {task: _codes(codes, (task,)) for task, codes in given.items()}
        return _codes(given, ())

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """What can only be checked with everything read: languages, merged settings, repetitions, models."""
        if isinstance(self.languages, dict):
            names = {task.name for task in self.tasks}
            for name in self.languages:
                if name not in names:
                    raise invalid(
                        ("languages", name),
                        f'languages: the study has no task "{name}"{did_you_mean(name, names)}',
                    )
        if self.prompt_language is not None:
            # The tasks' own settings are read by now; the model is frozen for everybody else.
            object.__setattr__(self, "tasks", tuple(map(self._prompted, self.tasks)))
        many = len(self.models) * len(self.tasks) * len(self.methods) * len(self.seeds)
        if many > MOST_RUNS:
            raise invalid(("methods",), f"{many:,} runs; a study takes {MOST_RUNS:,} at most")
        self._no_repetition()
        self._one_task_a_name()
        for i, method in enumerate(self.methods):
            if self.quantize is not None and method.name == "full":
                raise invalid(("methods", i), "full cannot train quantised weights; take it or quantize out")
        for task in self.tasks:
            self.evaluate_for(task)
            self.languages_for(task)
            for method in self.methods:
                self._check_loss(task, method)
                self._check_search(task, method)
        for i, model in enumerate(self.models):
            self._check_model(model, i)
        return self

    def _no_repetition(self) -> None:
        lists: dict[str, Sequence[Any]] = {
            what: getattr(self, what) for what in ("models", "tasks", "methods", "seeds", "trackers")
        }
        for what, values in lists.items():
            for i, value in enumerate(values):
                if value in values[:i]:
                    again = getattr(value, "name", value)
                    same = " with the same settings" if isinstance(value, BaseModel) else ""
                    raise invalid((what, i), f"{what}: {again} is listed twice{same}")

    def _prompted(self, task: TaskEntry) -> TaskEntry:
        """The task with the study's prompt language, if it takes one and has not its own."""
        options = task.options
        if (
            "prompt_language" not in type(options).model_fields
            or "prompt_language" in options.model_fields_set
        ):
            return task
        changed = options.model_copy(update={"prompt_language": self.prompt_language})
        return task.model_copy(update={"options": changed})

    def _one_task_a_name(self) -> None:
        files: dict[str, Any] = {}
        for i, task in enumerate(self.tasks):
            if files.setdefault(task.name, task.file) != task.file:
                raise invalid(("tasks", i), f'tasks: two files are called "{task.name}"; change one\'s name')

    def _check_loss(self, task: TaskEntry, method: MethodEntry) -> None:
        """A loss over the choices needs choices, and scores what evaluation compares."""
        loss = self.train_for(task, method).loss
        if loss == "answer" or not METHODS[method.name](method.config).trains:
            return
        first = self.evaluate_for(task).choices == "first-token"
        if loss in form_of(task.task_class.kind).losses and first:
            return
        needs = "a choice task" if first else "evaluate.choices: first-token"
        where: Loc = ("train", "loss")
        if "loss" in task.train:
            where = ("tasks", self.tasks.index(task), *where)
        if "loss" in method.train:
            where = ("methods", self.methods.index(method), "train", "loss")
        raise invalid(where, f"loss: choices on task {task.name} needs {needs}; use loss: answer")

    def _check_search(self, task: TaskEntry, method: MethodEntry) -> None:
        """A search needs development data in the source language."""
        if self.search_for(task, method) is None or "dev" in task.task_class.split_names:
            return
        where: Loc = ("methods", self.methods.index(method)) if method.search else ()
        raise invalid(
            (*where, "search"),
            f"search: task {task.name} has no development data to choose a learning rate on; give it a dev "
            "split, or a train.learning_rate and search: false",
        )

    def _check_model(self, model: str, at: int) -> None:
        try:
            check_model(model)
            geometry = cheap_geometry(model)
        except UserError as error:
            raise invalid(("models", at), str(error)) from error
        if geometry is None:
            return
        for i, method in enumerate(self.methods):
            try:
                METHODS[method.name].count(method.config, geometry)
            except UserError as error:
                raise invalid(("methods", i), f"method {method.name} on {model}: {error}") from error

    # --- what holds for a run -----------------------------------------------------------------

    def train_for(self, task: TaskEntry, method: MethodEntry) -> TrainSettings:
        """Training settings of a run: the method's own before the task's own before the study's."""
        levels: list[tuple[Loc, dict[str, Any]]] = [
            (("train",), self.train),
            (("tasks", self.tasks.index(task), "train"), task.train),
            (("methods", self.methods.index(method), "train"), method.train),
        ]
        merged: dict[str, Any] = {}
        origin: dict[str, Loc] = {}
        for where, given in levels:
            # They say the same thing: the nearer of the two holds.
            for one, other in ONE_OF:
                if one in given:
                    merged.pop(other, None)
                elif other in given:
                    merged.pop(one, None)
            merged |= given
            origin |= {key: (*where, key) for key in given}
        nearest = next((where for where, given in reversed(levels) if given), ("train",))
        return read_settings(TrainSettings, merged, "train", origin=origin, whole=nearest)

    def search_for(self, task: TaskEntry, method: MethodEntry) -> tuple[float, ...] | None:
        """Learning rates that are searched for a run; None where its rate is given, or is the default.

        What is said nearer holds: of the method, then of the task, then of the study.
        """
        if not METHODS[method.name](method.config).trains or "learning_rate" in method.train:
            return None
        if method.search is not None:
            return method.search.learning_rates if method.search else None
        if self.search is None or "learning_rate" in task.train:
            return None
        return self.search.learning_rates

    def evaluate_for(self, task: TaskEntry) -> EvaluateSettings:
        """Evaluation settings of a task's runs: the task's own before the study's."""
        origin: dict[str, Loc] = {key: ("evaluate", key) for key in self.evaluate}
        origin |= {key: ("tasks", self.tasks.index(task), "evaluate", key) for key in task.evaluate}
        return read_settings(EvaluateSettings, self.evaluate | task.evaluate, "evaluate", origin=origin)

    def languages_for(self, task: TaskEntry) -> tuple[str, ...]:
        """Canonical codes of the languages a task is evaluated in, its source language first."""
        made = task.make()
        where: Loc = ("languages",)
        chosen: Codes
        if isinstance(self.languages, dict):
            if task.name not in self.languages:
                raise invalid(where, f'languages: task "{task.name}" is missing; add "{task.name}: all"')
            where, chosen = (*where, task.name), self.languages[task.name]
        else:
            chosen = self.languages
        try:
            if chosen == "all":
                return tuple(made.languages())
            # A set of published files may lack the source language; then there is no gap to report.
            codes = {code: None for code in (made.source_language,) if made.offers(code)}
        except UserError as error:
            raise invalid(("tasks", self.tasks.index(task)), f"task {task.name}: {error}") from error
        for i, code in enumerate(chosen):
            try:
                found = find(code).code
            except UserError as error:
                raise invalid((*where, i), f"languages: {error}") from error
            if not made.offers(found):
                offered = made.languages()
                raise invalid(
                    (*where, i),
                    f'task {task.name} has no language "{code}"; it has {len(offered)}'
                    f"{did_you_mean(found, offered)}",
                )
            codes[found] = None
        return tuple(codes)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path("runs", self.name) if self.store is None else Path(self.store).expanduser()

    def to_yaml(self) -> str:
        """The study as a file: the text it was read from, or one that reads as the same study.

        A study with tasks of the user's own is written anew, so that their files are found from anywhere.
        """
        if self._text is not None and not any(task.file for task in self.tasks):
            return self._text
        raw = self.model_dump(mode="json", exclude={"tasks", "methods", "languages"}, exclude_none=True)
        chosen = self.languages
        raw["languages"] = (
            {task: _listed(codes) for task, codes in chosen.items()}
            if isinstance(chosen, dict)
            else _listed(chosen)
        )
        raw["tasks"] = [
            {**t.named(), **t.options.model_dump(mode="json"), "train": t.train, "evaluate": t.evaluate}
            for t in self.tasks
        ]
        raw["methods"] = [method.as_given() for method in self.methods]
        return dump(raw)


def read_study(path: str | Path) -> Study:
    """Read a study file and check everything that can be checked without loading a model.

    Raises:
        UserError: One line, ``<file>:<line>: <what is wrong and what to do>``, for the first mistake.
    """
    file = StudyFile(Path(path))
    try:
        study = Study.model_validate(file.data, context={"folder": Path(path).parent})
    except ValidationError as error:
        problems = reworded(error, file.data)
        raise file.first_error([(_in_grid(file.data, loc), text) for loc, text in problems]) from None
    study._text = file.text
    return study


def _in_grid(data: Any, loc: Loc) -> Loc:
    """A place in the study with its grids written out, as a place in its file."""
    if len(loc) < 2 or loc[0] != "methods" or not isinstance(loc[1], int):
        return loc
    given = data["methods"] if isinstance(data["methods"], list) else [data["methods"]]
    try:
        cells = sweep(given, data.get("grid"))
    except ValidationError:
        return loc  # it is the grid's own mistake, placed already
    return cells[loc[1]].place(loc[2:]) if loc[1] < len(cells) else loc


def _listed(codes: Codes) -> Any:
    return codes if codes == "all" else list(codes)


def _codes(given: Any, at: Loc) -> Codes:
    if given == "all":
        return "all"
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list | tuple) or not given:
        raise invalid(at, 'languages: give "all" or a list of codes such as [en, de, sw]')
    for i, code in enumerate(given):
        if not isinstance(code, str):
            raise invalid((*at, i), "languages: a language is a code or a name, such as sw or Swahili")
    return tuple(given)
