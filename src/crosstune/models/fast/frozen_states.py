"""States of texts behind the lower layers of a model, each text's the same bits whatever goes with it.

A product's bits may depend on how many rows go through it: that fixes how the work is cut up and in which
order numbers are added. One text at a time is free of that, but takes a CPU twice the time of many in one
line. So texts share lines of a few fixed sizes, filled up, and only where a trial shows that a text comes out
with the same bits in each of these sizes, wherever in the line it stands. The order of operations depends on
sizes and places, not on the numbers: what holds for the trial's numbers holds for all. (Attention, sized by
texts, takes each by itself.) It does not hold where numbers decide who is computed with whom, as
among experts and 8-bit outliers: there, and where the trial fails, each text goes alone; as does one too long
for a line.

GPUs promise no bits, and one text at a time would leave them idle: texts go through together as they come.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crosstune.models.attention.choose import for_reading
from crosstune.models.protocol import Model

# Names of rates in configs; a classifier's is no part of a decoder.
_DROPS = re.compile(r"(?!classifier|summary)\w*(?:drop(?:out)?|layerdrop|pdrop)(?:_rate|_prob)?")
SIZES = (64, 128, 192, 256)
"""Tokens of a line. More sizes would fill less and try longer; at 256 a CPU is near its best rate."""

# Odd, so that it comes to stand at odd and even places alike.
_TRIAL = 13

Text = tuple[int, ...]


def states_of(lm: Model, layer: int, texts: Sequence[Text], shared: bool) -> list[Tensor]:
    """What a layer receives of each text, ``[tokens, hidden]`` on the CPU.

    Args:
        lm: Nothing is attached below ``layer``, but the first position may be shifted.
        layer: 1 or more.
        texts: Token ids.
        shared: Whether they may share lines on a CPU (`may_share`).
    """
    states: dict[int, Tensor] = {}
    for line in _lines(lm, texts, shared):
        states |= zip(line, _read(lm, layer, [texts[i] for i in line], shared), strict=True)
    return [states[i] for i in range(len(texts))]


def may_share(lm: Model, layer: int) -> bool:
    """Whether a text has the same bits in every line and place, on this CPU and with this model."""
    if lm.quantized or any(
        "expert" in name for each in lm.layers[:layer] for name, _ in each.named_modules()
    ):
        return False
    draw = torch.Generator().manual_seed(0)
    text: Text = tuple(torch.randint(lm.geometry.vocabulary, (_TRIAL,), generator=draw).tolist())
    copies = [copy for size in SIZES for copy in _read(lm, layer, [text] * (size // _TRIAL), fill=True)]
    return all(torch.equal(copy, copies[0]) for copy in copies)


def drops(lm: Model, layer: int) -> bool:
    """Whether training drops anything below a layer, so that a text is never twice the same there."""
    # Attention and some layers (OPT's) drop by a function and not by a module; only the config tells.
    rates = (rate for name, rate in lm.decoder.config.to_dict().items() if _DROPS.fullmatch(name))
    if any(isinstance(rate, int | float) and rate > 0 for rate in rates):
        return True
    above = {id(module) for each in lm.layers[layer:] for module in each.modules()}
    below = (module for module in lm.decoder.modules() if id(module) not in above)
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in below)


def _lines(lm: Model, texts: Sequence[Text], shared: bool) -> list[list[int]]:
    """Which texts go through the model together: on a CPU those of a line, on a GPU all."""
    if lm.device.type != "cpu":
        return [list(range(len(texts)))] if texts else []
    lines: list[list[int]] = []
    alone: list[list[int]] = []
    size = SIZES[-1]
    for i, text in enumerate(texts):
        if not shared or len(text) > SIZES[-1]:
            alone.append([i])
            continue
        size += len(text)
        if size > SIZES[-1]:
            lines.append([])
            size = len(text)
        lines[-1].append(i)
    return lines + alone


def _read(lm: Model, layer: int, texts: Sequence[Text], fill: bool) -> list[Tensor]:
    """States of texts that go through the model together; ``fill`` up their line to the next of `SIZES`."""
    total = sum(map(len, texts))
    filler = next((size - total for size in SIZES if size >= total), 0) if fill else 0
    placed = for_reading(lm, [*texts, (lm.pad_id,) * filler] if filler else texts)
    states = lm.entry_states(layer, placed.ids, placed.layout).flatten(0, 1).cpu()
    # Copies: a view would hold the whole line in memory.
    return [states[at : at + len(text)].clone() for at, text in zip(placed.starts, texts, strict=False)]
