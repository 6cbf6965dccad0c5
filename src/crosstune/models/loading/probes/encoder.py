"""Whether crosstune computes what an encoder computes: `crosstune.models.loading.probe` for two-way models.

The same two small copies, one left to transformers' eager attention. Held against each text by itself:

* padded rows, several texts in one line, and several in one row by a mask;
* keys and values planted on every attention module, against attention written out here; hidden vectors become
  the keys and values that the module makes of them;
* embeddings in front of the text;
* words predicted of states, where there is a masked language model.

The first token has to see the last.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from crosstune.errors import UserError
from crosstune.models.adaptation import Part, Prompt
from crosstune.models.attention.choose import BatchForm, lay_out
from crosstune.models.loading.config import one_line

if TYPE_CHECKING:
    from crosstune.models.geometry import Geometry
    from crosstune.models.language_model import LanguageModel

NEAR = 1e-3
"""Of the largest number. Sums in another order come to a few millionths in fp32, a real fault to a tenth."""
PROMPT = 2
WRITTEN_OUT = "crosstune_probe"
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
    if _near(_eager(eager, (5, 9, 12))[0], _eager(eager, (5, 9, 13))[0]):
        raise UserError(f"{name}: the first token does not see the last; it is no encoder that is known")
    for what, form in FORMS.items():
        try:
            read = [_alone(lm, text) for text in TEXTS] if form is None else _laid(lm, form)
            if lm.geometry.encoder == "masked" and form is None:
                words = eager(input_ids=torch.tensor([TEXTS[0]])).logits[0]
                if not _near(lm.logits(read[0]), words):
                    return "words predicted of states are others"
        except UserError:
            raise
        except Exception as error:
            return f"{what}: {type(error).__name__}: {one_line(error)}"
        if not all(_near(*pair) for pair in zip(read, wanted, strict=True)):
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
        pairs = keys_of(eager, modules, states)
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
    return (
        "" if _near(states_now, wanted) else f"{type(eager).__name__} makes keys in a way that is not known"
    )


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
    near = _near(read, wanted[PROMPT:])
    return "" if near else f"{type(eager).__name__} reads embeddings in a way not known"


# --- the independent side ---------------------------------------------------------------------------


@contextmanager
def written_out(model: Any) -> Iterator[dict[Any, tuple[Tensor, Tensor] | None]]:
    """Inside, a model attends as written here, with the keys and values that are put into the dict.

    Of a module that is there with None, its own come into the dict.
    """
    planted: dict[Any, tuple[Tensor, Tensor] | None] = {}

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        scaling: float,
        position_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        if module in planted:
            if (pair := planted[module]) is None:
                planted[module] = (key, value)
            else:
                front = (x[None].expand(len(key), -1, -1, -1) for x in pair)
                key, value = (torch.cat(both, dim=2) for both in zip(front, (key, value), strict=True))
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * scaling
        rows, columns = scores.shape[2:]
        if position_bias is not None:  # what is planted is at no distance from anything
            scores = scores + pad(position_bias, (columns - position_bias.shape[-1], 0))
        if mask is None and getattr(module, "is_causal", False):
            mask = torch.ones(rows, rows, dtype=torch.bool).tril()[None, None]
        if mask is not None:
            scores = scores.masked_fill(
                ~pad(mask, (key.shape[2] - mask.shape[-1], 0), value=True), -torch.inf
            )
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    AttentionInterface.register(WRITTEN_OUT, attend)
    AttentionMaskInterface.register(WRITTEN_OUT, sdpa_mask)
    # Two stacks have a config each.
    configs = {id(config): config for part in model.modules() if (config := getattr(part, "config", None))}
    before = {at: config._attn_implementation for at, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = WRITTEN_OUT
    try:
        yield planted
    finally:
        for at, config in configs.items():
            config._attn_implementation = before[at]


def keys_of(
    model: Any, modules: Sequence[nn.Module], states: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values, ``[kv_heads, n, size]``, that modules make of ``[n, hidden]`` states at position 0."""

    def instead(states_in: Tensor, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if "hidden_states" in kwargs:
            return args, kwargs | {"hidden_states": states_in[:, None]}
        return (states_in[:, None], *args[1:]), kwargs

    handles = [
        module.register_forward_pre_hook(functools.partial(instead, states_in), with_kwargs=True)
        for module, states_in in zip(modules, states, strict=True)
    ]
    try:
        with written_out(model) as caught:
            caught.update(dict.fromkeys(modules))
            model.base_model(input_ids=torch.ones(len(states[0]), 1, dtype=torch.long))
    finally:
        for handle in handles:
            handle.remove()
    pairs = [pair for module in modules if (pair := caught[module]) is not None]
    return [(keys[:, :, 0].transpose(0, 1), values[:, :, 0].transpose(0, 1)) for keys, values in pairs]


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


def _near(ours: Tensor, expected: Tensor) -> bool:
    # Not `allclose`: a NaN on either side is a difference.
    return bool((ours - expected).abs().max() <= NEAR * expected.abs().max())
