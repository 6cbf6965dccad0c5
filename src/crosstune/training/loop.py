"""The training loop: the only one, for every method."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from crosstune.errors import Diverged, UserError
from crosstune.methods.base import Method, Pass
from crosstune.models.attention.gpu_line import KERNEL, kernel_shape
from crosstune.models.fast.norms import fused_parts
from crosstune.models.fast.weights import Blocks, packed_weights
from crosstune.models.memory import measure as fitting
from crosstune.models.memory.machine import ran_out
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import TrainingRow
from crosstune.training import pairs
from crosstune.training.batches import order, padded_size, ready_parts, split
from crosstune.training.checkpoint import Checkpoint
from crosstune.training.objectives import answer_loss
from crosstune.training.reuse import Reuse
from crosstune.training.settings import TrainSettings
from crosstune.training.state import Best, LoopState, Trained, random_state, set_random_state


@dataclass(frozen=True, slots=True)
class Progress:
    """What is told after each step."""

    step: int  # steps done
    total: int  # steps to do
    loss: float  # mean nats an answer token in this step's batch
    tokens: int  # text tokens read so far, padding left out
    seconds: float  # since training began


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
    rows: Sequence[TrainingRow],
    settings: TrainSettings,
    seed: int = 0,
    dev_score: Callable[[], float] | None = None,
    tell: Callable[[Progress], None] | None = None,
    passes: TokenLimit | None = None,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train an attached method; its best (or last) weights are in place when this returns.

    Args:
        method: Attached to a model.
        rows: Tokenised source-language examples.
        settings: Steps, batch, learning rate, ...
        seed: Decides the order of the examples.
        dev_score: On source-language development data, higher is better; called every ``evaluate_every``
            steps and at the end. The weights of the best score are kept, the earlier one on ties.
        tell: Called after each step.
        passes: Limits the tokens of a pass; lowered when memory runs out. Made from the settings by default.
        checkpoint: From which a stopped training resumes, to the same bits.

    Raises:
        UserError: No examples, a loss that is not finite, or one example that does not fit into memory.
    """
    if not rows:
        raise UserError("there are no training examples")
    peak = settings.learning_rate if settings.learning_rate is not None else method.default_rate
    assert peak is not None, "a method without parameters is not trained"
    saved = None if checkpoint is None else checkpoint.load()
    if saved is not None and saved.facts["finished"]:
        method.set_parameters(saved.tensors)
        return Trained(**saved.facts["trained"])
    total = settings.total_steps(len(rows))
    phases = method.begin_training(total)
    optimiser = torch.optim.AdamW(_groups(method), lr=peak, weight_decay=settings.weight_decay)
    state = LoopState(method, optimiser, Trained(learning_rate=peak), Best(method))
    passes = passes or TokenLimit(settings.tokens_per_pass, method.attached().device, "training")
    with _training_mode(method, settings, seed) as blocks:
        if saved is not None:
            state.take(saved)
        result, best, reuse = state.trained, state.best, None
        if settings.reuse_frozen_layers:
            with _paused(method):
                reuse = Reuse(method, rows[0], result.reuse)
        began = time.perf_counter() - result.seconds
        batches = order(rows, settings.batch_size, seed, settings.by_length)
        batches = itertools.islice(batches, result.steps, None)
        while result.steps < total and not (settings.patience and best.since >= settings.patience):
            step = result.steps + 1
            loss, tokens, padded = _gradients(method, next(batches), passes, reuse, step)
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss became {loss} at step {step}; "
                    f"try a learning rate below {peak:g} or dtype: float32"
                )
            now = rate(settings, peak, *_in_phase(phases, step))
            _move(method, optimiser, step, now, settings.clip, phases)
            result.steps, result.tokens = step, result.tokens + tokens
            result.padded_tokens += padded
            result.reuse = None if reuse is None else reuse.facts()
            result.curve.append({"step": step, "loss": loss, "learning_rate": now})
            if tell is not None:
                tell(Progress(step, total, loss, result.tokens, time.perf_counter() - began))
            every = settings.evaluate_every if step > total - phases[-1] else None
            if dev_score is not None and every is not None and (step % every == 0 or step == total):
                with _paused(method), blocks.away():
                    score = dev_score()
                result.dev.append({"step": step, "score": score})
                best.see(step, score)
            result.seconds = time.perf_counter() - began
            if checkpoint is not None and step < total and checkpoint.due():
                checkpoint.save(step, state.tensors(), state.facts() | {"finished": False})
    result.chosen_step = best.put_back() if result.dev else result.steps
    result.seconds = time.perf_counter() - began
    if checkpoint is not None:
        weights_now = {name: p.detach() for name, p in method.parameters().items()}
        checkpoint.save(result.steps, weights_now, {"finished": True, "trained": asdict(result)})
    return result


def _in_phase(phases: Sequence[int], step: int) -> tuple[int, int]:
    """A step (from 1) counted in its phase (from 0), and the steps of that."""
    for steps in phases:
        if step <= steps:
            break
        step -= steps
    return step - 1, steps


