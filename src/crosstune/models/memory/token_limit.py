"""Limits the tokens that go through the model at once, and halves the limit when memory runs out."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from crosstune.errors import UserError
from crosstune.models.memory.machine import ran_out

T = TypeVar("T")
# Tokens of answers being written that are held for each token read at once.
CACHED = 2


class TokenLimit:
    """The passes of one kind through the model, and how large they may be.

    Attributes:
        limit: Most tokens at once, padding included.
        doing: Such as "training".
        halvings: How often the limit was halved.
        tokens: Text tokens that went through, padding left out; counted by those who use it.
        too_long: Texts longer than the model has positions for; counted by those who use it.
        measured: Whether memory has been measured for the limit, or the limit is another's.
        cached: Tokens of answers being written that are held for each token of the limit.
        engine: Of another library that wrote answers: its name, and how many it wrote as this one does.
        recomputed: How many layers' activations are recomputed in the backward pass instead of kept.
        watch: Called before each pass, with its kind and its numbers of examples and tokens.
    """

    def __init__(
        self,
        limit: int,
        device: torch.device | str = "cpu",
        doing: str = "evaluation",
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.limit, self.halvings, self.tokens, self.too_long = limit, 0, 0, 0
        self._device, self.doing, self._note = torch.device(device).type, doing, note
        self.measured = False
        self.cached: float = CACHED
        self.engine: dict[str, Any] | None = None
        self.recomputed = 0
        self.watch: Callable[[TokenLimit, int, int], None] | None = None
        self._rows, self._size = 1, 0
        self._cap: tuple[int, int] | None = None

    @property
    def cache(self) -> int:
        """Tokens of the key/value cache for answers being decoded."""
        return round(self.cached * self.limit)

    def say(self, line: str) -> None:
        """Log one line about these passes."""
        if self._note is not None:
            self._note(line)

    def begin(self, rows: int, size: int) -> None:
        """A pass of so many examples and tokens (padding included) begins."""
        self._rows, self._size = rows, size
        if self.watch is not None:
            self.watch(self, rows, size)

    def attempt(self, work: Callable[[], T], undo: Callable[[], None] | None = None) -> T | None:
        """Do work of some passes, which calls `begin` before each; ``undo`` reverts what failed work left.

        Returns:
            The work's result; None if memory ran out: the limit is lower now, do it again.

        Raises:
            UserError: Memory ran out on one example alone.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
        # Out of the except block: while the error lives, its traceback holds the failed pass's tensors.
        if undo is not None:
            undo()
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()
        if self._rows <= 1 or self.limit <= 1:
            raise UserError(
                f"memory of {self._device} ran out in {self.doing} on one example of {self._size} tokens; "
                "set train.gradient_checkpointing, or take a smaller model or another device"
            )
        before = self.limit
        self._lower(self._size)
        where = f"  memory of {self._device} ran out in {self.doing}: "
        self.say(f"{where}{self.limit} tokens at once from here on, not {before}")
        return None

    def lower_to(self, tokens: int) -> None:
        """Lower the limit to a measured size."""
        if tokens < self.limit:
            self.limit = tokens
            self.say(f"  about {tokens} tokens at once fit in the memory of {self._device} in {self.doing}")

    def state(self) -> dict[str, float]:
        """Limits and counts, to resume from."""
        names = ("limit", "halvings", "tokens", "measured", "cached", "recomputed")
        return {name: getattr(self, name) for name in names}

    def put_back(self, state: dict[str, Any]) -> None:
        """Resume from a `state`."""
        self.limit, self.halvings, self.tokens = state["limit"], state["halvings"], state["tokens"]
        self.measured = state.get("measured", True)
        self.cached = state.get("cached", CACHED)
        self.recomputed = state.get("recomputed", 0)
        self._hold()

    def cap(self, limit: int, halvings: int) -> None:
        """Keep the limit at or below an earlier one, which had been halved so many times."""
        self._cap = (limit, halvings)
        self._hold()

    def cap_below(self, size: int) -> None:
        """Halve the limit until a pass of so many tokens has to be split, and keep it at or below that."""
        self._lower(size)
        self._cap = (self.limit, self.halvings)

    def _hold(self) -> None:
        if self._cap is not None and self._cap[0] < self.limit:
            self.limit, self.halvings = self._cap

    def _lower(self, size: int) -> None:
        before = self.limit
        # A pass may be far smaller than the limit: down to one that has to be cut.
        while self.limit >= size or self.limit == before:
            self.limit = max(1, self.limit // 2)
            self.halvings += 1
