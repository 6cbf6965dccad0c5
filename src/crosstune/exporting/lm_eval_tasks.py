"""Tasks of a store's runs as lm-evaluation-harness has tasks: a YAML file and a table a language.

Choices are scored by the harness's own accuracy; written answers, and choices whose metric is of the whole
test set, by crosstune (`scored`, `whole_set`), which has to be installed beside the harness for them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.files import user_path, write_whole
from crosstune.metrics.corpus import CORPUS
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.task_data import read_data
from crosstune.store import store as stored
from crosstune.store.record import RunRecord
from crosstune.tasks import make_task
from crosstune.tasks.base import Task
from crosstune.tasks.custom.load import load_task

EXEMPLARS = 100
"""Training examples of the source language that are written for the harness's few-shot prompts."""
_TESTED = ("limit", "per_cluster", "max_answer_tokens")
"""Settings of evaluation that a task of the harness has: under others it is another."""
_READER = "crosstune_tables"
_READ = '''"""Reads the tables beside it; where crosstune is installed, its runs are models of the harness."""

import contextlib
from pathlib import Path

import datasets

with contextlib.suppress(ImportError):
    import crosstune.exporting.lm_eval  # noqa: F401


def read(files, **_):
    """The splits of a task."""
    places = {split: str(Path(__file__).with_name(name)) for split, name in files.items()}
    return datasets.load_dataset("json", data_files=places)
'''


class _Function(str):
    """A function that the harness imports."""


yaml.SafeDumper.add_representer(
    _Function, lambda dumper, name: dumper.represent_scalar("!function", str(name))
)


def write_tasks(store: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Write the tasks of a store's runs, with the examples that these were tested on.

    Returns:
        The files, and a line for each task that the harness has no form for.

    Raises:
        UserError: No task can be written, a task's data cannot be read, or the folder cannot be written.
    """
    runs: dict[str, RunRecord] = {}
    languages: dict[str, dict[str, None]] = {}  # of all runs that were tested alike
    for run in stored.read_runs(store):
        alike = json.dumps([_reference(run), *map(run.evaluate.get, _TESTED)], sort_keys=True)
        runs.setdefault(alike, run)
        languages.setdefault(alike, {}).update(dict.fromkeys(run.languages))
    folder = user_path(folder)
    written: list[Path] = []
    left: list[str] = []
    names: list[str] = []
    for alike, run in runs.items():
        in_python = str((run.task.file or {}).get("path", "")).endswith(".py")
        if in_python or run.task.kind not in ("choice", "generation"):
            why = "is a Python file" if in_python else f"has {run.task.kind} for answers"
            left.append(f"{run.task.name} is left out: it {why}, which the harness cannot take")
            continue
        again = names.count(run.task.name)
        names.append(run.task.name)
        name = f"crosstune_{run.task.name}" + (f"_{again + 1}" if again else "")
        written += _write(folder, name, run, [*languages[alike]])
    if not written:
        raise UserError("; ".join(left))
    return [_put(folder / f"{_READER}.py", _READ), *written], left


def _write(folder: Path, name: str, run: RunRecord, languages: Sequence[str]) -> Iterable[Path]:
    """The files of one task; a task of the harness a language."""
    reference = json.dumps(_reference(run), sort_keys=True)
    task = _task(reference)
    chosen = EvaluateSettings(limit=run.evaluate.get("limit"), per_cluster=run.evaluate.get("per_cluster"))
    data = read_data(task, languages, chosen, with_dev=False, trains=False)
    files = {"test": ""}
    if shown := data.train.get(task.source_language, [])[:EXEMPLARS]:
        files["train"] = f"{name}.train.jsonl"
        yield _put(folder / files["train"], _lines(shown, reference))
    for code, examples in data.test.items():
        files["test"] = f"{name}_{code}.jsonl"
        yield _put(folder / files["test"], _lines(examples, reference))
        longest = run.evaluate.get("max_answer_tokens") or task.max_answer_tokens
        definition = _definition(f"{name}_{code}", task, files, longest)
        text = yaml.safe_dump(definition, sort_keys=False, allow_unicode=True)
        yield _put(folder / f"{name}_{code}.yaml", text)


def _definition(name: str, task: Task, files: Mapping[str, str], longest: int) -> dict[str, Any]:
    """A task as the harness's YAML says it."""
    main = task.metrics[0]
    choices = task.kind == "choice"
    metric: dict[str, Any] = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
    content: dict[str, Any] = {
        "task": name,
        "custom_dataset": _Function(f"{_READER}.read"),
        "dataset_kwargs": {"files": dict(files)},
        "test_split": "test",
        "output_type": "multiple_choice" if choices else "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "gold" if choices else "answer",
    }
    if "train" in files:
        content["fewshot_split"] = "train"
    if choices:
        content["doc_to_choice"] = "choices"
    else:
        stop = {"until": list(task.stop), "max_gen_toks": longest, "do_sample": False}
        content["generation_kwargs"] = stop
    if not choices or main in CORPUS:
        content["process_results"] = _Function(f"{__name__}.{scored.__name__}")
        metric["metric"] = main
    if main in CORPUS:
        metric["aggregation"] = _Function(f"{__name__}.{whole_set.__name__}")
    content["metric_list"] = [metric]
    content["metadata"] = {"version": task.version}
    return content


def _lines(examples: Sequence[Example], reference: str) -> str:
    """Examples as JSON lines, with what `scored` needs of them."""
    rows = (
        {
            "id": example.id,
            "language": example.language,
            "prompt": example.prompt,
            "answer": example.answers[0],
            "answers": list(example.answers),
            "choices": list(example.choices),
            "gold": example.gold if example.choices else 0,
            "crosstune": reference,
        }
        for example in examples
    )
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def scored(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """What the harness calls for one answer: the task's main metric, or what a metric of all is summed of."""
    task = _task(doc["crosstune"])
    main, choices = task.metrics[0], tuple(doc["choices"] or ())
    example = Example(doc["id"], doc["language"], doc["prompt"], tuple(doc["answers"]), choices)
    answer = choices[int(np.argmax([score for score, _ in results]))] if choices else results[0].strip()
    if main in CORPUS:
        return {main: [main, task.sums(example, answer)]}
    return {main: task.score(example, answer)[main]}


def whole_set(items: Sequence[tuple[str, Sequence[float]]]) -> float:
    """What the harness calls for many: the metric of the whole test set, of sums."""
    return float(CORPUS[items[0][0]].value(np.sum([sums for _, sums in items], axis=0)))


@cache
def _task(reference: str) -> Task:
    """The task that `_reference` names."""
    name, options, file = json.loads(reference)
    if file is None:
        return make_task(name, options)
    return load_task(file["path"], sha256=file["sha256"], of="the exported task").make(options)


def _reference(run: RunRecord) -> list[Any]:
    return [run.task.name, run.task.options, run.task.file]


def _put(file: Path, text: str) -> Path:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); name another folder") from error
    return file
