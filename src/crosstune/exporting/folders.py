"""A run's trained weights written for other programs, and the logits of what was written against ours."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor

from crosstune.errors import UserError, first_line
from crosstune.exporting.forms import PeftForm, peft_form
from crosstune.exporting.heads import AUTO, head_logits, headed_form, headed_model, kind_of, their_logits
from crosstune.exporting.library import write_library_form
from crosstune.exporting.merging import merged_model, plainly_named
from crosstune.files import user_path
from crosstune.languages.table import find
from crosstune.methods.adapters.bottleneck import Bottleneck
from crosstune.methods.adapters.compacter import Compacter
from crosstune.methods.adapters.merged import MOST_LOST
from crosstune.methods.base import Method
from crosstune.methods.config import INIT_TEXT
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.load import load
from crosstune.running.restored import method_of, restored
from crosstune.store import store
from crosstune.store.record import RunRecord

NEAR = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of logits, of the largest: rounding of the dtype, and in 16 bits of layers on top."""
_CAUSAL = "AutoModelForCausalLM"
TOKENS = 8
"""Compared: fewer than any sliding window has."""


@dataclass(frozen=True)
class Written:
    """What was written."""

    folder: Path  # where
    run: RunRecord  # of which run
    kind: str  # "PEFT adapter", "adapter of the adapters library" or "merged checkpoint"
    # Largest difference of its logits from ours, of the largest; None where they were not computed.
    gap: float | None
    remarks: tuple[str, ...]  # what else there is to know of it
    loads: str = _CAUSAL  # the class of transformers that loads it, or the model below it
    classes: int = 0  # of its head; 0 without one


def write_adapter(
    run_folder: Path, folder: Path, device: str = "auto", language: str | None = None
) -> Written:
    """Write a run as PEFT has it: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Of bottleneck adapters, Compacter and MAD-X, which PEFT lacks, the `adapters` library's form is written.
    ``language`` is that of a method which has other weights for each.

    Raises:
        UserError: PEFT has no form for the method, the folder is taken, or PEFT computes something else.
    """
    run = _exportable(run_folder)
    method = method_of(run)
    code = _language(run, method, language)
    with _fresh(folder) as new:
        with restored(run_folder, run, method, code, device=device) as lm:
            if isinstance(method, Bottleneck | Compacter):
                if lm.head is not None:
                    raise UserError(
                        f"{method.name}: the adapters library's folder has no place for a head here"
                    )
                write_library_form(method, lm, new)
                return Written(user_path(folder), run, "adapter of the adapters library", None, ())
            kind = None if lm.head is None else kind_of(run, lm)
            ids = _text(lm)
            wanted = _logits(lm, ids, kind)
            form, model, loads = peft_form(method, lm), lm.model, _CAUSAL
            if kind is not None:
                model = headed_model(run, kind, lm, plainly_named(lm))
                form, loads = headed_form(form, kind, lm, model), AUTO[kind].__name__
        gap = _gap(_by_peft(form, model, ids, new), wanted, lm.dtype)
    remarks = tuple(filter(None, [form.remark, _of_language(language)]))
    return Written(user_path(folder), run, "PEFT adapter", gap, remarks, loads, _classes(kind, wanted))


def write_merged(
    run_folder: Path, folder: Path, device: str = "auto", language: str | None = None
) -> Written:
    """Write the model with what a run trained in its weights: config, safetensors and tokenizer.

    Raises:
        UserError: The method cannot be merged, or the folder is taken.
    """
    run = _exportable(run_folder)
    method = method_of(run)
    code = _language(run, method, language)
    with _fresh(folder) as new:
        with restored(run_folder, run, method, code, device=device) as lm:
            kind = None if lm.head is None else kind_of(run, lm)
            ids = _text(lm)
            wanted = _logits(lm, ids, kind)
            with merged_model(method, lm) as (weights, lost):
                if kind is None:
                    lm.model.save_pretrained(new, state_dict=weights)
                else:
                    headed_model(run, kind, lm, weights).save_pretrained(new)
            lm.tokenizer.save_pretrained(new)
        if kind is None:
            again, loads = _logits(load(str(new), device=device, dtype=run.dtype), ids), _CAUSAL
        else:
            again, loads = _read_again(AUTO[kind], new, ids), AUTO[kind].__name__
        gap = _gap(again, wanted, lm.dtype, lost)
    remark = (
        f"rounding to {run.dtype} took up to {lost:.0%} of the changes of a weight"
        if lost > MOST_LOST
        else None
    )
    remarks = tuple(filter(None, [remark, _of_language(language)]))
    return Written(user_path(folder), run, "merged checkpoint", gap, remarks, loads, _classes(kind, wanted))


