"""Records for tests that need no real run: the facts a test is about, and the rest made up."""

from typing import Any

from crosstune.store.record import RunRecord

DEFAULTS: dict[str, Any] = {
    "kind": "result", "study": "s", "model": "m", "method": {"name": "lora"}, "label": "lora",
    "source_language": "en", "languages": ["en"], "seed": 0, "trained_parameters": 1, "zero_shot": True,
    "dtype": "float32", "fingerprints": {}, "cost": {},
}  # fmt: skip
TASK = {"name": "toy", "version": 1, "kind": "choice", "metrics": ["accuracy"]}


def as_record(facts: dict[str, Any]) -> RunRecord:
    """A record of these facts, as a run.json without a version is read."""
    return RunRecord.model_validate(DEFAULTS | facts | {"task": TASK | facts.get("task", {})})


def as_records(runs: list[dict[str, Any]]) -> list[RunRecord]:
    return [as_record(run) for run in runs]
