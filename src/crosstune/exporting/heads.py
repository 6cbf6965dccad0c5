"""Runs that answer with a head, as transformers has models with one: for classes, for tags, for spans.

RoBERTa's and BERT's heads for classes are the ones that are trained here (`crosstune.methods.head`); one for
tags or spans is a linear layer in all families. Whether a family's code computes the same is compared on
writing, not assumed.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from crosstune.errors import UserError
from crosstune.exporting.forms import PeftForm
from crosstune.models.language_model import LanguageModel
from crosstune.running.predict import choices_of, task_of
from crosstune.store.record import RunRecord

AUTO: dict[str, Any] = {
    "choice": AutoModelForSequenceClassification,
    "tags": AutoModelForTokenClassification,
    "spans": AutoModelForQuestionAnswering,
}
"""By the form of answers on the model."""
_TASK_TYPES = {"choice": "SEQ_CLS", "tags": "TOKEN_CLS", "spans": "QUESTION_ANS"}
_OUT = ("classifier.out_proj", "classifier", "score", "qa_outputs")
_DENSE = ("classifier.dense", "pooler.dense")


def kind_of(run: RunRecord, lm: LanguageModel) -> str:
    """The form of a run's answers, where transformers may have its head.

    Raises:
        UserError: It has none.
    """
    head = lm.head
    assert head is not None, "restored with the run"
    if run.evaluate.get("two_way"):
        raise UserError("two_way: transformers has no causal model in which tokens see those behind them")
    if run.task.kind != "choice":
        return run.task.kind if run.task.kind in AUTO else "spans"
    if len(head.get_parameter("out.bias")) == 1:
        raise UserError("its head scores a prompt with one choice; transformers has no such head")
    if not lm.geometry.encoder or run.evaluate.get("pooling") not in (None, "first"):
        raise UserError(
            "transformers has a head of two layers for encoders alone, on the first token's state"
        )
    return "choice"


def head_logits(lm: LanguageModel, kind: str, ids: Tensor) -> Tensor:
    """What the run's head makes of a text, ``[tokens, classes]``; of classes one row."""
    head = lm.head
    assert head is not None, "restored with the run"
    with torch.no_grad():
        states = lm.hidden(ids)[0].float()
        scores: Tensor = head(states[:1] if kind == "choice" else states)
    return scores.cpu()


def their_logits(out: Any) -> Tensor:
    """The same of what a model of transformers gives."""
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1).float().cpu()
    scores: Tensor = out.logits
    return (scores if scores.dim() == 2 else scores[0]).float().cpu()


def headed_model(run: RunRecord, kind: str, lm: LanguageModel, weights: Mapping[str, Tensor]) -> Any:
    """A model of transformers with the run's head and some weights by the names of the plain model.

    Raises:
        UserError: transformers has no such model for the family, or another head.
    """
    head = lm.head
    assert head is not None, "restored with the run"
    config = deepcopy(lm.model.config)
    if kind != "spans":
        labels = _labels(run) or [f"LABEL_{i}" for i in range(len(head.get_parameter("out.bias")))]
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    family = config.model_type
    try:
        config._attn_implementation = "eager"
        model: Any = AUTO[kind].from_config(config, dtype=lm.dtype)
    except ValueError as error:
        raise UserError(f"transformers has no {AUTO[kind].__name__} of {family}") from error
    start = "" if lm.model.base_model is lm.model else f"{lm.model.base_model_prefix}."
    base = {name.removeprefix(start): x for name, x in weights.items() if name.startswith(start)}
    loaded = model.base_model.load_state_dict(base, strict=False)
    if other := [n for n in (*loaded.missing_keys, *loaded.unexpected_keys) if not n.startswith("pooler.")]:
        raise UserError(f"{AUTO[kind].__name__} of {family} has other weights: {other[0]}")
    names = {"out": _OUT, **({"dense": _DENSE} if kind == "choice" else {})}
    for ours, theirs in names.items():
        _put(model, theirs, head.get_submodule(ours), family)
    return model.to(lm.device).eval()


def headed_form(form: PeftForm, kind: str, lm: LanguageModel, model: Any) -> PeftForm:
    """A method's form on such a model, whose head is saved beside it.

    Raises:
        UserError: PEFT has none.
    """
    config = form.config
    if config.is_prompt_learning or config.peft_type == "ADAPTION_PROMPT":
        raise UserError("a prompt's states and a head have no common form; a study takes its run by `run:`")
    config.task_type = _TASK_TYPES[kind]
    heads = {name.partition(".")[0] for name in _OUT if _module(model, name) is not None}
    config.modules_to_save = sorted(heads | ({"pooler"} if _module(model, "pooler.dense") else set()))
    front = f"{model.base_model_prefix}." if lm.model.base_model is lm.model else ""
    start = "base_model.model."
    values = {f"{start}{front}{name.removeprefix(start)}": x for name, x in form.values.items()}
    inside = {name for name, _ in model.base_model.named_modules(prefix=model.base_model_prefix)}
    for key in ("target_modules", "feedforward_modules"):
        chosen: Sequence[str] | None = getattr(config, key, None)
        if chosen:  # by whole names: a head has layers called alike
            ends = tuple(f".{front}{name}" if "." in name else f".{name}" for name in chosen)
            setattr(config, key, sorted(n for n in inside if f".{n}".endswith(ends)))
    return PeftForm(config, values, form.remark)


def _module(model: Any, name: str) -> nn.Module | None:
    """A module of the model, or of its body."""
    for root in (model, model.base_model):
        try:
            module: nn.Module = root.get_submodule(name)
        except AttributeError:
            continue
        return module
    return None


def _put(model: Any, names: Sequence[str], ours: nn.Module, family: str) -> None:
    """Our layer's weights into the first module there is by one of these names."""
    module = next((m for name in names if isinstance(m := _module(model, name), nn.Linear)), None)
    if module is None or module.weight.shape != ours.weight.shape or module.bias is None:
        raise UserError(f"the head of {type(model).__name__} is another than the run's; {family} has no form")
    with torch.no_grad():
        module.weight.copy_(ours.weight)  # type: ignore[arg-type]
        module.bias.copy_(ours.bias)  # type: ignore[arg-type]


def _labels(run: RunRecord) -> Sequence[str]:
    """Names of the classes; none where the task or its data are not here."""
    try:
        task = task_of(run, None)
        return task.tags or choices_of(task)
    except UserError:
        return ()
