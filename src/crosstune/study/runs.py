"""The runs of a study: one for each model, task, method and seed, each with an id made from its content."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.base import Method
from crosstune.methods.budget import solve
from crosstune.methods.config import MethodConfig
from crosstune.methods.staged.stage import terms
from crosstune.models.loading.device import named
from crosstune.models.loading.known import geometry_for
from crosstune.outputs.settings import EvaluateSettings
from crosstune.store.record import Kind, RunRecord
from crosstune.study.combination import StagePlan, Stages
from crosstune.study.entries import TaskEntry
from crosstune.study.spec import Study
from crosstune.training.settings import TrainSettings

RESULT_VERSION = 1
"""Raised whenever the same settings lead to other numbers, so that old runs are not taken for new ones."""

LAST_STEP = 1_000_000_000
"""``evaluate_every`` of a search run that sets none: the loop always scores after its last step."""


@dataclass(frozen=True)
class Search:
    """The runs that a result run waits for."""

    runs: tuple[str, ...]  # ids of the search runs
    rates: tuple[float, ...]  # their learning rates, in the same order
    seed: int  # of these runs


@dataclass(frozen=True)
class Run:
    """Everything that decides one result."""

    study: str  # name of the study, for the record; not part of the id
    model: str  # as the study names it. Its revision is known when it is loaded, and is checked on resuming.
    device: str  # kind of device ("cpu", "cuda", ...); arithmetic differs between kinds
    dtype: str  # of the frozen weights, such as "bfloat16"
    task: TaskEntry  # name and options
    languages: tuple[str, ...]  # evaluated in, source language first
    method: str  # name in `METHODS`
    config: MethodConfig  # the method's settings
    train: TrainSettings | None  # with the learning rate filled in; None when nothing is trained
    evaluate: EvaluateSettings  # evaluation settings
    seed: int  # of the method's start, the order of examples and the exemplars
    label: str  # short name, unique among the methods of the study
    # "result", or "search": trained and scored on source-language development data, nothing else; or "stage":
    # trained on unlabelled text of ``train.languages``, and not scored.
    kind: Kind = "result"
    # For a result whose learning rate is searched: the runs that decide it. Its ``train`` has no learning
    # rate then, until `crosstune.study.runs.resolve` fills it in.
    search: Search | None = None
    chosen: dict[float, float] | None = None  # development score by searched rate, once resolved
    stages: Stages | None = None  # that the method stands on; in the id when there are any
    quantize: str | None = None  # "4bit" or "8bit" for the frozen weights; in the id when set
    device_map: str | None = None  # how the model is spread over GPUs; not in the id
    known_as: str | None = None  # the id from before it was resolved, which it keeps
    # Why it cannot be made: its model cannot be loaded, or its method or task does not fit the model.
    refused: str | None = None
    unsolved: int | None = None  # of a refused run: the budget that its method's size could not be solved for

    @cached_property
    def id(self) -> str:
        """16 hex digits of the SHA-256 over all that decides the result, as canonical JSON."""
        if self.known_as is not None:
            return self.known_as
        method = self.new_method()
        content: dict[str, Any] = {
            "version": RESULT_VERSION,
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "task": self.task.name,
            "task_version": self.task.task_class.version,
            "options": self.task.options.model_dump(mode="json"),
            "languages": sorted(self.languages),
            "method": self.method,
            "config": self.config.model_dump(mode="json"),
            "train": None if self.train is None else self.train.identity(),
            "evaluate": self.evaluate.model_dump(mode="json"),
            # Nothing is drawn for a method that neither trains nor shows exemplars.
            "seed": self.seed if method.trains or method.shots else None,
        }
        if self.task.file is not None:
            content["task_file"] = self.task.file.sha256
        if self.quantize is not None:
            content["quantize"] = self.quantize
        if self.unsolved is not None:
            content["budget"] = self.unsolved
        if self.kind != "result":
            content["kind"] = self.kind
        if self.search is not None:
            content["search"] = sorted(self.search.runs)
        if self.stages is not None:
            runs = self.stages.runs
            content["stages"] = {
                code: text
                and (runs[text] if text in runs else [[runs[t], w] for t, w in terms(text).items()])
                for code, text in self.stages.uses.items()
            }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For people: "cldr-names · lora · seed 0"; of a search run with its learning rate."""
        name = f"{self.task.name} · {self.label} · seed {self.seed}"
        if self.kind == "stage" and self.train is not None:
            name = f"{self.label} · {', '.join(self.train.languages or ())}"
        if self.kind == "search" and self.train is not None:
            name += f" · searching, rate {self.train.learning_rate:g}"
        return name

    def new_method(self) -> Method:
        """The method, not attached to anything yet."""
        return METHODS[self.method](self.config)


