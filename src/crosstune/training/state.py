"""What the training loop carries from step to step, and how it goes into a checkpoint and comes back."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crosstune.methods.base import Method
from crosstune.training.checkpoint import Saved
from crosstune.training.optimizers import Optimizer

if TYPE_CHECKING:
    from crosstune.models.fast.shards import Shards


@dataclass
class Trained:
    """What training leaves beside the weights."""

    steps: int = 0  # optimiser steps taken
    chosen_step: int = 0  # step whose weights were kept (the last, or the best on development data)
    learning_rate: float = 0.0  # peak
    tokens: int = 0  # text tokens read
    padded_tokens: int = 0  # tokens computed, padding included
    seconds: float = 0.0  # wall time of the loop
    # One ``{"step", "loss", "learning_rate"}`` a step.
    curve: list[dict[str, float]] = field(default_factory=list)
    # One ``{"step", "score"}`` for each score on development data.
    dev: list[dict[str, float]] = field(default_factory=list)
    # What was reused of frozen layers (`crosstune.training.reuse`), if that was asked for.
    reuse: dict[str, Any] | None = None

    def add(self, step: int, tokens: int, padded: int) -> None:
        """A step was taken, and read so many tokens, without and with padding."""
        self.steps, self.tokens, self.padded_tokens = step, self.tokens + tokens, self.padded_tokens + padded


class Best:
    """The weights with the best score so far; the earlier ones on ties."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.score, self.step, self.since = -math.inf, 0, 0
        self.weights: dict[str, Tensor] = {}

    def see(self, step: int, score: float) -> None:
        """A score came in."""
        self.since += 1
        if score > self.score or not self.weights:
            self.score, self.step, self.since = score, step, 0
            # In the machine's memory: a GPU may have none left for a second model.
            parameters = self.method.parameters().items()
            self.weights = {name: p.detach().to("cpu", copy=True) for name, p in parameters}

    def put_back(self) -> int:
        """Set the method to them, and tell the step they are from."""
        self.method.set_parameters(self.weights)
        return self.step


@dataclass
class LoopState:
    """The loop between two steps."""

    method: Method
    optimizer: Optimizer
    trained: Trained
    best: Best
    shards: "Shards | None" = None

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, the optimizer's state, the method's, the best weights, dropout's randomness."""
        parameters = self.method.parameters()
        values = _prefixed("parameter", self._whole({name: p.detach() for name, p in parameters.items()}))
        values |= _prefixed("method", self.method.training_state())
        values |= _prefixed("best", self._whole(self.best.weights))
        values |= _prefixed("random", random_state())
        for name in parameters:
            moments = {key: self._whole({name: x})[name] for key, x in self.optimizer.state(name).items()}
            values |= _prefixed(f"optimiser:{name}", moments)
        return values

    def _whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of sharded weights all rows."""
        whole = None if self.shards is None else self.shards.whole
        return tensors if whole is None else {name: whole(name, x) for name, x in tensors.items()}

    def _own(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of sharded weights this process's rows."""
        part = None if self.shards is None else self.shards.part
        return tensors if part is None else {name: part(name, x) for name, x in tensors.items()}

    def facts(self) -> dict[str, Any]:
        """Numbers, as JSON knows them."""
        best = {"score": self.best.score, "step": self.best.step, "since": self.best.since}
        return {"trained": asdict(self.trained), "best": best}

    def take(self, saved: Saved) -> None:
        """Go on from a checkpoint."""
        tensors = saved.tensors
        self.method.load_training_state(_unprefixed("method", tensors))
        self.method.set_parameters(self._own(_unprefixed("parameter", tensors)))
        states = {name: _unprefixed(f"optimiser:{name}", tensors) for name in self.method.parameters()}
        self.optimizer.take(
            {n: {key: self._own({n: x})[n] for key, x in of.items()} for n, of in states.items()}
        )
        best = saved.facts["best"]
        self.best.weights = self._own(_unprefixed("best", tensors))
        self.best.score, self.best.step, self.best.since = best["score"], best["step"], best["since"]
        set_random_state(_unprefixed("random", tensors))
        self.trained = Trained(**saved.facts["trained"])


def random_state() -> dict[str, Tensor]:
    """State of PyTorch's global randomness, on the CPU and every GPU."""
    gpus = enumerate(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else ()
    return {"cpu": torch.random.get_rng_state()} | {f"cuda{i}": state for i, state in gpus}


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put a `random_state` back; of GPUs, those that are here."""
    torch.random.set_rng_state(state["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda{i}" in state:
            torch.cuda.set_rng_state(state[f"cuda{i}"], i)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}:{name}": x.contiguous() for name, x in tensors.items()}


def _unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}:"
    return {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
