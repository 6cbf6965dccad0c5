"""Steps of writing: the token behind each text's last is read and the next one chosen, on the model's device.

On a GPU a step for a few rows is thousands of small kernels, which it finishes faster than Python can launch
them. A CUDA graph launches them all at once, but only with fixed shapes and addresses. So a step has one of a
few numbers of rows and columns (`DecodingCache.shape`), its state and its cache stay where they are, and the
output layer, the choice of the token, the stop tests and the lengths are part of it: nothing comes from the
host. What was chosen is fetched while the next step already runs (`fetch`).

Recordings and their cache are kept with the model, for all that it writes later. A recording repeats whatever
Python did while it was made, so it is verified step by step. The first step of a shape is plain: a shape that
never comes back is not worth recording. The second is rehearsed while PyTorch forbids everything that
synchronises with the GPU, which a graph cannot contain; then it is recorded and compared. At the third it is
compared again on other numbers, which detects a recording that repeats one of its own numbers. And whenever
the model starts to write, the first step that would be replayed is plain once more, and its operations,
numbers and addresses are compared with those it was recorded from: another method, merged weights or a part
that is switched off make other ones, and everything is recorded anew. If anything fails, all further steps of
this model are plain, and one line is logged; where compiled kernels are part of its steps
(`crosstune.models.fast.kernels`), recordings are tried without them first.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crosstune.models.attention.cache import IDS, LEFT, DecodingCache, OwnCaches
from crosstune.models.fast import kernels
from crosstune.models.proof import FastWay, Note
from crosstune.models.protocol import Model

RECORDED = FastWay(
    fast="recorded",
    plain="decoding steps are plain: the same answers, more slowly",
    tolerance=0.02,
    because="the same kernels in 16 bits, which may add in another order",
    part="graphs",
)


def stepper(lm: Model, slots: DecodingCache | OwnCaches, note: Note | None = None) -> "Steps":
    """Steps over such slots: of a model on one GPU recorded, in the memory that it has kept if that suffices.

    ``note`` logs one line if steps cannot be recorded.
    """
    # Left on, and not failed with this model before.
    usable = lm.device.type == "cuda" and not lm.quantized and RECORDED.trusted(ref(lm.model), lambda: ())
    if usable and not isinstance(slots, OwnCaches):
        places = {lm.layer_device(i) for i in range(lm.geometry.layers)} | {lm.device}
        if len(places) == 1:
            return kept(lm, slots, CudaRecorder, note)
    return Steps(lm, slots)


def kept(
    lm: Model, slots: DecodingCache, recorder: "Callable[[torch.device], CudaRecorder]", note: Note | None
) -> "Steps":
    """The steps that the model has kept, if their memory holds as many and as long texts; else new ones."""
    steps: Steps | None = lm.steps
    if steps is None or not steps.slots.fit(slots.rows, slots.columns):
        lm.steps = None  # its memory goes before there is more
        lm.steps = steps = Steps(lm, slots, recorder(lm.device), note)
    steps.begin()
    return steps


class Steps:
    """Steps over the rows of a cache, recorded if there is a recorder.

    Attributes:
        slots: The cache.
        recorded: Shapes that are replayed, and whether they have proved right twice.
        late: How many steps may be under way before the tokens of the first are looked at.
    """

    def __init__(
        self,
        lm: Model,
        slots: Any,
        recorder: "CudaRecorder | None" = None,
        note: Note | None = None,
    ) -> None:
        self._lm, self.slots, self._recorder, self._note = ref(lm), slots, recorder, note
        self.late = int(lm.device.type == "cuda")
        self._stops = torch.tensor(sorted(lm.stop_ids), dtype=torch.long, device=lm.device)
        self._traces: dict[tuple[int, ...], list[Any]] = {}
        self._replays: dict[tuple[int, ...], Callable[[], Tensor]] = {}
        self.recorded: dict[tuple[int, ...], bool] = {}
        # How the model is read: where compiled kernels failed in a recording, without them.
        self._read: Callable[[], AbstractContextManager[None]] = nullcontext
        self._unsure: set[tuple[int, ...]] = set()  # shapes of which it may not be the same any more

    def begin(self) -> None:
        """The model starts to write."""
        self._unsure = set(self._traces)

    def start(self, rows: list[int], hidden: Tensor, tokens: int) -> Tensor:
        """First tokens of texts whose prompts were read into some rows, ``[texts]``.

        ``hidden`` ``[texts, hidden]`` are the states behind their prompts; ``tokens`` may be written.
        """
        state, index = self.slots.state, torch.tensor(rows, device=self.slots.state.device)
        best = self._model.best(hidden)
        part = state[:, index]
        part[LEFT] = tokens
        self._choose(part, best)
        state[:, index] = part
        return best

    def __call__(self) -> Tensor:
        """Read each row's newest token; the next ones, ``[rows]``, which the next step overwrites."""
        slots: DecodingCache | OwnCaches = self.slots
        if isinstance(slots, OwnCaches):
            state = slots.state
            self._choose(state, self._model.best(self._model.step(state[IDS], slots)))
            return state[IDS]
        self._step(slots.shape)
        slots.end()
        return slots.state[IDS, : slots.extent]

    @property
    def _model(self) -> Model:
        lm = self._lm()
        assert lm is not None
        return lm

    def _choose(self, state: Tensor, best: Tensor) -> None:
        """Note the tokens chosen, and how many may follow: none behind one that ends a text."""
        ended = (best[:, None] == self._stops).any(1)
        state[LEFT] = (state[LEFT] - 1).clamp(min=0).masked_fill(ended, 0)
        state[IDS] = best

    def _compute(self, shape: tuple[int, ...]) -> Tensor:
        """States ``[rows, hidden]`` that tokens were chosen from; a text that has ended stays as it is."""
        lm, state = self._model, self.slots.state[:, : shape[0]]
        lengths = self.slots.begin(shape)
        with self._read():
            hidden = lm.read_next(state[IDS], lengths, self.slots)
        lengths += state[LEFT] > 0
        self._choose(state, lm.best(hidden))
        return hidden

    def _step(self, shape: tuple[int, ...]) -> None:
        work = partial(self._compute, shape)
        if self._recorder is None:
            work()
        elif shape not in self._traces or shape in self._unsure:
            self._look(shape, work)
        elif self.recorded.get(shape):
            self._replays[shape]()
        else:
            self._prove(shape, work, self._recorder)

    def _look(self, shape: tuple[int, ...], work: Callable[[], Tensor]) -> None:
        """A plain step, and what it is made of: the same as when it was recorded, or all is forgotten."""
        with kernels.operation_by_operation(), Trace() as trace:
            work()
        if shape in self._unsure:
            if trace.calls != self._traces[shape]:
                self._forget()
            self._unsure.clear()
        self._traces[shape] = trace.calls

    def _prove(self, shape: tuple[int, ...], work: Callable[[], Tensor], recorder: "CudaRecorder") -> None:
        """A computed step, compared with its recording, which is made first if it does not exist."""
        state, extent = self.slots.state, self.slots.extent
        before = state.clone()
        compiles = self._read is nullcontext and kernels.in_use(self._model.model)

        def compare() -> Iterator[tuple[Tensor, Tensor]]:
            # Repeating a step writes the same keys to the same places; its state is put back.
            if shape not in self._replays:
                work()  # what is compiled is compiled here: a rehearsal must not wait for anything
                state.copy_(before)
            plain = work() if shape in self._replays else recorder.rehearse(work)
            after = state.clone()
            state.copy_(before)
            if shape not in self._replays:
                self._replays[shape] = recorder.record(work)
                state.copy_(before)
            fast = self._replays[shape]()
            state.copy_(after)
            yield fast[:extent], plain[:extent]

        # An error may be memory that ran out: a plain step needs less, and says so if that is too much.
        why = RECORDED.fault(compare)
        if not why:
            self.recorded[shape] = shape in self.recorded
            return
        self._forget()
        if compiles:
            self._read = kernels.operation_by_operation
            kernels.COMPILED.tell(f"in a recorded step: {why}", self._note)
        else:
            self._recorder = None
            self._model.steps = None
            RECORDED.verdicts[ref(self._model.model)] = why
            RECORDED.tell(why, self._note)
        state.copy_(before)
        work()

    def _forget(self) -> None:
        for store in (self._replays, self._traces, self.recorded):
            store.clear()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()


