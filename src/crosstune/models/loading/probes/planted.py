"""What all probes compare with the eager model: ways of reading, planted keys and values, and embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crosstune.errors import UserError
from crosstune.models.adaptation import Part, Prompt
from crosstune.models.loading.config import one_line
from crosstune.models.loading.probes.independent import PROMPT, near

if TYPE_CHECKING:
    from crosstune.models.language_model import LanguageModel

Attentions = Sequence[nn.Module]


def first_fault(forms: Mapping[str, Callable[[], Sequence[Tensor]]], wanted: Sequence[Tensor]) -> str:
    """Which form of reading gives something else than each text alone, or fails; empty if none does.

    A form may give the last rows of a text only.

    Raises:
        UserError: A form refuses the model.
    """
    for what, form in forms.items():
        try:
            read = form()
        except UserError:
            raise
        except Exception as error:
            return f"{what}: {type(error).__name__}: {one_line(error)}"
        if not all(near(ours, alone[-len(ours) :]) for ours, alone in zip(read, wanted, strict=True)):
            return f"{what} are not what each text is alone"
    return ""


def refuse_unknown(eager: Any, fault: str, kind: str = "model") -> None:
    """Raise a `UserError` where there is a fault."""
    if fault:
        raise UserError(
            f"{type(eager).__name__} computes in a way that crosstune does not know ({fault}); "
            f"choose another {kind} or report it"
        )


def check_prompts(
    eager: Any,
    lm: LanguageModel,
    plain: Callable[[Attentions, Sequence[Tensor]], Tensor | None],
    read: Callable[[], Tensor],
    shift: int = 0,
) -> str:
    """Hold keys and values planted on every attention module against the same of the eager model.

    Args:
        eager: A model on transformers' eager attention.
        lm: The same weights through the hook.
        plain: What the eager model computes with ``[PROMPT, hidden]`` states planted on its attention
            modules; None if layers attend to the keys of others.
        read: What ``lm`` computes.
        shift: Position of the text's first token with the prompt in front.

    Returns:
        Why methods that plant keys and values cannot be used; empty where they can.
    """
    name, shape = type(eager).__name__, lm.geometry
    cross = shape.layers - shape.encoder_layers if shape.encoder_layers else 0
    if len(lm.attentions) < shape.layers + cross:
        return f"{name} has layers without attention"
    names = {id(module): name for name, module in lm.model.named_modules()}
    modules = [eager.get_submodule(names[id(module)]) for module in lm.attentions]
    generator = torch.Generator().manual_seed(1)
    states = [torch.randn(PROMPT, shape.hidden, generator=generator) for _ in modules]
    calls = [0] * len(modules)

    def source(i: int) -> tuple[Tensor, Tensor]:
        calls[i] += 1
        return lm.keys_values(i, states[i])

    try:
        if (wanted := plain(modules, states)) is None:
            return f"{name} has layers that attend to the keys of others"
        lm.learn_calls()
        prompts = {i: Prompt(functools.partial(source, i)) for i in range(len(modules))}
        ours = _adapted(lm, Part("probe", shift=shift), read, prompts=prompts)
    except Exception as error:
        if shape.apart:
            return f"{name} keeps more than keys and values of a text"
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return f"{name} takes no learned keys and values ({kind}{one_line(error)})"
    if set(calls) != {1}:
        return f"{name} computes attention in {min(calls)} to {max(calls)} passes a layer"
    return "" if near(ours, wanted) else f"{name} makes keys in a way that is not known"


def check_soft_prompt(
    eager: Any, lm: LanguageModel, plain: Callable[[Tensor], Tensor], read: Callable[[], Tensor]
) -> str:
    """Hold embeddings in front of the text against the same as input embeddings.

    ``plain`` gives what the eager model computes of the text behind ``[PROMPT, width]`` embeddings, ``read``
    what ``lm`` does.

    Returns:
        Why a soft prompt cannot be used; empty where it can.
    """
    generator = torch.Generator().manual_seed(2)
    prompt = torch.randn(PROMPT, lm.geometry.embedding or lm.geometry.hidden, generator=generator)
    try:
        wanted = plain(prompt)
        ours = _adapted(lm, Part("probe"), read, soft_prompt=prompt)
    except Exception as error:
        name = type(eager).__name__
        return f"{name} takes no embeddings but those of tokens ({type(error).__name__})"
    return "" if near(ours, wanted) else f"{type(eager).__name__} reads embeddings in a way not known"


def _adapted(lm: LanguageModel, part: Part, read: Callable[[], Tensor], **adaptation: Any) -> Tensor:
    """What the model reads with some fields of a part set."""
    with lm.adaptation.attaching(part):
        for field, value in adaptation.items():
            setattr(part, field, value)
    try:
        return read()
    finally:
        lm.adaptation.detach(part)
