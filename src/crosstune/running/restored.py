"""A finished run put back: its model loaded, and on it its method with the weights that it trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from crosstune.errors import UserError, did_you_mean
from crosstune.files import user_path
from crosstune.methods import METHODS
from crosstune.methods.base import Method
from crosstune.methods.head import WithHead, shape_in
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.device import choose_device
from crosstune.models.loading.hub import is_hub_id
from crosstune.models.loading.load import load
from crosstune.models.tensor_file import read_tensors
from crosstune.running.earlier.stages import FinishedStages
from crosstune.running.prepared import attached
from crosstune.store import store
from crosstune.store.record import RunRecord


def method_of(run: RunRecord) -> Method:
    """The run's method, not attached to anything yet.

    Raises:
        UserError: This crosstune lacks it, or does not take its settings.
    """
    name, config = run.method.name, run.method.settings
    if name not in METHODS:
        raise UserError(
            f'run {run.id} has a method "{name}" that this crosstune lacks{did_you_mean(name, METHODS)}'
        )
    try:
        return METHODS[name](METHODS[name].Config.model_validate(config))
    except ValidationError as error:
        at = ".".join(str(step) for step in error.errors()[0]["loc"])
        raise UserError(
            f'run {run.id}: this crosstune does not take the setting "{at}" of {name}; run the study again'
        ) from error


@contextmanager
def restored(
    folder: Path, run: RunRecord, method: Method, language: str, *, device: str = "auto"
) -> Iterator[LanguageModel]:
    """The run's model, and ``method`` on it with the run's weights, active for a language.

    Raises:
        UserError: Damaged weights, or a model that has changed since.
    """
    if method.trains and (wrong := store.damage(folder, (store.WEIGHTS,))):
        raise UserError(wrong)
    spread = run.device_map if choose_device(device).type == "cuda" and ":" not in device else None
    on_hub = is_hub_id(run.model) and not user_path(run.model).is_dir()
    lm = load(
        run.model,
        device=device,
        dtype=run.dtype,
        revision=run.revision if on_hub else None,
        quantize=run.quantize,
        device_map=spread,
    )
    if lm.revision != run.revision:
        raise UserError(
            f"{run.model} has changed: the run was made with {run.revision}, this is {lm.revision}; "
            "run the study again"
        )
    if run.unlabelled is not None:
        ids = {text: stage.run for text, stage in run.unlabelled.stages.items()}
        FinishedStages(folder.parent, run.unlabelled.uses, ids).give(method)
    weights = read_tensors(folder / store.WEIGHTS, lm.device) if method.trains else {}
    shape = shape_in(weights)
    two_way = tuple(run.evaluate.get("two_way") or ())
    whole = method if shape is None else WithHead(method, replace(shape, two_way=two_way))
    with attached(whole, lm, run.seed, language):
        if whole.trains:
            whole.load_state(weights)
        yield lm
