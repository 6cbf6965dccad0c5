"""Results in the files that lm-evaluation-harness writes: a results JSON a run, and samples a language."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from crosstune.report.sections import Section
from crosstune.report.text import slug
from crosstune.store.record import RunRecord


def files_of(section: Section) -> Iterator[tuple[Path, str]]:
    """Path and text of each file: ``METHOD-SEED/MODEL/`` with ``results_*.json`` and ``samples_*.jsonl``.

    Each language is a task, called ``TASK_CODE``. Whether greedy decoding would write a choice is not known
    and stands as false.
    """
    assert section.reader is not None
    for method in section.methods:
        for run in section.of(method):
            folder = Path(f"{slug(method)}-{run.seed}", slug(run.model))
            table = section.reader.whole([run])
            time = (run.finished or "1970-01-01T00:00:00")[:19].replace(":", "-")
            parts = {
                f"{run.task.name}_{code}": part
                for (code,), part in table.partition_by("language", as_dict=True).items()
            }
            for task, part in parts.items():
                lines = (json.dumps(sample, ensure_ascii=False) for sample in _samples(run, part))
                yield folder / f"samples_{task}_{time}.jsonl", "".join(f"{line}\n" for line in lines)
            yield (
                folder / f"results_{time}.json",
                json.dumps(
                    _results(run, parts, section.scores.filter(run=run.id)), indent=1, ensure_ascii=False
                ),
            )


def _samples(run: RunRecord, table: pl.DataFrame) -> Iterator[dict[str, Any]]:
    metric = run.task.metrics[0]
    for number, row in enumerate(table.iter_rows(named=True)):
        choices = row.get("choice_logprobs")
        responses = [[logprob, False] for logprob in choices] if choices else [row["prediction"]]
        prompt = row.get("prompt") or ""
        yield {
            "doc_id": number,
            "doc": {"id": row["example"], "language": row["language"]},
            "target": row["gold"],
            "arguments": {"gen_args_0": {"arg_0": prompt}},
            "resps": [responses],
            "filtered_resps": responses,
            "filter": "none",
            "metrics": [metric],
            "doc_hash": _hash(row["example"]),
            "prompt_hash": _hash(prompt),
            "target_hash": _hash(str(row["gold"])),
            metric: row["score"],
        }


def _results(run: RunRecord, parts: dict[str, pl.DataFrame], scores: pl.DataFrame) -> dict[str, Any]:
    metric = run.task.metrics[0]
    return {
        "results": {
            task: {"alias": task, f"{metric},none": score, f"{metric}_stderr,none": se}
            for code, score, se in scores.select("language", "score", "se").iter_rows()
            for task in (f"{run.task.name}_{code}",)
        },
        "versions": dict.fromkeys(parts, run.task.version),
        "n-shot": dict.fromkeys(parts, run.method.entries().get("k", 0)),
        "higher_is_better": {task: {metric: True} for task in parts},
        "n-samples": {
            task: {"original": part.height, "effective": part.height} for task, part in parts.items()
        },
        "config": {"model": "crosstune", "model_args": f"run={run.id}", "limit": run.evaluate.get("limit")},
        "model_name": run.model,
        "method": run.label,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
