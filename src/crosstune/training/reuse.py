"""What the frozen layers below the lowest adapted one hand to it, computed once for each training text.

Epochs, and the runs that a process makes with one loaded model, read the same texts. What a text is on its
way through layers that nothing is trained in depends on the model and the text alone, to the bit on a CPU
(`crosstune.models.fast.frozen_states`). So it is kept; whether it was kept or had to be made again, for want
of memory or in a process that takes up what another left, makes no difference.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crosstune.methods.base import Method
from crosstune.models.fast.frozen_states import Text, drops, may_share, states_of
from crosstune.models.fast.layers import EntryStates
from crosstune.models.proof import FastWay
from crosstune.outputs.rows import TrainingRow

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
        kept: How many of these were kept from before.
    """

    def __init__(self, method: Method, sample: TrainingRow, before: dict[str, Any] | None = None) -> None:
        self._lm = method.attached()
        self._states = self._lm.activation_cache
        self._states.begin()
        self.layer, self.why_not, self._shared = method.lowest_layer, "", False
        self.read: int = 0 if before is None else before["texts_read"]
        self.kept: int = 0 if before is None else before["texts_kept"]
        if self.layer == 0:
            self.why_not = "adapted from the lowest layer up"
        elif len(self._lm.adaptation.parts) > 1:
            self.why_not = "other methods are on the model"
        elif drops(self._lm, self.layer):
            self.why_not = "the model has dropout"
        elif not self._enters(sample.ids[:-1]):
            self.why_not = "the model's layers cannot be entered midway"
        if self.why_not:
            self.layer = 0
        else:
            self._shared = self._lm.device.type == "cpu" and self._may_share()
            self._check(sample.ids[:-1])

    def facts(self) -> dict[str, Any]:
        """For the record of the run."""
        facts = {"layers": self.layer, "texts_read": self.read, "texts_kept": self.kept}
        return facts | ({"why_not": self.why_not} if self.why_not else {"bytes": self._states.held})

    def below(self, texts: Sequence[Text]) -> tuple[int, list[Tensor]] | None:
        """The layer to enter at, and what it receives of each text, ``[tokens, hidden]`` on the CPU.

        None where nothing is reused.
        """
        if not self.layer:
            return None
        kept = {text: self._states.get(self._key(text)) for text in texts}
        found = {text: states for text, states in kept.items() if states is not None}
        self.read += len(texts)
        self.kept += sum(text in found for text in texts)
        new = [text for text in kept if text not in found]
        for text, states in zip(new, states_of(self._lm, self.layer, new, self._shared), strict=True):
            self._states.put(self._key(text), states)
            found[text] = states
        return self.layer, [found[text] for text in texts]

    @property
    def counts(self) -> tuple[int, int]:
        """Texts read, and kept from before."""
        return self.read, self.kept

    def give_way(self, counts: tuple[int, int]) -> None:
        """A step failed: count on from ``counts``, and on a CPU, whose memory ran out, let the states go."""
        self.read, self.kept = counts
        if self._lm.device.type == "cpu":
            self._states.give_way()

    def _place(self) -> tuple[int, int, int]:
        """What decides a text's states beside the text: a prefix shifts positions in every layer."""
        return self.layer, self._lm.adaptation.first_position, torch.get_num_threads()

    def _key(self, text: Text) -> tuple[int, int, int, bytes]:
        return *self._place(), array("i", text).tobytes()

    def _may_share(self) -> bool:
        if self._place() not in self._states.shared:
            self._states.shared[self._place()] = may_share(self._lm, self.layer)
        return self._states.shared[self._place()]

    def _enters(self, text: Text) -> bool:
        """Whether this model can be entered midway: a text comes out as it does all the way through."""
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
        kept = self._states.get(self._key(text))
        if kept is None:
            return
        now = states_of(self._lm, self.layer, [text], self._shared)[0]
        if not (torch.equal(kept, now) if self._lm.device.type == "cpu" else ENTERED.same(kept, now)):
            self._states.clear()
