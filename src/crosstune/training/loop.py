"""The training loop: the only one, for every method."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crosstune.errors import Diverged, UserError, first_line
from crosstune.methods.base import Method, Pass
from crosstune.models.attention.gpu_line import KERNEL, kernel_shape
from crosstune.models.fast.kernels import fused
from crosstune.models.fast.weights import Blocks, packed_weights
from crosstune.models.memory import measure as fitting
from crosstune.models.memory.machine import ran_out
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.decoding import vllm_engine
from crosstune.outputs.rows import TrainingRow
from crosstune.training import pairs, parallel
from crosstune.training.batches import order, padded_size, ready_parts, split
from crosstune.training.checkpoint import Checkpoint
from crosstune.training.objectives import answer_loss
from crosstune.training.optimizers import Optimizer
from crosstune.training.reuse import Reuse
from crosstune.training.settings import TrainSettings
from crosstune.training.sharding import sharded
from crosstune.training.state import Best, LoopState, Trained, random_state, set_random_state

if TYPE_CHECKING:
    from crosstune.models.fast.shards import Shards


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
    saved = parallel.from_the_first(None if checkpoint is None else checkpoint.load())
    if saved is not None and saved.facts["finished"]:
        method.set_parameters(saved.tensors)
        return Trained(**saved.facts["trained"])
    total = settings.total_steps(len(rows))
    phases = method.begin_training(total)
    passes = passes or TokenLimit(settings.tokens_per_pass, method.attached().device, "training")
    with ExitStack() as training:
        blocks = training.enter_context(_training_mode(method, settings, seed, passes.recomputed))
        shards = training.enter_context(sharded(method)) if settings.shard else None
        optimizer = training.enter_context(closing(Optimizer(method, settings, seed, shards)))
        state = LoopState(method, optimizer, Trained(learning_rate=peak), Best(method), shards)
        if saved is not None:
            state.take(saved)
        result, best, reuse = state.trained, state.best, None
        if settings.reuse_frozen_layers:
            with _paused(method):
                reuse = Reuse(method, rows[0], result.reuse)
        began = time.perf_counter() - result.seconds
        endless = order(rows, settings.batch_size, seed, settings.by_length)
        batches = itertools.islice(endless, result.steps, None)
        while result.steps < total and not (settings.patience and best.since >= settings.patience):
            step = result.steps + 1
            optimizer.begin(step, now := rate(settings, peak, *_in_phase(phases, step)))
            losses, tokens, padded = _gradients(
                method,
                next(batches),
                passes,
                optimizer,
                reuse,
                step,
                settings.gradient_checkpointing == "auto",
                shards,
            )
            optimizer.step()
            # Waits for a GPU, which has that step to do meanwhile.
            loss = _finite(losses(), step, peak)
            _move(method, optimizer, step, phases)
            result.add(step, tokens, padded)
            result.reuse = None if reuse is None else reuse.facts()
            result.curve.append({"step": step, "loss": loss, "learning_rate": now})
            if tell is not None:
                tell(Progress(step, total, loss, result.tokens, time.perf_counter() - began))
            every = settings.evaluate_every if step > total - phases[-1] else None
            if dev_score is not None and every is not None and (step % every == 0 or step == total):
                with _paused(method), (shards or blocks).away():
                    score = parallel.of_the_first(dev_score)
                result.dev.append({"step": step, "score": score})
                best.see(step, score)
            result.seconds = time.perf_counter() - began
            _save(checkpoint, step, total, state)
        result.chosen_step = best.put_back() if result.dev else result.steps
    result.seconds = time.perf_counter() - began
    if checkpoint is not None and parallel.rank() == 0:
        weights_now = {name: p.detach() for name, p in method.parameters().items()}
        checkpoint.save(result.steps, weights_now, {"finished": True, "trained": asdict(result)})
    return result


def _finite(loss: float, step: int, peak: float) -> float:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss became {loss} at step {step}; try a learning rate below {peak:g} or dtype: float32"
        )
    return loss


def _save(checkpoint: Checkpoint | None, step: int, total: int, state: LoopState) -> None:
    """Write a checkpoint if it is time; the first process alone, of what all of them gather."""
    due = step < total and checkpoint is not None and parallel.rank() == 0 and checkpoint.due()
    if due if state.shards is None else parallel.most(due, state.method.attached().device):
        tensors = state.tensors()
        if checkpoint is not None and due:
            checkpoint.save(step, tensors, state.facts() | {"finished": False})


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
    optimizer: Optimizer,
    reuse: Reuse | None = None,
    step: int = 1,
    auto: bool = False,
    shards: "Shards | None" = None,
) -> tuple[Callable[[], float], int, int]:
    """Gradients of one optimiser step, in smaller parts where memory runs out.

    Returns what gives the loss in nats an answer token, and the tokens read, without and with padding.
    """
    device = method.attached().device
    before = random_state()
    # Of several processes, gradients are whole when all are summed.
    applied = optimizer if parallel.processes() == 1 else None
    counted = (0, 0) if reuse is None else (reuse.read, reuse.from_cache)

    def undo() -> None:
        # Parts that went through before the failed one must not count twice.
        for parameter in (*method.parameters().values(), *method.attached().model.parameters()):
            parameter.grad = None
        set_random_state(before)
        if reuse is not None:
            reuse.give_way(counted)

    def work() -> tuple[Callable[[], float], int, int]:
        try:
            return _backward(method, batch, passes, reuse, step, applied)
        except Exception as error:
            if optimizer.begun:
                raise UserError(
                    f"training stopped while step {step} moved weights inside its backward pass "
                    f"({first_line(error)}); lower train.tokens_per_pass, or set train.clip"
                ) from error
            if ran_out(error) or not KERNEL.distrust(kernel_shape(method.attached()), error, passes.say):
                raise
        # Once more on padded lines: what they do not mend is an error of its own.
        undo()
        return _backward(method, batch, passes, reuse, step, applied)

    # Of pairs a part is no batch of its own, and nothing could be told from it.
    alone, own = shards is None and batch[0].pair is None, parallel.share(batch)
    if not passes.measured and alone and own and fitting.measures(method.attached()):
        _fit(method, own, passes, undo, optimizer.to_come, reuse, auto)
    if shards is None:
        done = parallel.in_all(partial(passes.attempt, work, undo), undo, device)
    else:
        done = _together(method, batch, passes, step)
    if parallel.processes() == 1:
        return done
    rows = {} if shards is None else shards.collect()
    parallel.sum_gradients(p for name, p in method.parameters().items() if name not in rows)
    loss, padded = parallel.summed((done[0](), done[2]), device)
    return lambda: loss, done[1], round(padded)


def _together(
    method: Method, batch: Sequence[TrainingRow], passes: TokenLimit, step: int
) -> tuple[Callable[[], float], int, int]:
    """Gradients with sharded weights: all processes gather them together, so all make as many passes.

    Raises:
        SystemExit: Whatever fails here, memory too: the other processes wait for this one until it ends.
    """
    lm, share = method.attached(), parallel.share(batch)
    try:
        own = len(split(share, passes.limit))
        most = parallel.most(own, lm.device)
        done = _backward(method, batch, passes, None, step)
        for _ in range(most - own):
            for part in ready_parts(lm, batch[:1], passes):
                (answer_loss(lm, part) * 0.0).backward()
                method.after_backward()
    except Exception as error:
        raise SystemExit(
            f"training with train.shard stopped at step {step}: {first_line(error)}; where memory ran out, "
            "lower train.tokens_per_pass; the same command resumes"
        ) from error
    return done


def _fit(
    method: Method,
    batch: Sequence[TrainingRow],
    passes: TokenLimit,
    undo: Callable[[], None],
    later: int,
    reuse: Reuse | None,
    auto: bool,
) -> None:
    """Lower the limit to what two parts of a batch tell of the memory; ``auto`` first recomputes layers.

    Of several processes, ``batch`` is what this one computes.
    """
    lm = method.attached()

    def trial(tokens: int) -> fitting.Trial:
        # The last part holds the longest rows.
        part = split(batch, tokens)[-1]
        size = padded_size(part)
        try:
            work = partial(_backward, method, part, passes, reuse, own=part)
            return fitting.Trial(size, fitting.peak(lm.device, work))
        finally:
            undo()

    def save(need: fitting.Need, room: float) -> fitting.Need:
        # All layers that gradients reach but the top one, which computes the answers' rows alone.
        most = lm.geometry.layers - 1 - method.lowest_layer
        if most < 1 or need.of(tokens) <= room:
            return need
        kept = lm.geometry.hidden * lm.dtype.itemsize
        saved = max(1.0, need.per_token / (most + 1) - kept)
        passes.recomputed = min(most, math.ceil((need.of(tokens) - room) / (saved * tokens)))
        _recompute(method, passes.recomputed)
        passes.say(f"  activations of {passes.recomputed} of {lm.geometry.layers} layers are recomputed")
        return fitting.Need(need.fixed, need.per_token - passes.recomputed * saved)

    tokens = min(padded_size(batch), passes.limit)
    fitting.fit(passes, tokens, trial, lm.device, later, save if auto else None)


def _recompute(method: Method, layers: int) -> None:
    """Recompute the activations of so many of the lowest layers that gradients reach, and of no others."""
    lowest = method.lowest_layer
    for i, layer in enumerate(method.attached().layers):
        layer.gradient_checkpointing = lowest <= i < lowest + layers


def _move(method: Method, optimizer: Optimizer, step: int, phases: Sequence[int]) -> None:
    """What a method does behind a step; gradients are gone after it, and behind a phase the moments."""
    method.with_gradients(step)
    optimizer.let_go()
    method.after_step()
    if step in itertools.accumulate(phases[:-1]):
        method.next_phase()
        optimizer.forget()


def _backward(
    method: Method,
    batch: Sequence[TrainingRow],
    passes: TokenLimit,
    reuse: Reuse | None = None,
    step: int = 1,
    optimizer: Optimizer | None = None,
    own: Sequence[TrainingRow] | None = None,
) -> tuple[Callable[[], float], int, int]:
    """Gradients of a batch, part by part; in the last, ``optimizer`` may apply them as they arise.

    ``own`` are those of its examples that this process computes, by default its `parallel.share`. Nothing
    here waits for a GPU but what is put on it, before each forward.
    """
    own = parallel.share(batch) if own is None else own
    if batch[0].pair is not None:
        return pairs.backward(method, batch, passes, reuse, step)
    lm = method.attached()
    answers, texts = sum(row.learned for row in batch), sum(len(row.text) for row in batch)
    losses: list[Tensor] = []
    padded = 0
    for part in ready_parts(lm, own, passes, reuse):
        tokens = torch.tensor(list(itertools.chain(*part.tokens)), device=part.ids.device)
        read = Pass(step, len(tokens) / texts, tokens, *part.ids.shape)
        loss = answer_loss(lm, part)
        with optimizer.last_part() if optimizer is not None and part.last else nullcontext():
            method.objective(loss / answers, read).backward()
        method.after_backward()
        losses.append(loss.detach())
        padded += part.computed
    texts += sum(len(row.source) for row in batch)
    return lambda: sum(x.item() for x in losses) / answers, texts, padded


@contextmanager
def _training_mode(
    method: Method, settings: TrainSettings, seed: int, recomputed: int = 0
) -> Iterator[Blocks]:
    """Training mode on, global randomness (dropout) seeded, checkpointing as set; all put back after."""
    model: Any = method.attached().model
    lm = method.attached()
    vllm_engine.free(lm)
    with fused(lm), torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        model.train()
        if settings.gradient_checkpointing:
            _checkpointing(model, "enable", {"use_reentrant": False})
            # transformers makes the embeddings' output require gradients and leaves it so when checkpointing
            # is switched off: every layer below the lowest trained one would run backward for nothing.
            model.disable_input_require_grads()
            if settings.gradient_checkpointing == "auto":
                _recompute(method, recomputed)
        try:
            # Blocks hold whole weights.
            with nullcontext(Blocks(lm, True)) if settings.shard else packed_weights(lm, True) as blocks:
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
