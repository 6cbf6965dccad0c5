"""What a run's run.json says: everything that decided the result, and what it cost."""

import json
from dataclasses import asdict
from typing import Any

from crosstune.data.forms import form_of
from crosstune.languages.table import ADDED
from crosstune.methods.base import Method
from crosstune.methods.head import WithHead, without_head
from crosstune.metrics.language_id import IDENTIFIER
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.models.language_model import LanguageModel
from crosstune.models.proof import TOLD
from crosstune.outputs.seq2seq.language_tokens import LanguageTokens
from crosstune.running.sampling import draw
from crosstune.running.task_data import TaskData
from crosstune.store import provenance
from crosstune.store.record import RECORD_VERSION, Cost, Fingerprints, RunRecord
from crosstune.study.runs import Run
from crosstune.training.state import Trained


def fingerprints(run: Run, data: TaskData) -> Fingerprints:
    """Of the examples a run sees; a search run sees no test examples."""
    return Fingerprints(**data.of(run.train) | ({} if run.kind == "result" else {"test": {}}))


def write_record(
    run: Run,
    method: Method,
    lm: LanguageModel,
    data: TaskData,
    sums: int,
    trained: Trained | None,
    count: int,
    cost: Cost,
    started: str,
) -> RunRecord:
    """The record of a run that has just finished.

    ``sums`` is the number of columns that a corpus metric sums. Training costs and memory are filled into
    ``cost`` here.
    """
    task, file = data.task, run.task.file
    facts = asdict(trained) if trained is not None else {}
    training = {
        "train_seconds": facts.get("seconds"),
        "train_tokens": facts.get("tokens"),
        "train_padded_tokens": facts.get("padded_tokens"),
        "steps": facts.get("steps"),
        "reuse": facts.get("reuse"),
        "peak_memory_bytes": provenance.peak_memory(run.device),
    }
    content = {
        "id": run.id,
        "record_version": RECORD_VERSION,
        "kind": run.kind,
        "study": run.study,
        "model": run.model,
        "revision": lm.revision,
        "model_parameters": lm.geometry.parameters,
        "model_layers": lm.geometry.layers,
        "method": {"name": run.method, **run.config.model_dump(mode="json")},
        "method_facts": {
            "trains": method.trains,
            "random": method.trains or method.shots > 0,
            "untuned": without_head(method).untuned,
        },
        "label": run.label,
        "task": {
            "name": task.name,
            "version": task.version,
            "kind": task.kind,
            "metrics": list(task.metrics),
            "sums": sums,
            "options": run.task.options.model_dump(mode="json"),
            "file": None if file is None else {"path": str(file.path), "sha256": file.sha256},
            "splits": dict(task.split_names),
            "licences": dict(task.licences),
            "source_language": task.source_language,
        },
        "source_language": task.source_language,
        "languages": [code for code in run.languages if code in data.test],
        "added_languages": {code: ADDED[code] for code in run.languages if code in ADDED},
        "seed": run.seed,
        "train": train_facts(run, data, cost.train_too_long),
        "search": _search(run),
        "evaluate": run.evaluate.model_dump(mode="json"),
        "target_language_tokens": _language_tokens(run, lm),
        "closed_by": lm.tokens.closed_by or None,
        "identifier": IDENTIFIER if "answer_language" in form_of(task.kind).columns else None,
        "merge": None if method.merge is None else asdict(method.merge),
        "trained_parameters": count,
        "head_parameters": method.shape.count(lm.geometry.hidden) if isinstance(method, WithHead) else None,
        "zero_shot": data.zero_shot(run.train) and not without_head(method).beyond(task.source_language),
        "fingerprints": fingerprints(run, data).entries(),
        "overlap": data.overlap(run.train) if run.kind == "result" else None,
        "data": data.facts(run.train) | {"train_examples": _train_examples(run, data)},
        "versions": provenance.versions(),
        "hardware": provenance.hardware() | ({"plain_ways": [*TOLD]} if TOLD else {}),
        "git": provenance.git_state(),
        "device": run.device,
        "dtype": run.dtype,
        "quantize": run.quantize,
        "device_map": run.device_map,
        "cost": cost.entries() | training,
        "curve": facts.get("curve", []),
        "dev": facts.get("dev", []),
        "chosen_step": facts.get("chosen_step"),
        "started": started,
        "finished": provenance.now(),
    }
    # Through JSON, so that a record in memory is the one that will be read.
    return RunRecord.model_validate_json(json.dumps(content, allow_nan=False))


def _language_tokens(run: Run, lm: LanguageModel) -> dict[str, str] | None:
    """The tokens of languages that answers start with, by language; None for a model without any."""
    if not isinstance(lm, EncoderDecoder) or run.kind != "result":
        return None
    return LanguageTokens(lm, run.evaluate).forced(run.languages) or None


def with_text(record: RunRecord, unlabelled: dict[str, Any]) -> RunRecord:
    """The record of a run that stands on stages: with text of target languages it is not zero-shot.

    Its label says so too, wherever it stands beside others.
    """
    content = record.entries() | {"unlabelled": unlabelled}
    if set(unlabelled["stages"]) - {record.source_language}:
        content |= {"zero_shot": False, "label": f"{record.label}, unlabelled target text used"}
    return RunRecord.model_validate_json(json.dumps(content, allow_nan=False))


def train_facts(run: Run, data: TaskData, too_long: int) -> dict[str, Any] | None:
    """The training settings, with the steps they come to on this data, ``too_long`` of it for the model."""
    if run.train is None:
        return None
    left_out = too_long if run.evaluate.on_too_long == "skip" else 0
    return run.train.facts() | {"steps": run.train.total_steps(_train_examples(run, data) - left_out)}


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
        "seed": run.search.seed,
    }
