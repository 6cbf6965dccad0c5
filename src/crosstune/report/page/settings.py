"""The settings of every run, said once where runs share them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from crosstune.report.sections import Section
from crosstune.store.record import RunRecord

Entries = dict[tuple[str, str], str]
Blocks = dict[str, list[tuple[str, str]]]


def settings_view(sections: Sequence[Section]) -> dict[str, Any]:
    """What the page's last section shows.

    Returns:
        shared (what is the same in every run: heading to name-value pairs), sections (task, model, note and
        what the runs of each share besides) and runs (a row each, with ``blocks``: what is its own).
    """
    entries = {run.id: _entries(run) for part in sections for run in part.runs}
    shared = _common(list(entries.values()))
    groups, rows = [], []
    for part in sections:
        common = _common([entries[run.id] for run in part.runs])
        if len(sections) > 1:
            blocks = _blocks(_without(common, shared))
            groups.append({"task": part.task, "model": part.model, "note": part.note, "blocks": blocks})
        for run in part.runs:
            run_blocks = _blocks(_without(entries[run.id], common))
            rows.append({"record": run, "train": run.train or {}, "blocks": run_blocks})
    return {"shared": _blocks(shared), "sections": groups, "runs": rows}


def _entries(run: RunRecord) -> Entries:
    """Everything that decides or explains a run's numbers, by heading and name."""
    data = {key: value for key, value in run.fingerprints.entries().items() if key != "test"}
    data |= {f"test {code}": value for code, value in sorted(run.fingerprints.test.items())}
    blocks: dict[str, Any] = {
        "Run": {
            key: value
            for key in ("study", "revision", "seed", "chosen_step", "started", "finished")
            if (value := getattr(run, key)) is not None
        },
        "Method": run.method.entries(),
        "Training": run.train or {"": "not trained"},
        "Task options": run.task.options,
        "Evaluation": run.evaluate,
        "Splits": run.task.splits,
        "Data fingerprints": data,
        "Test examples also in training data, by": _flat(run.overlap.entries() if run.overlap else {}),
        "Data": _flat(run.data.entries()),
        "Versions": run.versions,
        "Hardware": run.hardware,
        "Cost": run.cost.entries(),
    }
    return {
        (heading, name): text for heading, block in blocks.items() if block for name, text in _pairs(block)
    }


def _common(entries: Sequence[Entries]) -> Entries:
    first, *rest = entries
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in rest)}


def _without(entries: Entries, taken: Entries) -> Entries:
    return {key: value for key, value in entries.items() if key not in taken}


def _blocks(entries: Entries) -> Blocks:
    blocks: Blocks = {}
    for (heading, name), text in entries.items():
        blocks.setdefault(heading, []).append((name, text))
    return blocks


def _flat(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of nested mappings, and of lists, each on a line of its own."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = str(key).replace("_", " ")
        if isinstance(value, dict):
            flat |= {f"{name}: {inner}": entry for inner, entry in _flat(value).items()}
        elif isinstance(value, list):
            flat |= {f"{name} {number}": entry for number, entry in enumerate(value, start=1)}
        else:
            flat[name] = value
    return flat


def _pairs(block: Any) -> list[tuple[str, str]]:
    def written(value: Any) -> str:
        nested = isinstance(value, dict | list)
        return json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)

    return [(str(key), written(value)) for key, value in block.items()]
