"""What a run's run.json says: everything that decided the result, and what it cost."""

from dataclasses import asdict
from typing import Any

from crosstune.models.language_model import LanguageModel
from crosstune.running.sampling import draw
from crosstune.running.task_data import TaskData
from crosstune.store import provenance
from crosstune.study.runs import Run
from crosstune.training.state import Trained


def fingerprints(run: Run, data: TaskData) -> dict[str, Any]:
    """Of the examples a run sees; a search run sees no test examples."""
    return data.of(run.train) | ({"test": {}} if run.kind == "search" else {})


def write_record(
    run: Run, lm: LanguageModel, data: TaskData, trained: Trained | None, count: int
) -> dict[str, Any]:
    """run.json, without times."""
    task = data.task
    facts = asdict(trained) if trained is not None else {}
    return {
        "id": run.id,
        "kind": run.kind,
        "study": run.study,
        "model": run.model,
        "revision": lm.revision,
        "model_parameters": lm.geometry.parameters,
        "model_layers": lm.geometry.layers,
        "method": {"name": run.method, **run.config.model_dump(mode="json")},
        "label": run.label,
        "task": {
            "name": task.name,
            "version": task.version,
            "kind": task.kind,
            "metrics": list(task.metrics),
            "options": run.task.options.model_dump(mode="json"),
            "file": run.task.record(),
            "splits": dict(task.split_names),
            "source_language": task.source_language,
        },
        "source_language": task.source_language,
        "languages": list(run.languages),
        "seed": run.seed,
        "train": train_facts(run, data),
        "search": _search(run),
        "evaluate": run.evaluate.model_dump(mode="json"),
        "trained_parameters": count,
        "zero_shot": data.zero_shot(run.train),
        "fingerprints": fingerprints(run, data),
        "overlap": None if run.kind == "search" else data.overlap(run.train),
        "data": data.facts(run.train) | {"train_examples": _train_examples(run, data)},
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "git": provenance.git_state(),
        "device": run.device,
        "dtype": run.dtype,
        "quantize": run.quantize,
        "device_map": run.device_map,
        "cost": {
            "train_seconds": facts.get("seconds"),
            "train_tokens": facts.get("tokens"),
            "train_padded_tokens": facts.get("padded_tokens"),
            "steps": facts.get("steps"),
            "reuse": facts.get("reuse"),
            "peak_memory_bytes": provenance.peak_memory(run.device),
        },
        "curve": facts.get("curve", []),
        "dev": facts.get("dev", []),
        "chosen_step": facts.get("chosen_step"),
    }


def train_facts(run: Run, data: TaskData) -> dict[str, Any] | None:
    """The training settings, with the steps they come to on this data."""
    if run.train is None:
        return None
    return run.train.facts() | {"steps": run.train.total_steps(_train_examples(run, data))}


def _train_examples(run: Run, data: TaskData) -> int:
    return 0 if run.train is None else len(draw(data.train_for(run.train), run.train, run.seed))


def _search(run: Run) -> dict[str, Any] | None:
    """What was searched and chosen; None for a run whose learning rate was given."""
    if run.search is None or run.chosen is None or run.train is None:
        return None
    return {
        "runs": list(run.search.runs),
        "scores": [{"learning_rate": rate, "dev_score": score} for rate, score in sorted(run.chosen.items())],
        "chosen": run.train.learning_rate,
    }
