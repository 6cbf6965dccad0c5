"""States of texts halfway up a model, kept in the machine's memory to be used again.

What is kept is what would be computed again, so whether it is kept, and how much, changes no result: the
limit may depend on the machine.
"""

from collections.abc import Hashable

from torch import Tensor

from crosstune.config.environment import states_gigabytes
from crosstune.models.memory.machine import at_hand, machine_memory

# Of what the machine can still give when the first states come: other processes may run the same study.
_SHARE = 1 / 4


class ActivationCache:
    """Tensors by key, up to a number of bytes.

    Trainings go through their texts again and again in changing order. So what does not fit is left out: to
    put it in the place of another of the same training would lose as much as it brings. Only what earlier
    trainings left, and this one has not used, makes room, longest unused first.

    Args:
        limit: Bytes; None to ask the environment variable, or else take a quarter of the free memory.

    Raises:
        UserError: The environment variable is no number of gigabytes.

    Attributes:
        held: Bytes kept now.
        limit: Most bytes; None before the first states come.
        shared: Whether texts may share a line (`crosstune.training.reuse.may_share`), by what was
            tried.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.held, self.limit = 0, limit
        self.shared: dict[Hashable, bool] = {}
        self._training = 0
        # In the order of their last use, with the training that it was in.
        self._kept: dict[Hashable, tuple[int, Tensor]] = {}

    def begin(self) -> None:
        """A training begins."""
        self._training += 1
        if self.limit is None:
            gigabytes, free = states_gigabytes(), at_hand()
            quarter = _SHARE * (machine_memory() / 2 if free is None else free)
            self.limit = int(quarter if gigabytes is None else gigabytes * 1e9)

    def get(self, key: Hashable) -> Tensor | None:
        """What is kept under a key."""
        if key not in self._kept:
            return None
        states = self._kept.pop(key)[1]
        self._kept[key] = self._training, states
        return states

    def put(self, key: Hashable, states: Tensor) -> None:
        """Keep a tensor that owns its memory, if there is room."""
        assert key not in self._kept, "kept already"
        assert self.limit is not None, "no training has begun"
        while self._kept and self.held + states.nbytes > self.limit:
            oldest, (training, old) = next(iter(self._kept.items()))
            if training == self._training:
                return
            del self._kept[oldest]
            self.held -= old.nbytes
        if states.nbytes <= self.limit - self.held:
            self._kept[key] = self._training, states
            self.held += states.nbytes

    def clear(self) -> None:
        """Let everything go."""
        self._kept.clear()
        self.held = 0
        self.shared.clear()

    def give_way(self) -> None:
        """Memory ran out: let everything go, and keep half as much from here on."""
        self.limit = self.held // 2
        self.clear()
