"""A few seconds of each method and task of a study, timed, so that a plan can say how long the rest takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from crosstune.data.example import Example
from crosstune.methods.base import Method
from crosstune.methods.head import without_head
from crosstune.methods.staged.stage import Staged
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.planning import timings as measurements
from crosstune.planning.timings import Measured, answer_key, step_key, test_key
from crosstune.running.execute import load_for
from crosstune.running.prepared import attached, method_of, predictions, training_rows
from crosstune.running.task_data import TaskData, read_for
from crosstune.store import provenance
from crosstune.study.runs import Run, expand
from crosstune.study.spec import Study
from crosstune.training.loop import Progress, train

STEPS = 4
"""Training steps timed of a method, the first left out: it also warms up."""

ANSWERS = 24
"""Test examples timed, spread over the languages."""


class _Timed(Exception):  # noqa: N818  # no error
    """Enough steps are timed."""


def calibrate(study: Study, tell: Callable[[str], None]) -> None:
    """Load each model of a study, time its methods on its tasks, and keep the figures in the cache folder.

    Args:
        study: From `read_study`.
        tell: Called with a line on what is timed now.

    Raises:
        UserError: A model cannot be loaded, a task's files are missing, or the cache cannot be written.
    """
    runs = [run for run in expand(study) if run.refused is None]
    for model in dict.fromkeys(run.model for run in runs):
        of_model = [run for run in runs if run.model == model]
        tell(f"loading {model}")
        loaded = load_for(study, model)
        lm = loaded.lm
        first = of_model[0]
        before = measurements.read(first, lm.revision)
        measured = before or Measured(lm.revision)
        measured.load_seconds = loaded.seconds
        for i, entry in enumerate(tasks := [run.task for run in of_model]):
            if entry in tasks[:i]:
                continue
            of_task = [run for run in of_model if run.task == entry]
            _time_task(lm, of_task, measured, tell)
            measurements.keep(first, measured)


def _time_task(
    lm: LanguageModel, runs: Sequence[Run], measured: Measured, tell: Callable[[str], None]
) -> None:
    tested = next((run for run in runs if run.kind == "result"), runs[0])
    data = read_for(tested.task.make(), runs)
    measured.tests[test_key(tested)] = sum(len(examples) for examples in data.test.values())
    seen: set[str] = set()
    for run in runs:
        key = answer_key(run) if run.train is None else step_key(run)
        if key in seen:
            continue
        seen.add(key)
        tell(f"timing {run.label} on {run.task.name}")
        method = method_of(run, lm, data)
        if run.stages is not None and isinstance(staged := without_head(method), Staged):
            staged.uses = run.stages.uses
        with attached(method, lm, run.seed, run.task.task_class.source_language):
            if run.train is not None:
                measured.steps[key] = _time_steps(run, method, data)
            if data.test:
                measured.answers[answer_key(run)] = _time_answers(run, method, data)


def _time_steps(run: Run, method: Method, data: TaskData) -> dict[str, Any]:
    assert run.train is not None
    lm = method.attached()
    rows = training_rows(run, lm, data, TokenLimit(run.train.tokens_per_pass, lm.device))
    # The first of the run's own steps, whose number a method's schedule is made for.
    steps = max(STEPS, run.train.total_steps(len(rows)))
    first = {"steps": steps, "epochs": None, "evaluate_every": None, "patience": None}
    # Of a few steps nothing is read twice: those of later epochs take at most what is measured.
    first |= {"reuse_frozen_layers": False, "shard": False}
    times: list[float] = []

    def after_step(progress: Progress) -> None:
        times.append(progress.seconds)
        if len(times) == STEPS:
            raise _Timed

    provenance.reset_peak_memory(run.device)
    with suppress(_Timed):
        train(method, rows, run.train.model_copy(update=first), run.seed, tell=after_step)
    return {
        "seconds": (times[-1] - times[0]) / (len(times) - 1),
        "examples": len(rows),
        "dev": len(data.dev[: run.train.dev_limit]),
        "peak_bytes": provenance.peak_memory(run.device),
    }


def _time_answers(run: Run, method: Method, data: TaskData) -> dict[str, Any]:
    sample = _sample(data.test)
    if run.task.task_class.kind == "generation":  # the first writing of a process sets up what later ones use
        predictions(run, method, data, {code: examples[:1] for code, examples in sample.items()})
    provenance.reset_peak_memory(run.device)
    began = time.perf_counter()
    predictions(run, method, data, sample)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds / sum(len(examples) for examples in sample.values()),
        "peak_bytes": provenance.peak_memory(run.device),
    }


def _sample(test: Mapping[str, Sequence[Example]]) -> dict[str, list[Example]]:
    """Some examples of some languages, evenly through both."""
    codes = list(test)[:: max(1, len(test) // 8)]
    count = max(1, ANSWERS // len(codes))
    return {code: list(test[code][:count]) for code in codes}
