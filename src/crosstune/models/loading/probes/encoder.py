"""Whether crosstune computes what an encoder computes: `crosstune.models.loading.probe` for two-way models.

The same two small copies, one left to transformers' eager attention. Held against each text by itself:

* padded rows, several texts in one line, and several in one row by a mask;
* keys and values planted on every attention module, against attention written out in `probes.independent`;
  hidden vectors become the keys and values that the module makes of them;
* embeddings in front of the text;
* words predicted of states, where there is a masked language model.

The first token has to see the last.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crosstune.errors import UserError
from crosstune.models.adaptation import Part, Prompt
from crosstune.models.attention.choose import BatchForm, lay_out
from crosstune.models.loading.config import one_line
from crosstune.models.loading.probes.independent import PROMPT, keys_of, near, written_out

if TYPE_CHECKING:
    from crosstune.models.geometry import Geometry
    from crosstune.models.language_model import LanguageModel

FORMS = {
    "texts": None,
    "padded rows": BatchForm.PADDED,
    "several texts in one line": BatchForm.PADDING_FREE,
    "several texts in one row": BatchForm.PACKED,
}
# No token is 0, the copies' padding: RoBERTa's own positions pass over it.
TEXTS = tuple(tuple(1 + (7 * i * i + 5 * i + n) % 63 for i in range(n)) for n in (19, 13, 6))


def examine_encoder(shape: Geometry, eager: Any, lm: LanguageModel) -> Geometry:
    """The shape, with what cannot be used on the model.

    Raises:
        UserError: crosstune would compute something else, or cannot compute it.
    """
    if fault := check_forms(eager, lm):
        raise UserError(
            f"{type(eager).__name__} computes in a way that crosstune does not know ({fault}); "
            "choose another encoder or report it"
        )
    shape = replace(shape, no_prompts=check_prompts(eager, lm))
    return replace(shape, no_soft_prompt=check_soft_prompt(eager, lm))


def check_forms(eager: Any, lm: LanguageModel) -> str:
    """Which form gives something else than each text alone, or fails; empty if none does."""
    name = type(eager).__name__
    wanted = [_eager(eager, text) for text in TEXTS]
    # Short: a window may end before the end of a longer one.
    if near(_eager(eager, (5, 9, 12))[0], _eager(eager, (5, 9, 13))[0]):
        raise UserError(f"{name}: the first token does not see the last; it is no encoder that is known")
    for what, form in FORMS.items():
        try:
            read = [_alone(lm, text) for text in TEXTS] if form is None else _laid(lm, form)
            if lm.geometry.encoder == "masked" and form is None:
                words = eager(input_ids=torch.tensor([TEXTS[0]])).logits[0]
                if not near(lm.logits(read[0]), words):
                    return "words predicted of states are others"
        except UserError:
            raise
        except Exception as error:
            return f"{what}: {type(error).__name__}: {one_line(error)}"
        if not all(near(*pair) for pair in zip(read, wanted, strict=True)):
            return f"{what} are not what each text is alone"
    return ""


def check_prompts(eager: Any, lm: LanguageModel) -> str:
    """Why methods that plant keys and values cannot be used; empty where they can."""
    names = {id(module): name for name, module in lm.model.named_modules()}
    modules = [eager.get_submodule(names[id(module)]) for module in lm.attentions]
    if len(modules) < lm.geometry.layers:
        return f"{type(eager).__name__} has layers without attention"
    draw = torch.Generator().manual_seed(1)
    states = [torch.randn(PROMPT, lm.geometry.hidden, generator=draw) for _ in modules]
    calls = [0] * len(modules)

    def source(i: int) -> tuple[Tensor, Tensor]:
        calls[i] += 1
        return lm.keys_values(i, states[i])

    part = Part("probe")
    try:
        pairs = keys_of(eager, modules, states, lambda ids: eager.base_model(input_ids=ids))
        with written_out(eager) as planted:
            planted.update(zip(modules, pairs, strict=True))
            wanted = _eager(eager, TEXTS[2])
        lm.learn_calls()
        with lm.adaptation.attaching(part):
            part.prompts = {i: Prompt(functools.partial(source, i)) for i in range(len(modules))}
        try:
            states_now = _alone(lm, TEXTS[2])
        finally:
            lm.adaptation.detach(part)
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return f"{type(eager).__name__} takes no learned keys and values ({kind}{one_line(error)})"
    if set(calls) != {1}:
        return f"{type(eager).__name__} computes attention in {min(calls)} to {max(calls)} passes a layer"
    return "" if near(states_now, wanted) else f"{type(eager).__name__} makes keys in a way that is not known"


def check_soft_prompt(eager: Any, lm: LanguageModel) -> str:
    """Why a soft prompt cannot be used; empty where it can."""
    draw = torch.Generator().manual_seed(2)
    prompt = torch.randn(PROMPT, lm.geometry.embedding or lm.geometry.hidden, generator=draw)
    part = Part("probe")
    try:
        text = eager.get_input_embeddings()(torch.tensor([TEXTS[2]]))
        wanted = eager.base_model(inputs_embeds=torch.cat([prompt[None], text], dim=1)).last_hidden_state[0]
        with lm.adaptation.attaching(part):
            part.soft_prompt = prompt
        try:
            read = _laid(lm, BatchForm.PADDED)[2]
        finally:
            lm.adaptation.detach(part)
    except Exception as error:
        return f"{type(eager).__name__} takes no embeddings but those of tokens ({type(error).__name__})"
    return (
        "" if near(read, wanted[PROMPT:]) else f"{type(eager).__name__} reads embeddings in a way not known"
    )


def _eager(model: Any, text: Sequence[int]) -> Tensor:
    states: Tensor = model.base_model(input_ids=torch.tensor([text])).last_hidden_state[0]
    return states


# --- forms ------------------------------------------------------------------------------------------


def _alone(lm: LanguageModel, text: Sequence[int]) -> Tensor:
    return lm.hidden(torch.tensor([text]))[0]


def _laid(lm: LanguageModel, form: BatchForm) -> list[Tensor]:
    placed = lay_out(form, TEXTS, 0, lm.device, balance=1e9, two_way=True)
    hidden = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
    return [hidden[start : start + len(text)] for start, text in zip(placed.starts, TEXTS, strict=True)]
