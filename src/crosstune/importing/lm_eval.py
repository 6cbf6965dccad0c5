"""Samples that lm-evaluation-harness writes with ``--log_samples``: one JSON object a line, one file a task.

A line has doc_id, doc, target, resps, filtered_resps, and each metric under its own name; newer versions also
filter, metrics and hashes of document, prompt and target. Of a multiple-choice task a response is
(log-probability, whether greedy) for each choice, as numbers or as texts.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosstune.data.tables import Row, read_rows, usable
from crosstune.errors import UserError, did_you_mean
from crosstune.importing.answers import Answer, name_of, score_of, text_of
from crosstune.languages.table import canonical, lookup

NEEDED = ("doc_id", "filtered_resps")
_FILE = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT[\d.:\-]+)?\.jsonl")
_CODE = re.compile(r"[A-Za-z]{2,3}(?:[_-][A-Za-z]{4})?")


@dataclass(frozen=True)
class Samples:
    """What the lines of a file do not say."""

    model: str = "imported"  # the model all methods share
    method: str | None = None  # what is compared; by default the folders that tell the files apart
    # Name for the tasks of all languages together; what is left of each task's name by default.
    task: str | None = None
    language: str | None = None  # by default from the end of the task's name: xnli_de, belebele_fra_Latn
    metric: str | None = None  # by default the first of each file's
    filter: str | None = None  # by default the only one of each file
    seed: int = 0  # of the method's training


def is_samples(path: Path) -> bool:
    """Whether a file's name is one that the harness gives to samples."""
    return _FILE.fullmatch(path.name) is not None


def methods_of(files: Sequence[Path]) -> dict[Path, str]:
    """A method for each file: the part of its folder that is not the same for all.

    The harness makes a folder of the model's name in each folder that it is given to write to.
    """
    parents = {file: file.resolve().parent for file in files}
    common = os.path.commonpath(parents.values()) if parents else ""
    apart = {file: parent.relative_to(common).parts for file, parent in parents.items()}
    while len({parts[-1:] for parts in apart.values()}) == 1 and min(map(len, apart.values())) > 1:
        apart = {file: parts[:-1] for file, parts in apart.items()}
    return {file: "/".join(parts) or parents[file].name for file, parts in apart.items()}


def read_samples(path: Path, about: Samples, method: str) -> Iterator[Answer]:
    """Answers of a file of samples, of a method where ``about`` names none.

    Raises:
        UserError: A line that cannot be used; no language at the end of the task's name; several filters, or
            a metric that is no score of an example.
    """
    name = match["task"] if (match := _FILE.fullmatch(path.name)) else path.stem
    base, language = _language(path, name, about)
    run = (about.model, about.task or base, about.method or method, about.seed)
    rows = _filtered(path, list(usable(read_rows(path, NEEDED))), about.filter)
    metric = about.metric or _metric(rows[0])
    for row in rows:
        if metric not in row.fields:
            raise row.error(f'no metric "{metric}"{did_you_mean(metric, _metrics(row))}')
        response = row["filtered_resps"]
        choices = _choices(response)
        prediction = response[0] if isinstance(response, list) and len(response) == 1 else response
        if choices is not None:
            prediction = max(range(len(choices)), key=choices.__getitem__)
        yield Answer(
            run=run,
            language=language,
            example=name_of(row, "doc_id"),
            score=score_of(row, metric),
            prediction=text_of(prediction),
            gold=text_of(row.fields.get("target")),
            choices=choices,
            document=text_of(row.fields.get("doc_hash") or row.fields.get("doc")),
            metric=metric,
        )


def _language(path: Path, name: str, about: Samples) -> tuple[str, str]:
    """A task's name without its language, and the language."""
    if about.language is not None:
        return name, canonical(about.language)
    parts = name.split("_")
    for count in (2, 1):
        code = "_".join(parts[-count:])
        if len(parts) > count and _CODE.fullmatch(code) and (language := lookup(code)) is not None:
            return "_".join(parts[:-count]), language.code
    raise UserError(f"{path}: no language at the end of the task's name, {name}; add --language")


def _filtered(path: Path, rows: Sequence[Row], wanted: str | None) -> list[Row]:
    filters = sorted({str(row.fields.get("filter", "none")) for row in rows})
    if wanted is None and len(filters) > 1:
        raise UserError(f"{path}: answers of several filters: {', '.join(filters)[:200]}; add --filter")
    if wanted is not None and wanted not in filters:
        raise UserError(f'{path}: no filter "{wanted}"{did_you_mean(wanted, filters)}')
    return [row for row in rows if wanted is None or str(row.fields.get("filter", "none")) == wanted]


def _metrics(row: Row) -> list[str]:
    named = row.fields.get("metrics")
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        return named
    known = {"doc_id", "seed"}
    return [
        name for name, value in row.fields.items() if name not in known and isinstance(value, int | float)
    ]


def _metric(row: Row) -> str:
    metrics = _metrics(row)
    if not metrics:
        raise row.error("it has no metric; was it written with --log_samples?")
    return metrics[0]


def _choices(response: Any) -> tuple[float, ...] | None:
    """Log-probabilities of several choices; None for a written answer."""
    if not isinstance(response, list) or len(response) < 2:
        return None
    pairs = [part for part in response if isinstance(part, list) and len(part) == 2]
    if len(pairs) < len(response) or any(
        str(greedy).casefold() not in ("true", "false") for _, greedy in pairs
    ):
        return None
    try:
        values = tuple(float(value) for value, _ in pairs)
    except (TypeError, ValueError):
        return None
    return values if not any(map(math.isnan, values)) else None
