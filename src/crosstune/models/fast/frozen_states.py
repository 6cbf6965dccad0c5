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

from crosstune.models.attention.choose import Form, lay_out, reading_form
from crosstune.models.attention.trees import chain
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
    if not texts:
        return []
    if lm.device.type != "cpu":
        return _padded(lm, layer, texts)
    made: dict[int, Tensor] = {}
    short = [i for i, text in enumerate(texts) if shared and len(text) <= SIZES[-1]]
    for line in _lines([len(texts[i]) for i in short]):
        of = [short[place] for place in line]
        made |= zip(of, _in_line(lm, layer, [texts[i] for i in of]), strict=True)
    for i in set(range(len(texts))).difference(short):
        made[i] = _alone(lm, layer, texts[i])
    return [made[i] for i in range(len(texts))]


def may_share(lm: Model, layer: int) -> bool:
    """Whether a text has the same bits in every line and place, on this CPU and with this model."""
    if lm.quantized or any(
        "expert" in name for each in lm.layers[:layer] for name, _ in each.named_modules()
    ):
        return False
    draw = torch.Generator().manual_seed(0)
    text: Text = tuple(torch.randint(lm.geometry.vocabulary, (_TRIAL,), generator=draw).tolist())
    copies = [copy for size in SIZES for copy in _in_line(lm, layer, [text] * (size // _TRIAL))]
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


def _lines(lengths: Sequence[int]) -> list[list[int]]:
    """Which texts share a line, in their order."""
    lines: list[list[int]] = []
    size = SIZES[-1]
    for i, length in enumerate(lengths):
        size += length
        if size > SIZES[-1]:
            lines.append([])
            size = length
        lines[-1].append(i)
    return lines


def _alone(lm: Model, layer: int, text: Text) -> Tensor:
    placed = lay_out(reading_form(lm, len(text)), [chain(text)], lm.pad_id, lm.device)
    return lm.handed_to(layer, placed.ids, placed.layout)[0]


def _in_line(lm: Model, layer: int, texts: Sequence[Text]) -> list[Tensor]:
    filler = next(size for size in SIZES if size >= sum(map(len, texts))) - sum(map(len, texts))
    filled = [*texts, (lm.pad_id,) * filler] if filler else texts
    placed = lay_out(Form.PADDING_FREE, [chain(text) for text in filled], lm.pad_id, lm.device, apart=True)
    states = lm.handed_to(layer, placed.ids, placed.layout)[0]
    # Copies: a view would hold the whole line in memory.
    return [states[at : at + len(text)].clone() for at, text in zip(placed.starts, texts, strict=False)]


def _padded(lm: Model, layer: int, texts: Sequence[Text]) -> list[Tensor]:
    placed = lay_out(Form.PADDED, [chain(text) for text in texts], lm.pad_id, lm.device)
    states = lm.handed_to(layer, placed.ids).cpu()
    return [of[: len(text)].clone() for of, text in zip(states, texts, strict=True)]
