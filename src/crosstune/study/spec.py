"""What a study file says: models x tasks x methods x seeds, checked whole before anything is loaded."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from crosstune.config.mistakes import Loc, invalid, known_keys, read_levels, reworded, shown
from crosstune.config.yaml_file import dump
from crosstune.data.forms import form_of
from crosstune.errors import UserError, did_you_mean
from crosstune.files import user_path
from crosstune.models.loading.device import DTYPES, DeviceMap
from crosstune.models.loading.quantize import Quantize
from crosstune.outputs.settings import EvaluateSettings
from crosstune.study.combination import Combination, stage_plan
from crosstune.study.entries import (
    Codes,
    MethodEntry,
    SearchSettings,
    StudyPart,
    TaskEntry,
    labels,
    read_codes,
)
from crosstune.study.file import StudyFile
from crosstune.study.grid import MOST_RUNS, GridCell, sweep
from crosstune.study.refusals import Refusals, refusals
from crosstune.study.slips import STUDY_SLIPS
from crosstune.tasks.custom.definition import NewLanguages
from crosstune.training.settings import ONE_OF, TrainSettings

_NEEDED = {"name": "demo", "models": "demo:gemma-3-270m", "tasks": "cldr-names", "methods": "lora"}
_LISTS = ("models", "tasks", "methods", "trackers")


class Study(StudyPart):
    """A grid of runs, as a study file names them. See ``studies/demo.yaml`` for the form.

    Attributes:
        new_languages: By code, languages that crosstune's table lacks, with their name, family, script and,
            where known, resource class.
        name: Of the study; letters, digits, ``_``, ``-`` and ``.``.
        models: What to load: hub ids, folders or ``demo:`` names (``model:`` for a single one). A hub id may
            end in ``@`` and a branch, tag or commit, which ``revision:`` is put behind a single one as.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        dtype: "auto", "float32", "bfloat16", ...
        tasks: Names, or a name with options and ``train``/``evaluate`` settings for that task; for a task of
            your own, its file in place of the name (docs/custom-tasks.md).
        methods: Names, or a name with settings and ``train`` settings for that method.
        languages: "all", a list, or one of these for each task. The source language is included
            wherever the task has a test in it.
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

    new_languages: NewLanguages = Field(default_factory=dict)
    name: str
    models: tuple[str, ...]
    device: str = "auto"
    dtype: str = "auto"
    tasks: tuple[TaskEntry, ...]
    methods: tuple[MethodEntry, ...]
    languages: Codes | dict[str, Codes] = "all"
    train: dict[str, Any] = Field(default_factory=dict)
    search: SearchSettings | Literal[False] | None = None
    budget: int | Literal[False] | None = None
    evaluate: dict[str, Any] = Field(default_factory=dict)
    prompt_language: Literal["source", "target"] | None = None
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    store: str | None = None
    quantize: Quantize | None = None
    device_map: DeviceMap | None = None
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    _text: str | None = PrivateAttr(default=None)
    _refusals: Refusals = PrivateAttr(default_factory=Refusals)
    _absent: dict[str, str] = PrivateAttr(default_factory=dict)

    # --- reading ----------------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            raise invalid((), 'a study is a mapping of keys: "name:", "model:", "tasks:", "methods:", ...')
        known_keys(value, cls.model_fields, "a study", also=("model", "grid", "revision"), slips=STUDY_SLIPS)
        read = dict(value)
        if "model" in read:
            if "models" in read:
                raise invalid(("model",), "give model or models, not both")
            read["models"] = read.pop("model")
        for key, example in _NEEDED.items():
            if read.get(key) in (None, "", [], ()):
                plain = key.removesuffix("s") if key == "models" else key
                raise invalid((plain,), f'a study needs "{plain}:", such as {example}')
        if (revision := read.pop("revision", None)) is not None:
            if not isinstance(model := read["models"], str) or "@" in model:
                raise invalid(
                    ("revision",), "revision: give it behind each model's name, owner/name@revision"
                )
            read["models"] = f"{model}@{revision}"
        for key in _LISTS:
            if isinstance(read.get(key), str | int | Mapping | BaseModel):
                read[key] = [read[key]]
        grid = read.pop("grid", None)
        if isinstance(read["methods"], list | tuple):
            cells = sweep(read["methods"], grid)
            read["methods"] = [cell.entry for cell in cells]
            if info.context is not None:
                info.context["cells"] = cells
        if read.get("search") and "train.learning_rate" in (grid or {}):
            raise invalid(("search",), "give search or train.learning_rate in grid, not both")
        return read

    @field_validator("store", mode="before")
    @classmethod
    def _store(cls, store: Any) -> Any:
        if store == "":
            raise invalid((), "store: is empty; name a folder, or leave it out for runs/<name>")
        if not isinstance(store, str | Path):
            return store
        try:
            user_path(store)
        except UserError as error:
            raise invalid((), f"store: {error}") from error
        return str(store)

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
            raise invalid((), f'name: "{name}" should be letters, digits, "_", "-" and "." only')
        return name

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            raise invalid(
                (), f"seeds: {value} may mean one seed or so many; write a list, [{value}] or [0, 1, 2]"
            )
        for i, seed in enumerate(value if isinstance(value, list | tuple) else (value,)):
            if isinstance(seed, bool):
                raise invalid((), "seeds: true and false are no seeds; give whole numbers")
            if isinstance(seed, int) and not 0 <= seed < 2**63:
                raise invalid(
                    (i,), f"seeds: {shown(seed)} is no seed; give a whole number from 0 to 2^63 - 1"
                )
        return value

    @field_validator("dtype")
    @classmethod
    def _dtype(cls, dtype: str) -> str:
        if dtype not in ("auto", *DTYPES):
            raise invalid((), f'unknown dtype "{dtype}"{did_you_mean(dtype, ["auto", *DTYPES])}')
        return dtype

    @field_validator("languages", mode="before")
    @classmethod
    def _codes(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {task: read_codes(codes, (task,)) for task, codes in value.items()}
        return read_codes(value, ())

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """What can only be checked with everything read: languages, merged settings, repetitions, models."""
        if self.search and "learning_rate" in self.train:
            raise invalid(("search",), "give search or train.learning_rate, not both (search: null for none)")
        if isinstance(self.languages, dict):
            names = {task.name for task in self.tasks}
            for name in self.languages:
                if name not in names:
                    raise invalid(
                        ("languages", name),
                        f'languages: the study has no task "{name}"{did_you_mean(name, names)}',
                    )
        self._leave_out_absent()
        if self.prompt_language is not None:
            # The tasks' own settings are read by now; the model is frozen for everybody else.
            object.__setattr__(self, "tasks", tuple(map(self._prompted, self.tasks)))
        many = len(self.models) * len(self.tasks) * len(self.methods) * len(self.seeds)
        if many > MOST_RUNS:
            raise invalid(("methods",), f"{many:,} runs; a study takes {MOST_RUNS:,} at most")
        self._no_repetition()
        for i, method in enumerate(self.methods):
            if self.quantize is not None and method.make().trains_weights:
                raise invalid(
                    ("methods", i), f"{method.name} cannot train quantised weights; take it or quantize out"
                )
        combinations = list(self.combinations())
        for combination in combinations:
            self._check_loss(combination)
            self._check_dev(combination)
        self._refusals = refusals(self.models, self.methods, combinations)
        return self

    def _leave_out_absent(self) -> None:
        """Take out optional tasks whose files are not there; with no task left, the first is an error."""
        for task in self.tasks:
            if task.optional:
                try:
                    task.make().languages()
                except UserError as error:
                    self._absent[task.name] = str(error)
        if left := tuple(task for task in self.tasks if task.name not in self._absent):
            object.__setattr__(self, "tasks", left)

    def _no_repetition(self) -> None:
        for what in _LISTS:
            values: Sequence[Any] = getattr(self, what)
            seen = set()
            for i, value in enumerate(values):
                same = _same(value)
                if same in seen:
                    again = getattr(value, "name", value)
                    settings = " with the same settings" if isinstance(value, BaseModel) else ""
                    raise invalid((what, i), f"{what}: {again} is listed twice{settings}")
                seen.add(same)
        files: dict[str, Any] = {}
        for i, task in enumerate(self.tasks):
            if files.setdefault(task.name, task.file) != task.file:
                raise invalid(("tasks", i), f'tasks: two files are called "{task.name}"; change one\'s name')

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

    def _check_loss(self, combination: Combination) -> None:
        """A loss over the choices needs choices, and scores what evaluation compares."""
        task, method = combination.task, combination.method
        if combination.train is None or combination.train.loss == "answer":
            return
        first = combination.evaluate.choices == "first-token"
        if combination.train.loss in form_of(task.task_class.kind).losses and first:
            return
        needs = "a choice task" if first else "evaluate.choices: first-token"
        where: Loc = ()
        if "loss" in method.train:
            where = ("methods", self.methods.index(method))
        elif "loss" in task.train:
            where = ("tasks", self.tasks.index(task))
        raise invalid(
            (*where, "train", "loss"), f"loss: choices on task {task.name} needs {needs}; use loss: answer"
        )

    def _check_dev(self, combination: Combination) -> None:
        """A search, and scores during training, need development data in the source language."""
        task, method = combination.task, combination.method
        if "dev" in task.task_class.split_names:
            return
        if combination.train is not None and combination.train.evaluate_every is not None:
            parts = (("methods", self.methods, method), ("tasks", self.tasks, task))
            near = [(key, every.index(part)) for key, every, part in parts if "evaluate_every" in part.train]
            raise invalid(
                (*(near[0] if near else ()), "train", "evaluate_every"),
                f"evaluate_every: task {task.name} has no development data to score on; give it a dev split, "
                "or take evaluate_every out",
            )
        if combination.search is None:
            return
        where: Loc = ("methods", self.methods.index(method)) if method.search else ()
        raise invalid(
            (*where, "search"),
            f"search: task {task.name} has no development data to choose a learning rate on; give it a dev "
            "split, or a train.learning_rate and search: false",
        )

    # --- what holds for a run -----------------------------------------------------------------

    @property
    def refusals(self) -> Refusals:
        """Of its models: which of its runs fail for it."""
        return self._refusals

    @property
    def absent(self) -> list[str]:
        """One line for each optional task that is left out."""
        return [f"left out, as it is optional: {why}" for why in self._absent.values()]

    def combinations(self) -> Iterator[Combination]:
        """Each task with each method, task by task: first methods that draw nothing, trained ones last.

        Of settings given twice the nearer holds: of the method, then of the task, then of the study.
        """
        methods = [(entry.make(), i, entry.budget_of(self.budget)) for i, entry in enumerate(self.methods)]
        methods.sort(key=lambda method: (method[0].trains, method[0].shots > 0))
        names = labels(self.methods, self.budget)
        for t, task in enumerate(self.tasks):
            languages = task.chosen_languages(self.languages, t)
            levels = [(("evaluate",), self.evaluate), (("tasks", t, "evaluate"), task.evaluate)]
            evaluate = read_levels(EvaluateSettings, levels, "evaluate")
            levels = [(("train",), self.train), (("tasks", t, "train"), task.train)]
            for method, m, budget in methods:
                entry = self.methods[m]
                every = [*levels, (("methods", m, "train"), entry.train)]
                train = read_levels(TrainSettings, every, "train", ONE_OF)
                # A rate given nearer than a search is the rate; a method's own entry never has both.
                search, nearer = entry.search, entry.train
                if search is None:
                    search, nearer = self.search, task.train | entry.train
                if not (method.trains and "learning_rate" not in nearer):
                    search = None
                rate = method.default_rate if train.learning_rate is None else train.learning_rate
                train = train.model_copy(update={"learning_rate": None if search else rate})
                yield Combination(
                    task=task,
                    method=entry,
                    label=names[m],
                    budget=budget,
                    languages=languages,
                    evaluate=evaluate,
                    train=train if method.trains else None,
                    search=search or None,
                    stages=stage_plan(entry, m, task, languages, train),
                )

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path("runs", self.name) if self.store is None else user_path(self.store)

    def to_yaml(self) -> str:
        """The study as a file: the text it was read from, or one that reads as the same study.

        A study with tasks of the user's own is written anew, so that their files are found from anywhere.
        """
        if self._text is not None and not any(task.file for task in self.tasks):
            return self._text
        raw = self.model_dump(mode="json", exclude={"tasks", "methods"}, exclude_none=True)
        raw["tasks"] = [task.as_written() for task in self.tasks]
        raw["methods"] = [method.as_written() for method in self.methods]
        return dump(raw)


def read_study(path: str | Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study file, with some values changed (`StudyFile`), and check all that needs no loaded model.

    Raises:
        UserError: One line, ``<file>:<line>: <what is wrong and what to do>``, for the first mistake.
    """
    path = user_path(path)
    file = StudyFile(path, changes)
    context: dict[str, Any] = {"folder": path.parent, "cells": []}
    try:
        study = Study.model_validate(file.data, context=context)
    except ValidationError as error:
        problems = reworded(error, file.data)
        raise file.first_error([(_in_file(loc, context["cells"]), text) for loc, text in problems]) from None
    study._text = file.text
    return study


def _in_file(loc: Loc, cells: Sequence[GridCell]) -> Loc:
    """A place in the study with its grids written out, as a place in its file."""
    if len(loc) < 2 or loc[0] != "methods" or not isinstance(loc[1], int) or loc[1] >= len(cells):
        return loc
    return cells[loc[1]].place(loc[2:])


def _same(value: Any) -> Any:
    """Something that can be hashed and is equal for equal values: a study may list thousands."""
    if isinstance(value, BaseModel):
        return _same(dict(value))
    if isinstance(value, Mapping):
        return frozenset((key, _same(inner)) for key, inner in value.items())
    return tuple(map(_same, value)) if isinstance(value, list | tuple) else value
