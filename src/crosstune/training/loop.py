"""The training loop: the only one, for every method."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from crosstune.errors import UserError
from crosstune.methods.base import Method
from crosstune.training.batches import Row, collate, order, split
from crosstune.training.loss import answer_loss
from crosstune.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Progress:
    """What is told after each step.

    Attributes:
        step: Steps done.
        total: Steps to do.
        loss: Mean nats an answer token in this step's batch.
        tokens: Text tokens read so far, padding left out.
        seconds: Since training began.
    """

    step: int
    total: int
    loss: float
    tokens: int
    seconds: float


@dataclass
class Trained:
    """What training leaves beside the weights.

    Attributes:
        steps: Optimiser steps taken.
        chosen_step: Step whose weights were kept (the last, or the best on development data).
        learning_rate: Peak.
        tokens: Text tokens read.
        padded_tokens: Tokens computed, padding included.
        seconds: Wall time of the loop.
        curve: One ``{"step", "loss", "learning_rate"}`` a step.
        dev: One ``{"step", "score"}`` for each score on development data.
    """

    steps: int = 0
    chosen_step: int = 0
    learning_rate: float = 0.0
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    dev: list[dict[str, float]] = field(default_factory=list)


def rate(settings: TrainSettings, peak: float, step: int, total: int) -> float:
    """Learning rate of step ``step`` (from 0): linear warm-up, then decay to zero after the last step."""
    warm = min(settings.warmup_steps, total - 1)
    if step < warm:
        return peak * (step + 1) / warm
    left = (total - step) / max(1, total - warm)
    if settings.decay == "linear":
        return peak * left
    if settings.decay == "cosine":
        return peak * (1 + math.cos(math.pi * (1 - left))) / 2
    return peak


def train(
    method: Method,
    rows: Sequence[Row],
    settings: TrainSettings,
    seed: int = 0,
    dev_score: Callable[[], float] | None = None,
    tell: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train an attached method; its best (or last) weights are in place when this returns.

    Args:
        method: Attached to a model.
        rows: Tokenised source-language examples.
        settings: Steps, batch, learning rate, ...
        seed: Decides the order of the examples.
        dev_score: Score on source-language development data, higher is better; called every
            ``evaluate_every`` steps and at the end. The weights of the best score are kept, the
            earlier one on ties.
        tell: Called after each step.

    Raises:
        UserError: There is nothing to train on, or the loss is no longer a number.
    """
    if not rows:
        raise UserError("there are no training examples")
    peak = settings.learning_rate if settings.learning_rate is not None else method.default_rate
    assert peak is not None, "a method without parameters is not trained"
    total = settings.total_steps(len(rows))
    result = Trained(learning_rate=peak)
    best = _Best(method)
    batches = order(rows, settings.batch_size, seed, settings.by_length)
    parameters = method.parameters()
    optimiser = torch.optim.AdamW(parameters.values(), lr=peak, weight_decay=settings.weight_decay)
    began = time.perf_counter()
    with _training_mode(method, settings, seed):
        for step in range(1, total + 1):
            parts = split(next(batches), settings.tokens_per_pass)
            loss = _backward(method, parts, result)
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss became {loss} at step {step}; "
                    f"try a learning rate below {peak:g} or dtype: float32"
                )
            if settings.clip:
                torch.nn.utils.clip_grad_norm_(parameters.values(), settings.clip)
            now = rate(settings, peak, step - 1, total)
            for group in optimiser.param_groups:
                group["lr"] = now
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            method.after_step()
            result.steps = step
            result.curve.append({"step": step, "loss": loss, "learning_rate": now})
            if tell is not None:
                tell(Progress(step, total, loss, result.tokens, time.perf_counter() - began))
            every = settings.evaluate_every
            if dev_score is not None and every is not None and (step % every == 0 or step == total):
                with _paused(method):
                    score = dev_score()
                result.dev.append({"step": step, "score": score})
                best.see(step, score)
                if settings.patience is not None and best.since >= settings.patience:
                    break
    result.chosen_step = best.put_back() if result.dev else result.steps
    result.seconds = time.perf_counter() - began
    return result


def _backward(method: Method, parts: Sequence[list[Row]], result: Trained) -> float:
    """Gradients of one optimiser step, and its loss in nats an answer token."""
    lm = method.attached()
    answers = sum(row.answer for part in parts for row in part)
    trunk = 0 if lm.soft_prompt is None else len(lm.soft_prompt)
    summed = 0.0
    for part in parts:
        batch = collate(part, lm.pad_id, lm.device, lm.geometry.attention_balance, trunk)
        loss = answer_loss(lm, batch)
        (loss / answers).backward()
        method.after_backward()
        summed += float(loss.detach())
        result.tokens += sum(len(row.ids) - 1 for row in part)
        result.padded_tokens += batch.ids.numel()
    return summed / answers


class _Best:
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
            self.weights = {name: p.detach().clone() for name, p in self.method.parameters().items()}

    def put_back(self) -> int:
        """Set the method to them, and tell the step they are from."""
        with torch.no_grad():
            for name, parameter in self.method.parameters().items():
                parameter.copy_(self.weights[name])
        self.method.after_step()
        return self.step


@contextmanager
def _training_mode(method: Method, settings: TrainSettings, seed: int) -> Iterator[None]:
    """Training mode on, global randomness (dropout) seeded, checkpointing as set; all put back after."""
    model: Any = method.attached().model
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        model.train()
        if settings.gradient_checkpointing:
            _checkpointing(model, "enable", {"use_reentrant": False})
            # transformers makes the embeddings' output require gradients and leaves it so when checkpointing
            # is switched off: every layer below the lowest trained one would run backward for nothing.
            model.disable_input_require_grads()
        try:
            yield
        finally:
            if settings.gradient_checkpointing:
                _checkpointing(model, "disable")
            model.eval()


def _checkpointing(model: Any, verb: str, *args: object) -> None:
    """Switch checkpointing by the name that this transformers has for it (the second is the older)."""
    new = f"activation_checkpointing_{verb}"
    getattr(model, new if hasattr(model, new) else f"gradient_checkpointing_{verb}")(*args)


@contextmanager
def _paused(method: Method) -> Iterator[None]:
    """Evaluation mode in the middle of training, without disturbing dropout's random stream."""
    model = method.attached().model
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        model.eval()
        try:
            yield
        finally:
            model.train()