def _gradients(
    method: Method,
    batch: Sequence[TrainingRow],
    passes: TokenLimit,
    reuse: Reuse | None = None,
    step: int = 1,
) -> tuple[float, int, int]:
    """Gradients of one optimiser step, in smaller parts where memory runs out.

    Returns the loss in nats an answer token, and the tokens read, without and with padding.
    """
    before = random_state()
    counted = (0, 0) if reuse is None else (reuse.read, reuse.from_cache)

    def undo() -> None:
        # Parts that went through before the failed one must not count twice.
        for parameter in (*method.parameters().values(), *method.attached().model.parameters()):
            parameter.grad = None
        set_random_state(before)
        if reuse is not None:
            reuse.give_way(counted)

    def work() -> tuple[float, int, int]:
        try:
            return _backward(method, batch, passes, reuse, step)
        except Exception as error:
            if ran_out(error) or not KERNEL.distrust(kernel_shape(method.attached()), error, passes.say):
                raise
        # Once more on padded lines: what they do not mend is an error of its own.
        undo()
        return _backward(method, batch, passes, reuse, step)

    # Of pairs a part is no batch of its own, and nothing could be told from it.
    if not passes.measured and batch[0].pair is None and fitting.measures(method.attached()):
        _fit(method, batch, passes, undo, reuse)
    while (done := passes.attempt(work, undo)) is None:
        pass
    return done


def _fit(
    method: Method,
    batch: Sequence[TrainingRow],
    passes: TokenLimit,
    undo: Callable[[], None],
    reuse: Reuse | None,
) -> None:
    """Lower the limit to what two parts of a batch tell of the memory."""
    lm = method.attached()

    def trial(tokens: int) -> fitting.Trial:
        # The last part holds the longest rows.
        part = split(batch, tokens)[-1]
        size = padded_size(part)
        try:
            work = partial(_backward, method, part, passes, reuse)
            return fitting.Trial(size, fitting.peak(lm.device, work))
        finally:
            undo()

    # AdamW's two moments come with the first step.
    moments = 8 * sum(parameter.numel() for parameter in method.parameters().values())
    tokens = padded_size(batch)
    fitting.fit(passes, tokens, trial, lm.device, moments)


def _groups(method: Method) -> list[dict[str, Any]]:
    """The parameters in their order, neighbours of one learning rate together."""
    factors = method.rate_factors()
    runs = itertools.groupby(method.parameters().items(), lambda item: factors.get(item[0], 1.0))
    return [{"params": [p for _, p in run], "factor": factor} for factor, run in runs]


def _move(
    method: Method,
    optimiser: torch.optim.Optimizer,
    step: int,
    rate: float,
    clip: float,
    phases: Sequence[int],
) -> None:
    """One step of the optimiser; gradients are gone after it, and behind a phase its moments."""
    if clip:
        torch.nn.utils.clip_grad_norm_(method.parameters().values(), clip)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    optimiser.step()
    method.with_gradients(step)
    optimiser.zero_grad(set_to_none=True)
    method.after_step()
    if step in itertools.accumulate(phases[:-1]):
        method.next_phase()
        optimiser.state.clear()


def _backward(
    method: Method,
    batch: Sequence[TrainingRow],
    passes: TokenLimit,
    reuse: Reuse | None = None,
    step: int = 1,
) -> tuple[float, int, int]:
    """Gradients of a batch, part by part."""
    if batch[0].pair is not None:
        return pairs.backward(method, batch, passes, reuse, step)
    lm = method.attached()
    answers, texts = sum(row.learned for row in batch), sum(len(row.text) for row in batch)
    summed, padded = 0.0, 0
    for part in ready_parts(lm, batch, passes, reuse):
        loss = answer_loss(lm, part)
        tokens = torch.tensor(list(itertools.chain(*part.tokens)), device=part.ids.device)
        read = Pass(step, len(tokens) / texts, tokens, *part.ids.shape)
        method.objective(loss / answers, read).backward()
        method.after_backward()
        summed += float(loss.detach())
        padded += part.computed
    return summed / answers, texts + sum(len(row.source) for row in batch), padded


@contextmanager
def _training_mode(method: Method, settings: TrainSettings, seed: int) -> Iterator[Blocks]:
    """Training mode on, global randomness (dropout) seeded, checkpointing as set; all put back after."""
    model: Any = method.attached().model
    method.attached().steps = None  # recorded steps of writing give their memory back
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        model.train()
        if settings.gradient_checkpointing:
            _checkpointing(model, "enable", {"use_reentrant": False})
            # transformers makes the embeddings' output require gradients and leaves it so when checkpointing
            # is switched off: every layer below the lowest trained one would run backward for nothing.
            model.disable_input_require_grads()
        try:
            # A GPU's time goes elsewhere, and its kernels differ in rounding.
            fused = fused_parts(model) if model.device.type == "cpu" else nullcontext()
            with fused, packed_weights(method.attached(), training=True) as blocks:
                yield blocks
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
            method.attached().steps = None
            model.train()