def fetch(tokens: Tensor) -> Callable[[], list[int]]:
    """Tokens on their way to the host; the function waits for them."""
    if tokens.device.type != "cuda":
        numbers: list[int] = tokens.tolist()
        return lambda: numbers
    with torch.cuda.device(tokens.device):
        on_host, copied = tokens.to("cpu", non_blocking=True), torch.cuda.Event()
        copied.record()

    def wait() -> list[int]:
        copied.synchronize()
        numbers: list[int] = on_host.tolist()
        return numbers

    return wait


class Trace(TorchDispatchMode):
    """What some work is made of: operations, numbers, and addresses of tensors that were there before it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Any] = []
        self._results: set[int] = set()  # addresses of what its operations have made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operation."""
        inputs = tree_leaves((args, kwargs or {}))
        taken = {x.untyped_storage().data_ptr() for x in inputs if isinstance(x, Tensor)}
        self.calls.append((str(func), *map(self._name, inputs)))
        out = func(*args, **(kwargs or {}))
        results = {x.untyped_storage().data_ptr() for x in tree_leaves(out) if isinstance(x, Tensor)}
        self._results |= results - taken
        return out

    def _name(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return str(x)
        is_result = x.untyped_storage().data_ptr() in self._results
        return (tuple(x.shape), x.stride(), None if is_result else x.data_ptr())


class CudaRecorder:
    """Records CUDA graphs on one GPU, with all that is computed on it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            # Rehearsed and recorded on one stream of its own: libraries set up their memory per stream.
            self._aside = torch.cuda.Stream()
        # One pool for all graphs. They run one at a time and what one leaves is not used behind the next, so
        # it does no harm that they use the same memory.
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, work: Callable[[], Tensor]) -> Tensor:
        """Run the work on the recorder's stream, and refuse everything that synchronises with the GPU."""
        before = torch.cuda.get_sync_debug_mode()
        with torch.cuda.device(self._device):
            self._aside.wait_stream(torch.cuda.current_stream())
            with warnings.catch_warnings():  # PyTorch says that this mode is a prototype, once
                warnings.simplefilter("ignore", UserWarning)
                torch.cuda.set_sync_debug_mode("error")
            try:
                with torch.cuda.stream(self._aside):
                    done = work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
                torch.cuda.current_stream().wait_stream(self._aside)
        # Read by the other stream from now on: its memory must not be given away under it.
        done.record_stream(torch.cuda.current_stream(self._device))
        return done

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Record the work on the recorder's stream. Each replay writes its result to the same tensor."""
        graph: Any = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._device),
            # Other threads may use the GPU meanwhile.
            torch.cuda.graph(graph, pool=self._pool, stream=self._aside, capture_error_mode="thread_local"),
        ):
            out = work()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
