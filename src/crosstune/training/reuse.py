"""The states of texts in front of the lowest adapted layer, computed once and reused.

Epochs, and the runs that a process makes with one loaded model, read the same texts. What frozen layers make
of a text depends on the model and the text alone, on a CPU to the bit. So it is kept
(`crosstune.models.fast.activation_cache`); whether it was kept or computed again changes no result.

A product's bits may depend on how many rows go through it. One text at a time is free of that, but takes a
CPU twice the time of many in one line. So texts share lines of a few fixed sizes, filled up, and only where a
trial shows that a text has the same bits in each size and at every place. The order of operations depends on
sizes and places, not on the numbers: what holds for the trial's numbers holds for all. (Attention takes each
text by itself.) It does not hold where numbers decide who is computed with whom, as among experts and 8-bit
outliers: there, and where the trial fails, each text goes alone; as does one too long for a line. GPUs
promise no bits, and one text at a time would leave them idle: texts go through together as they come.
"""

import re
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.methods.base import Method
from crosstune.models.attention.choose import for_reading, turns
from crosstune.models.fast.layers import EntryStates
from crosstune.models.language_model import LanguageModel
from crosstune.models.proof import FastWay
from crosstune.outputs.rows import TrainingRow
from crosstune.training import parallel

# Names of rates in configs; a classifier's is no part of a decoder.
_DROPS = re.compile(r"(?!classifier|summary)\w*(?:drop(?:out)?|layerdrop|pdrop)(?:_rate|_prob)?")
SIZES = (64, 128, 192, 256)
"""Tokens of a line. More sizes would fill less and try longer; at 256 a CPU is near its best rate."""

# Odd, so that it comes to stand at odd and even places alike.
_TRIAL = 13

Text = tuple[int, ...]

ENTERED = FastWay(
    fast="entered at the lowest adapted one",
    plain="training steps run all layers",
    tolerance=0.05,
    because="other products round otherwise in 16 bits; a wrong state is nowhere near",
)


class Reuse:
    """The states of one training's texts.

    Args:
        method: Attached; the model does not drop anything now.
        sample: One of the texts, to try it with.
        before: `facts` of a training that was stopped, to count on from.

    Attributes:
        layer: The lowest that runs in a training step; 0 where nothing is reused.
        why_not: Why nothing is; empty where states are reused.
        read: Texts that steps have asked for, each time they are read.
        from_cache: How many of these were in the cache.
    """

    def __init__(self, method: Method, sample: TrainingRow, before: dict[str, Any] | None = None) -> None:
        self._lm = method.attached()
        self._states = self._lm.activation_cache
        self._states.begin()
        self.layer, self.why_not, self._shared = method.lowest_layer, "", False
        # Of several processes the first counts on.
        before = None if parallel.rank() else before
        self.read: int = 0 if before is None else before["texts_read"]
        self.from_cache: int = 0 if before is None else before["texts_kept"]
        if self.layer == 0:
            self.why_not = "adapted from the lowest layer up"
        elif self._lm.adaptation.two_way:
            self.why_not = "some layers see both ways"
        elif len(self._lm.adaptation.parts) > 1:
            self.why_not = "other methods are on the model"
        elif self._lm.geometry.encoder_layers:
            self.why_not = "the model is an encoder and a decoder"
        elif self._lm.geometry.apart:
            self.why_not = "the model's texts are read one per row"
        elif drops(self._lm, self.layer):
            self.why_not = "the model has dropout"
        elif not self._enters(sample.texts[0].text):
            self.why_not = "the model cannot start at an upper layer"
        if self.why_not:
            self.layer = 0
            return
        if self._lm.device.type == "cpu":
            verdicts, place = self._states.shared, self._place()
            if place not in verdicts:
                verdicts[place] = may_share(self._lm, self.layer)
            self._shared = verdicts[place]
        self._check(sample.texts[0].text)

    def facts(self) -> dict[str, Any]:
        """For the record of the run; of several processes all together."""
        counts = self.read, self.from_cache, self._states.held
        read, kept, held = map(int, parallel.summed(counts, self._lm.device))
        facts = {"layers": self.layer, "texts_read": read, "texts_kept": kept}
        return facts | ({"why_not": self.why_not} if self.why_not else {"bytes": held})

    def below(self, texts: Sequence[Text]) -> tuple[int, list[Tensor]] | None:
        """The layer to enter at, and what it receives of each text, ``[tokens, hidden]`` on the CPU.

        None where nothing is reused.
        """
        if not self.layer or turns(self._lm, max(map(len, texts))):
            return None
        cached = {text: self._states.get(self._key(text)) for text in texts}
        states_by_text = {text: states for text, states in cached.items() if states is not None}
        self.read += len(texts)
        self.from_cache += sum(text in states_by_text for text in texts)
        new = [text for text in cached if text not in states_by_text]
        for text, states in zip(new, states_of(self._lm, self.layer, new, self._shared), strict=True):
            self._states.put(self._key(text), states)
            states_by_text[text] = states
        return self.layer, [states_by_text[text] for text in texts]

    def give_way(self, counts: tuple[int, int]) -> None:
        """A step failed: count on from ``counts``, and on a CPU, whose memory ran out, let the states go."""
        self.read, self.from_cache = counts
        if self._lm.device.type == "cpu":
            self._states.give_way()

    def _place(self) -> tuple[int, int, int]:
        """What decides a text's states beside the text: a prefix shifts positions in every layer."""
        return self.layer, self._lm.adaptation.first_position, torch.get_num_threads()

    def _key(self, text: Text) -> tuple[int, int, int, bytes]:
        return *self._place(), array("i", text).tobytes()

    def _enters(self, text: Text) -> bool:
        """Whether this model can be entered at that layer: a text comes out as through all layers."""
        lm = self._lm
        ids = torch.tensor([text], device=lm.device)

        def compare() -> list[tuple[Tensor, Tensor]]:
            with torch.no_grad():
                entered = lm.hidden(ids, entry=EntryStates(self.layer, lm.entry_states(self.layer, ids)))
                return [(entered, lm.hidden(ids))]

        why = ENTERED.fault(compare)
        if why:
            ENTERED.tell(why)
        return not why

    def _check(self, text: Text) -> None:
        """Use nothing that is kept if it is not what the model makes of a text now.

        The model was changed in between then, by something that is no method.
        """
        cached = self._states.get(self._key(text))
        if cached is None:
            return
        now = states_of(self._lm, self.layer, [text], self._shared)[0]
        if not (torch.equal(cached, now) if self._lm.device.type == "cpu" else ENTERED.same(cached, now)):
            self._states.clear()