def _of_language(language: str | None) -> str | None:
    return None if language is None else f"weights for {find(language).name}"


def _classes(kind: str | None, scores: Tensor) -> int:
    return 0 if kind is None else scores.shape[-1]


def _exportable(run_folder: Path) -> RunRecord:
    run = store.read_run(user_path(run_folder))
    if run.train is None:
        raise UserError(f"{run_folder}: {run.method.name} trains nothing, so there is nothing to write")
    return run


def _language(run: RunRecord, method: Method, language: str | None) -> str:
    """Whose weights are written.

    Raises:
        UserError: A method with other weights for each language needs one; any other has none.
    """
    name = run.method.name
    code = find(language).code if language is not None else run.source_language
    if run.unlabelled is None:
        if language is not None:
            raise UserError(f"{name} has the same weights for all languages; take --language out")
    elif isinstance(method, Bottleneck):
        if language is not None:
            raise UserError(f"{name}: all languages are written, a folder each; take --language out")
    elif language is None or code not in run.unlabelled.uses:
        offered = ", ".join(run.unlabelled.uses)
        raise UserError(f"{name} has other weights for each language; add --language, one of {offered}")
    return code


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``folder`` when all went well.

    Raises:
        UserError: It exists and is not empty, or cannot be written.
    """
    target = user_path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{folder} exists; name a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error
    try:
        yield new
        new.chmod(0o755)
        new.replace(target)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or first_line(error)})") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _text(lm: LanguageModel) -> Tensor:
    return torch.tensor([lm.tokens.prompts([INIT_TEXT])[0][:TOKENS]], device=lm.device)


def _logits(lm: LanguageModel, ids: Tensor, kind: str | None = None) -> Tensor:
    if lm.geometry.encoder_layers:
        raise UserError(f"{lm.name}: encoder-decoders are not written; a study takes their runs by `run:`")
    if kind is not None:
        return head_logits(lm, kind, ids)
    with torch.no_grad():
        return lm.logits(lm.hidden(ids)[0]).float().cpu()


def _read_again(kind: Any, folder: Path, ids: Tensor) -> Tensor:
    """What transformers computes with a head of what was written."""
    model: Any = kind.from_pretrained(folder, attn_implementation="eager").to(ids.device).eval()
    with torch.no_grad():
        return their_logits(model(input_ids=ids, attention_mask=torch.ones_like(ids)))


def _by_peft(form: PeftForm, base: Any, ids: Tensor, folder: Path) -> Tensor:
    """Write the form with PEFT, and give the logits that PEFT computes of what it wrote."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = peft.get_peft_model(base, form.config)
        tensors = dict((*model.named_parameters(), *model.named_buffers()))
        with torch.no_grad():
            for name, value in form.values.items():
                tensors[name].data = value.to(tensors[name].device).view(tensors[name].shape)
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's own card, which says nothing
        model.eval()
        with torch.no_grad():
            out = their_logits(model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    return out[-ids.shape[1] :]


def _gap(found: Tensor, wanted: Tensor, dtype: torch.dtype, lost: float = 0.0) -> float:
    """The largest difference of logits, of the largest.

    Raises:
        UserError: More than rounding explains, where rounding took no large share of what was trained.
    """
    gap = float((found - wanted).abs().max() / wanted.abs().max())
    if lost <= MOST_LOST and not gap <= NEAR[dtype]:
        raise UserError(f"what was written gives logits that are off by {gap:.2g} of the largest; report it")
    return gap
