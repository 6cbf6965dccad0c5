"""Cached activations of frozen layers, in the machine's memory.

A cached tensor is exactly what would be recomputed, so the cache and its size change no result: the limit may
depend on the machine.
"""

from collections.abc import Hashable

from torch import Tensor

from crosstune.config.environment import states_gigabytes
from crosstune.models.memory.machine import at_hand, machine_memory

# Of what the machine can still give when the first states come: other processes may run the same study.
_SHARE = 1 / 4


class ActivationCache:
    """Tensors by key, up to a limit in bytes.

    A training reads its texts again and again in changing order, so evicting one of its own tensors for
    another would lose as much as it gains: a tensor that does not fit is not cached. Only tensors of earlier
    trainings that this one has not used are evicted, least recently used first.

    Args:
        limit: Bytes; by default the environment variable, or else a quarter of the free memory.

    Raises:
        UserError: The environment variable is no number of gigabytes.

    Attributes:
        held: Bytes cached now.
        limit: Most bytes; None before the first training.
        shared: Verdicts of `crosstune.training.reuse.may_share`, by what was tried.
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
        """The cached tensor of a key."""
        if key not in self._kept:
            return None
        states = self._kept.pop(key)[1]
        self._kept[key] = self._training, states
        return states

    def put(self, key: Hashable, states: Tensor) -> None:
        """Cache a tensor that owns its memory, if it fits."""
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
        """Drop everything."""
        self._kept.clear()
        self.held = 0
        self.shared.clear()

    def give_way(self) -> None:
        """Memory ran out: drop everything, and cache half as much from now on."""
        self.limit = self.held // 2
        self.clear()