def states_of(lm: LanguageModel, layer: int, texts: Sequence[Text], shared: bool) -> list[Tensor]:
    """What a layer (1 or above) receives of each text of token ids, ``[tokens, hidden]`` on the CPU.

    Nothing is attached below the layer, but the first position may be shifted. ``shared``: texts may share
    lines on a CPU (`may_share`).
    """
    states: dict[int, Tensor] = {}
    for line in _lines(lm, texts, shared):
        states |= zip(line, _read(lm, layer, [texts[i] for i in line], shared), strict=True)
    return [states[i] for i in range(len(texts))]


def may_share(lm: LanguageModel, layer: int) -> bool:
    """Whether a text has the same bits in every line and place, on this CPU and with this model."""
    if lm.quantized or any(
        "expert" in name for module in lm.layers[:layer] for name, _ in module.named_modules()
    ):
        return False
    draw = torch.Generator().manual_seed(0)
    text: Text = tuple(torch.randint(lm.geometry.vocabulary, (_TRIAL,), generator=draw).tolist())
    copies = [copy for size in SIZES for copy in _read(lm, layer, [text] * (size // _TRIAL), fill=True)]
    return all(torch.equal(copy, copies[0]) for copy in copies)


def drops(lm: LanguageModel, layer: int) -> bool:
    """Whether training drops anything below a layer, so that a text is never twice the same there."""
    # Attention and some layers (OPT's) drop by a function and not by a module; only the config tells.
    rates = (rate for name, rate in lm.decoder.config.to_dict().items() if _DROPS.fullmatch(name))
    if any(isinstance(rate, int | float) and rate > 0 for rate in rates):
        return True
    above = {id(module) for top in lm.layers[layer:] for module in top.modules()}
    below = (module for module in lm.decoder.modules() if id(module) not in above)
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in below)


def _lines(lm: LanguageModel, texts: Sequence[Text], shared: bool) -> list[list[int]]:
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


def _read(lm: LanguageModel, layer: int, texts: Sequence[Text], fill: bool) -> list[Tensor]:
    """States of texts that go through the model together; ``fill`` up their line to the next of `SIZES`."""
    total = sum(map(len, texts))
    filler = next((size - total for size in SIZES if size >= total), 0) if fill else 0
    placed = for_reading(lm, [*texts, (lm.pad_id,) * filler] if filler else texts)
    states = lm.entry_states(layer, placed.ids, placed.layout).flatten(0, 1).cpu()
    # Copies: a view would hold the whole line in memory.
    return [states[at : at + len(text)].clone() for at, text in zip(placed.starts, texts, strict=False)]
