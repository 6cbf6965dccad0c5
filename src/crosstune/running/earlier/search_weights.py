"""A search run's training, taken for the result it decided instead of training a second time."""

import json
from pathlib import Path

from crosstune.errors import UserError
from crosstune.methods.base import Method
from crosstune.models.language_model import LanguageModel
from crosstune.models.tensor_file import read_tensors
from crosstune.running.progress import Display
from crosstune.running.recording import train_facts
from crosstune.running.task_data import TaskData
from crosstune.store import provenance, store
from crosstune.store.record import Json, RunRecord
from crosstune.study.runs import LAST_STEP, Run
from crosstune.training.state import Trained


def take_up(
    folder: Path, run: Run, method: Method, lm: LanguageModel, data: TaskData, shown: Display
) -> tuple[Trained, str] | None:
    """Load a search run's weights into an attached method, if training again would give the same.

    Returns:
        The training's facts and the search run's id; None if the run has to be trained, with the reason
        logged where it is unexpected.
    """
    if wrong := store.damage(folder, (store.RUN, store.WEIGHTS)):
        shown.note(f"trained again: {wrong}")
        return None
    record = RunRecord.read(folder / store.RUN)
    if not _same_training(record, run, lm, data):
        return None
    try:
        weights = read_tensors(folder / store.WEIGHTS, lm.device)
    except UserError as error:
        shown.note(f"trained again: {error}")
        return None
    method.load_state(weights)
    cost, settings = record.cost, record.train
    assert settings is not None
    values: Json = dict(  # noqa: C408 - fields of `Trained`
        steps=cost.steps,
        chosen_step=record.chosen_step,
        learning_rate=settings["learning_rate"],
        tokens=cost.train_tokens,
        padded_tokens=cost.train_padded_tokens,
        seconds=cost.train_seconds,
        curve=record.curve,
        dev=record.dev,
        reuse=cost.reuse,
    )
    return Trained(**values), record.id


def _same_training(record: RunRecord, run: Run, lm: LanguageModel, data: TaskData) -> bool:
    """Whether a search run was trained as this run would be, to the same bits."""
    wanted, recorded = train_facts(run, data, record.cost.train_too_long), dict(record.train or {})
    assert wanted is not None
    if recorded["evaluate_every"] == LAST_STEP and wanted["evaluate_every"] is None:
        # Scored once, after its last step: that step's weights are the ones kept, as without scoring.
        wanted["evaluate_every"] = LAST_STEP
    return (record.seed, recorded, record.revision, record.fingerprints.train, record.versions) == (
        run.seed,
        json.loads(json.dumps(wanted)),
        lm.revision,
        data.of(run.train)["train"],
        provenance.versions(),
    ) and record.method.entries() == {"name": run.method, **run.config.model_dump(mode="json")}
