"""Texts read once, batch by batch: the mean state of chosen places of each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor

from crosstune.models.attention.choose import BatchForm, lay_out, reading_form, ways
from crosstune.models.fast.kernels import fused
from crosstune.models.fast.top_rows import means
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.base import refuse_nan
from crosstune.outputs.journal import Stream
from crosstune.outputs.settings import EvaluateSettings
from crosstune.outputs.stream import Group, in_a_pass, in_batches

Places = Sequence[Sequence[int]]
"""Of one text: groups of places of tokens; the mean of a group's states is one vector."""


def pool(lm: LanguageModel, length: int, pooling: str | None) -> tuple[int, ...]:
    """The places of a text of some tokens that `EvaluateSettings.pooling` takes the mean of."""
    chosen = pooling or ("first" if lm.geometry.encoder else "last")
    return {"first": (0,), "last": (length - 1,), "mean": tuple(range(length))}[chosen]


def answered(
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    places: Sequence[Places],
    answer: Callable[[Tensor, Sequence[int]], list[Any]],
    settings: EvaluateSettings,
    layer: int | None = None,
    **stream: Unpack[Stream],
) -> list[Any]:
    """What is made of each text's vectors, as JSON has it.

    Args:
        lm: The model.
        texts: Token ids; none is empty.
        places: Of each text.
        answer: Makes one result a text of the vectors of some texts, ``[vectors, hidden]`` in fp32, text by
            text, and the numbers of the texts.
        settings: Of evaluation.
        layer: States are those behind it, from 1; None for the last, behind the final norm.
        **stream: See `Stream`.

    Raises:
        UserError: One text is more than memory holds.
    """
    passes = stream.get("passes") or TokenLimit(settings.tokens_per_pass, lm.device)
    form = reading_form(lm, lm.adaptation.front + max(map(len, texts), default=0))

    def measure(group: list[int]) -> tuple[int, int]:
        return 1, len(texts[group[0]])

    def batch(groups: list[Group]) -> list[Any]:
        numbers = [i for group in groups for i in group.items]
        passes.tokens += sum(len(texts[i]) for i in numbers)
        with torch.inference_mode():
            states = _read(lm, [texts[i] for i in numbers], [places[i] for i in numbers], form, layer)
            refuse_nan(bool(states.isnan().any()))
            return answer(states, numbers)

    with fused(lm):
        fill = partial(in_a_pass, device=lm.device)
        groups = [[i] for i in range(len(texts))]
        return in_batches(groups, measure, batch, passes, stream, fill, form.fills_up)


def _read(
    lm: LanguageModel,
    texts: Sequence[Sequence[int]],
    places: Sequence[Places],
    form: BatchForm,
    layer: int | None,
) -> Tensor:
    placed = lay_out(form, texts, lm.pad_id, lm.device, **ways(lm))
    rows: list[int] = []
    pools: list[int] = []
    count = 0
    for start, groups in zip(placed.starts, places, strict=True):
        for group in groups:
            rows += [start + place for place in group]
            pools += [count] * len(group)
            count += 1
    chosen = torch.tensor(rows, device=lm.device)
    if layer is None or layer == lm.geometry.layers:
        hidden = lm.hidden(placed.ids, placed.layout, rows=chosen)
    else:
        hidden = lm.entry_states(layer, placed.ids, placed.layout).flatten(0, 1)[chosen]
    return means(hidden, torch.tensor(pools, device=lm.device), count)
