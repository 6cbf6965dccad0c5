"""What calibration measured on this machine, kept in the cache folder: ``calibration.json``."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crosstune.config.environment import cache_root
from crosstune.files import write_text
from crosstune.store import provenance
from crosstune.study.runs import Run

_FILE = "calibration.json"
_PER_STEP = (
    "batch_size",
    "tokens_per_pass",
    "by_length",
    "loss",
    "limit",
    "per_label",
    "languages",
    "gradient_checkpointing",
    "optimizer",
)


@dataclass
class Measured:
    """Figures of one model on this machine."""

    revision: str  # of the model that was measured
    load_seconds: float = 0.0  # to load it
    # By `step_key`: ``seconds`` of one training step, ``examples`` trained on, ``dev`` examples that one
    # score on development data takes, ``peak_bytes``.
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    # By `answer_key`: ``seconds`` of one test example, ``peak_bytes``.
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    tests: dict[str, int] = field(default_factory=dict)  # by `test_key`: test examples in all languages


def step_key(run: Run) -> str:
    """Equal for runs whose training steps cost the same."""
    assert run.train is not None
    train = run.train.model_dump(mode="json")
    if run.kind == "stage":
        train["languages"] = None  # a step costs the same in all
    return _key(run, {key: train[key] for key in _PER_STEP})


def answer_key(run: Run) -> str:
    """Equal for runs whose test examples cost the same."""
    return _key(run, run.evaluate.model_dump(mode="json", exclude={"limit", "per_cluster"}))


def test_key(run: Run) -> str:
    """Equal for runs with the same test examples."""
    tested = (run.evaluate.limit, run.evaluate.per_cluster)
    return _text([_task(run), sorted(run.languages), tested[0] if tested[1] is None else tested])


def read(run: Run, revision: str | None = None) -> Measured | None:
    """What was measured last of a run's model on this machine, loaded as the run has it.

    None if nothing was, or of another revision only.
    """
    of_model = _text(_loading(run))[:-1]
    of_this_model = {place: figures for place, figures in _all().items() if place.startswith(f"{of_model},")}
    # Only PyTorch knows the whole place, and takes seconds to import.
    figures_here = of_this_model.get(_place(run)) if of_this_model else None
    try:
        measured = Measured(**figures_here) if isinstance(figures_here, dict) else None
    except TypeError:  # of another version of crosstune
        return None
    if measured is not None and revision is not None and measured.revision != revision:
        return None
    return measured


def keep(run: Run, measured: Measured) -> Path:
    """Put figures of a run's model beside those of other models; return the file.

    Raises:
        UserError: The cache folder cannot be written.
    """
    file = cache_root() / _FILE
    content = _all() | {_place(run): asdict(measured)}
    write_text(file.parent, file.name, json.dumps(content, indent=1, ensure_ascii=False))
    return file


def _all() -> dict[str, Any]:
    try:
        content = json.loads((cache_root() / _FILE).read_bytes())
    except (OSError, ValueError):
        return {}  # none yet, or damaged: it is measured again
    return content if isinstance(content, dict) else {}


def _loading(run: Run) -> list[Any]:
    """What decides how fast a loaded model is, beside the machine."""
    return [run.model, run.device, run.dtype, run.quantize, run.device_map]


def _place(run: Run) -> str:
    import torch

    place = provenance.hardware()
    chip = place["gpu"] if run.device == "cuda" else place["cpu"]
    return _text([*_loading(run), chip, torch.get_num_threads()])


def _key(run: Run, settings: Mapping[str, Any]) -> str:
    return _text([_task(run), run.method, run.config.model_dump(mode="json"), dict(settings)])


def _task(run: Run) -> list[Any]:
    file = None if run.task.file is None else run.task.file.sha256
    return [run.task.name, run.task.task_class.version, run.task.options.model_dump(mode="json"), file]


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False)
