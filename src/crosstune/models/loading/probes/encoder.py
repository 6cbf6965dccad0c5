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
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crosstune.errors import UserError
from crosstune.models.attention.choose import BatchForm, lay_out
from crosstune.models.loading.probes import planted
from crosstune.models.loading.probes.independent import PROMPT, keys_of, near, written_out
from crosstune.models.loading.probes.planted import first_fault, refuse_unknown

if TYPE_CHECKING:
    from crosstune.models.geometry import Geometry
    from crosstune.models.language_model import LanguageModel

# No token is 0, the copies' padding: RoBERTa's own positions pass over it.
TEXTS = tuple(tuple(1 + (7 * i * i + 5 * i + n) % 63 for i in range(n)) for n in (19, 13, 6))


def examine_encoder(shape: Geometry, eager: Any, lm: LanguageModel) -> Geometry:
    """The shape, with what cannot be used on the model.

    Raises:
        UserError: crosstune would compute something else, or cannot compute it.
    """
    refuse_unknown(eager, check_forms(eager, lm), "encoder")
    return replace(shape, no_prompts=check_prompts(eager, lm), no_soft_prompt=check_soft_prompt(eager, lm))


def check_forms(eager: Any, lm: LanguageModel) -> str:
    """Which form gives something else than each text alone, or fails; empty if none does."""
    name = type(eager).__name__
    wanted = [_eager(eager, text) for text in TEXTS]
    # Short: a window may end before the end of a longer one.
    if near(_eager(eager, (5, 9, 12))[0], _eager(eager, (5, 9, 13))[0]):
        raise UserError(f"{name}: the first token does not see the last; it is no encoder that is known")
    fault = first_fault({what: functools.partial(form, lm) for what, form in FORMS.items()}, wanted)
    if fault or lm.geometry.encoder != "masked":
        return fault
    words = eager(input_ids=torch.tensor([TEXTS[0]])).logits[0]
    return "" if near(lm.logits(_read(lm, TEXTS[0])), words) else "words predicted of states are others"


def check_prompts(eager: Any, lm: LanguageModel) -> str:
    """Why methods that plant keys and values cannot be used; empty where they can."""

    def plain(modules: Sequence[nn.Module], states: Sequence[Tensor]) -> Tensor:
        pairs = keys_of(eager, modules, states, lambda ids: eager.base_model(input_ids=ids))
        with written_out(eager) as attended:
            attended.update(zip(modules, pairs, strict=True))
            return _eager(eager, TEXTS[2])

    return planted.check_prompts(eager, lm, plain, lambda: _read(lm, TEXTS[2]))


def check_soft_prompt(eager: Any, lm: LanguageModel) -> str:
    """Why a soft prompt cannot be used; empty where it can."""

    def plain(prompt: Tensor) -> Tensor:
        text = eager.get_input_embeddings()(torch.tensor([TEXTS[2]]))
        states = eager.base_model(inputs_embeds=torch.cat([prompt[None], text], dim=1)).last_hidden_state[0]
        after: Tensor = states[PROMPT:]
        return after

    return planted.check_soft_prompt(eager, lm, plain, lambda: _laid(BatchForm.PADDED, lm)[2])


def _eager(model: Any, text: Sequence[int]) -> Tensor:
    states: Tensor = model.base_model(input_ids=torch.tensor([text])).last_hidden_state[0]
    return states


# --- forms ------------------------------------------------------------------------------------------


def _read(lm: LanguageModel, text: Sequence[int]) -> Tensor:
    return lm.hidden(torch.tensor([text]))[0]


def _alone(lm: LanguageModel) -> list[Tensor]:
    return [_read(lm, text) for text in TEXTS]


def _laid(form: BatchForm, lm: LanguageModel) -> list[Tensor]:
    placed = lay_out(form, TEXTS, 0, lm.device, balance=1e9, two_way=True)
    hidden = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
    return [hidden[start : start + len(text)] for start, text in zip(placed.starts, TEXTS, strict=True)]


FORMS: dict[str, Callable[[LanguageModel], list[Tensor]]] = {
    "texts": _alone,
    "padded rows": functools.partial(_laid, BatchForm.PADDED),
    "several texts in one line": functools.partial(_laid, BatchForm.PADDING_FREE),
    "several texts in one row": functools.partial(_laid, BatchForm.PACKED),
}