def expand(study: Study) -> list[Run]:
    """All runs of a study in the order they are done: model by model, task by task, untrained methods first.

    A method that neither trains nor draws anything is one run whatever the seeds. The search runs that decide
    a learning rate stand just before the runs that wait for it. Runs of a model that the study refused, or
    whose shape a budget needs and cannot be read, are `Run.refused`, and so are those that do not fit theirs.

    Raises:
        UserError: The device is not on this machine, or every model is refused.
    """
    device, dtype = named(study.device, study.dtype)
    combinations = list(study.combinations())
    sized = any(combination.budget is not None for combination in combinations)
    refused = dict(study.refusals.models)
    runs: dict[str, Run] = {}
    for model in study.models:
        geometry = None
        if sized and model not in refused:
            try:
                geometry = geometry_for(model)
            except UserError as error:
                refused[model] = str(error)
        first: dict[str, Run] = {}
        rest: dict[str, Run] = {}
        for i, combination in enumerate(combinations):
            base = Run(
                study=study.name,
                model=model,
                device=device,
                dtype=dtype,
                task=combination.task,
                languages=combination.languages,
                method=combination.method.name,
                config=combination.method.config,
                train=combination.train,
                evaluate=combination.evaluate,
                seed=study.seeds[0],
                label=combination.label,
                quantize=study.quantize,
                device_map=study.device_map,
                refused=refused.get(model) or study.refusals.of(model, i),
                unsolved=combination.budget,
            )
            if geometry is not None and combination.budget is not None and base.refused is None:
                solved = solve(base.method, base.config, geometry, combination.budget)
                base = replace(base, config=base.config if solved is None else solved.config, unsolved=None)
            if combination.stages is not None and (model, i) not in study.refusals.combinations:
                stages, base = _with_stages(base, combination.stages)
                first |= {run.id: run for run in stages if run.id not in first}
            searches = []
            if (search := combination.search) is not None:
                seed = base.seed if search.seed is None else search.seed
                searches = [_search_run(replace(base, seed=seed), rate) for rate in search.learning_rates]
                ids = tuple(run.id for run in searches)
                base = replace(base, search=Search(ids, search.learning_rates, seed))
            for run in [*searches, *(replace(base, seed=seed) for seed in study.seeds)]:
                rest.setdefault(run.id, run)
        runs |= first | rest
    if len(refused) == len(study.models):
        raise UserError(next(iter(refused.values())))
    return list(runs.values())


def _with_stages(base: Run, plan: StagePlan) -> tuple[list[Run], Run]:
    """The runs of a method's stages, and the method's own that needs them.

    Nothing but the stage itself decides theirs: they are shared by all that need them, in other studies too.
    """
    runs = {
        text: replace(
            base,
            task=plan.text,
            languages=(),
            method=plan.stage.method,
            config=plan.stage.config,
            train=plan.settings(text),
            evaluate=EvaluateSettings(),
            seed=0,
            label=plan.stage.label,
            kind="stage",
            unsolved=None,
        )
        for text in dict.fromkeys(t for text in plan.uses.values() if text is not None for t in terms(text))
    }
    ids = {text: run.id for text, run in runs.items()}
    return list(runs.values()), replace(base, stages=Stages(plan.uses, ids))


def _search_run(base: Run, rate: float) -> Run:
    """A run that tries one rate, and is scored at least after its last step."""
    assert base.train is not None
    update = {"learning_rate": rate, "evaluate_every": base.train.evaluate_every or LAST_STEP}
    train, stages = base.train.model_copy(update=update), base.stages
    if stages is not None:
        stages = stages.of((base.task.task_class.source_language,))
    # A search tests nothing. (What ``limit`` says has always been in its id, and stays there.)
    evaluate = base.evaluate.model_copy(update={"per_cluster": None})
    return replace(base, kind="search", languages=(), train=train, evaluate=evaluate, stages=stages)


def resolve(run: Run, finished: Mapping[str, RunRecord]) -> Run:
    """A run with its learning rate filled in: the best on development data, the smaller one on ties.

    The run keeps its id; a run without a search is returned unchanged. Search runs without a record in
    ``finished`` failed, and are left out of the choice.

    Raises:
        UserError: None of its search runs is finished (the first is named), or one was never scored.
    """
    if run.search is None or run.chosen is not None:
        return run
    assert run.train is not None
    scores: dict[float, float] = {}
    for run_id, rate in zip(run.search.runs, run.search.rates, strict=True):
        if run_id in finished:
            score = finished[run_id].dev_score
            if score is None:
                raise UserError(
                    f"search run {run_id} has no development score; delete it and run the study again"
                )
            scores[rate] = score
    if not scores:
        raise UserError(
            f"no learning rate can be chosen for {run.label}: none of its {len(run.search.runs)} search runs "
            f"is finished, {run.search.runs[0]} (rate {run.search.rates[0]:g}) the first of them"
        )
    best = min(scores, key=lambda rate: (-scores[rate], rate))
    train = run.train.model_copy(update={"learning_rate": best})
    return replace(run, train=train, chosen=scores, known_as=run.id)
