"""A method that is made of others: what a step asks of it, it asks of each."""

from collections.abc import Sequence
from typing import Any

from crosstune.methods.base import Method, Pass, Settings
from crosstune.methods.deferred import Tensor


class Composite(Method[Settings]):
    """Methods that are attached together. Only the first may have several phases."""

    inner: Sequence[Method[Any]]  # the methods, in the order in which they are attached

    @property
    def lowest_layer(self) -> int:
        """The lowest of all."""
        return min(method.lowest_layer for method in self.inner)

    def use_masters(self, wanted: bool) -> None:
        """Of each."""
        for method in self.inner:
            method.use_masters(wanted)

    def begin_training(self, steps: int) -> list[int]:
        """Of each; the phases are those of the first."""
        phases, *_ = [method.begin_training(steps) for method in self.inner]
        return phases

    def next_phase(self) -> None:
        """Of each."""
        for method in self.inner:
            method.next_phase()

    def objective(self, loss: Tensor, of: Pass) -> Tensor:
        """Each method's of what those before it make of the loss."""
        for method in self.inner:
            loss = method.objective(loss, of)
        return loss

    def with_gradients(self, step: int) -> None:
        """Of each."""
        for method in self.inner:
            method.with_gradients(step)

    def after_backward(self) -> None:
        """Of each."""
        for method in self.inner:
            method.after_backward()

    def after_step(self) -> None:
        """Of each."""
        for method in self.inner:
            method.after_step()
