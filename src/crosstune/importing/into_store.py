"""Writes other programs' results into a store, as runs that look like its own."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from crosstune.data.forms import FORMS
from crosstune.errors import UserError
from crosstune.importing.answers import Answer
from crosstune.importing.lm_eval import Samples, is_samples, methods_of, read_samples
from crosstune.importing.table import read_table
from crosstune.store import store as stored
from crosstune.store.frozen import FROZEN
from crosstune.store.record import RunRecord

UNTUNED = ("none", "few-shot")
"""Names of methods that are the model as it came."""


def import_files(paths: Iterable[Path], store: Path, about: Samples, source: str) -> list[RunRecord]:
    """Read files of answers, or folders of lm-evaluation-harness's samples, and write them as runs.

    Args:
        paths: Files, and folders in which every ``samples_*.jsonl`` is read.
        store: A store, or a folder to make one of.
        about: What the files do not say.
        source: Code of the language that methods were trained in.

    Raises:
        UserError: A file that cannot be read or used (file and line named), an example twice, or a folder
            that is no store.
    """
    answers: dict[tuple[str, str, str, int], list[Answer]] = defaultdict(list)
    files = _files(paths)
    methods = methods_of([path for path in files if is_samples(path)])
    for path in files:
        if path in methods:
            read = read_samples(path, about, methods[path])
        else:
            read = read_table(path, about.model, about.task or "task")
        for answer in read:
            answers[answer.run].append(answer)
    if not answers:
        raise UserError(f"{', '.join(map(str, files))}: no answers in it, only what names the columns")
    if store.is_dir() and not stored.finished(store) and {file.name for file in store.iterdir()} - {FROZEN}:
        raise UserError(f"{store} holds other things and no runs; name a folder of its own")
    runs = [_run(key, of_run, source) for key, of_run in sorted(answers.items())]
    for record, table in runs:
        stored.save(store, record, table)
    return [record for record, _ in runs]


def _files(paths: Iterable[Path]) -> list[Path]:
    files = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*.jsonl") if is_samples(file))
            if not inside:
                raise UserError(f"{path}: no samples_*.jsonl in it; name the files")
            files += inside
        else:
            files.append(path)
    return files


def _run(
    key: tuple[str, str, str, int], answers: Sequence[Answer], source: str
) -> tuple[RunRecord, pl.DataFrame]:
    model, task, method, seed = key
    if len(metrics := sorted({answer.metric for answer in answers})) > 1:
        raise UserError(f"{method} on {task}: several metrics: {', '.join(metrics)[:200]}; add --metric")
    has_choices = all(answer.choices is not None for answer in answers)
    form = FORMS["choice" if has_choices else "generation"]
    columns: dict[str, list[object]] = {
        "language": [answer.language for answer in answers],
        "example": [answer.example for answer in answers],
        "prompt_hash": [_hash(answer.document) for answer in answers],
        "prompt": [None] * len(answers),
        "prediction": [answer.prediction for answer in answers],
        "gold": [answer.gold for answer in answers],
        "score": [answer.score for answer in answers],
    }
    schema = form.schema()
    if has_choices:
        columns["choice_logprobs"] = [list(answer.choices or ()) for answer in answers]
    else:
        schema.pop("answer_language")  # nobody identified it
    if any(answer.cluster is not None for answer in answers):
        columns["cluster"], schema["cluster"] = [answer.cluster for answer in answers], pl.String
    table = pl.DataFrame(columns, schema=schema).sort("language", "example")
    twice = table.filter(pl.struct("language", "example").is_duplicated())
    if twice.height:
        language, example = twice.select("language", "example").row(0)
        raise UserError(
            f"{method} on {task}, {language}: example {example[:60]!r} is there twice; give each once"
        )
    test = {
        str(code): _hash(part.select("example", "prompt_hash").rows())
        for (code,), part in table.group_by("language")
    }
    untuned = method in UNTUNED
    facts = {
        "record_version": 1,
        "study": "imported",
        "model": model,
        "method": {"name": method},
        "method_facts": {"trains": False, "random": not untuned, "untuned": untuned},
        "label": method,
        "task": {"name": task, "version": 0, "kind": form.name, "metrics": metrics},
        "source_language": source,
        "languages": sorted(test, key=lambda code: (code != source, code)),
        "seed": seed,
        "trained_parameters": None,
        "zero_shot": True,
        "fingerprints": {"test": dict(sorted(test.items()))},
        "dtype": "unknown",
        "cost": {},
    }
    run_id = _hash([facts, table.rows()])
    return RunRecord.model_validate(facts | {"id": run_id}), table


def _hash(content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
