"""Records a decoding step as a CUDA graph and replays it.

A step for a few rows is thousands of small kernels, which a GPU finishes faster than Python can launch them.
A graph launches them all at once, but only with fixed shapes and addresses. So the step runs with fixed
numbers of rows and columns, the next powers of two: unused rows write and read their own first column, and
columns after a text are masked.

A recording repeats whatever Python did while it was made, so it is verified step by step. The first step of a
shape is plain: a shape that never comes back is not worth recording. The second is rehearsed while PyTorch
forbids everything that synchronises with the GPU, which a graph cannot contain; then it is recorded and
compared. At the third it is compared again on other numbers, which detects a recording that repeats one of
its own numbers. If anything fails, all further steps of this model are plain, and one line is logged.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from crosstune.models.attention.cache import DecodingCache, OwnCaches
from crosstune.models.proof import FastWay, Note
from crosstune.models.protocol import Model

# Fewer columns than this are not worth a graph of their own.
COLUMNS = 128
RECORDED = FastWay(
    fast="recorded",
    plain="decoding steps are plain: the same answers, more slowly",
    tolerance=0.02,
    because="the same kernels in 16 bits, which may add in another order",
    part="graphs",
)


def stepper(
    lm: Model, slots: DecodingCache | OwnCaches, note: Note | None = None
) -> Callable[[Tensor], Tensor]:
    """What reads one more token of each text: `LanguageModel.step`, or on one GPU its recorded form.

    ``note`` logs one line if steps cannot be recorded.
    """
    # Left on, and not failed with this model before.
    usable = lm.device.type == "cuda" and not lm.quantized and RECORDED.trusted(ref(lm.model), lambda: ())
    if usable and not isinstance(slots, OwnCaches):
        places = {lm.layer_device(i) for i in range(lm.geometry.layers)} | {lm.device}
        if len(places) == 1:
            return FixedStep(lm, slots, CudaRecorder(lm.device), note)
    return lambda ids: lm.step(ids, slots)


class FixedStep:
    """`LanguageModel.step` over fixed shapes of a model on one device, recorded if there is a recorder.

    Attributes:
        recorded: Shapes (rows, columns) that are replayed, and whether they have proved right twice.
    """

    def __init__(
        self,
        lm: Model,
        slots: DecodingCache,
        recorder: "CudaRecorder | None" = None,
        note: Note | None = None,
    ) -> None:
        self._lm, self._slots, self._recorder, self._note = lm, slots, recorder, note
        self._ids = torch.zeros(slots.rows, dtype=torch.long, device=lm.device)
        self._lengths = torch.zeros_like(self._ids)
        self._seen: set[tuple[int, int]] = set()
        self._replays: dict[tuple[int, int], Callable[[], Tensor]] = {}
        self.recorded: dict[tuple[int, int], bool] = {}

    def __call__(self, ids: Tensor) -> Tensor:
        """Read ``[live]`` token ids; ``[live, hidden]``, after the final norm."""
        slots = self._slots
        live = len(ids)
        self._ids[:live] = ids
        self._lengths.copy_(torch.tensor(slots.lengths + [0] * (slots.rows - live)))
        rows = _power(live, 1, slots.rows)
        columns = _power(max(slots.lengths) + 1, COLUMNS, slots.columns)
        # A copy: what a replay gives is overwritten by the next.
        hidden = self._read((rows, columns), live).clone()
        slots.end()
        return hidden

    def _compute(self, rows: int, columns: int) -> Tensor:
        lengths = self._lengths[:rows]
        self._slots.fix(lengths, columns)
        return self._lm.read_next(self._ids[:rows], lengths, self._slots)

    def _read(self, shape: tuple[int, int], live: int) -> Tensor:
        """Hidden states of the live rows. Repeating a step writes the same keys to the same places."""
        work = partial(self._compute, *shape)
        if self._recorder is None:
            return work()[:live]
        if shape not in self._seen:
            self._seen.add(shape)
            return work()[:live]
        if self.recorded.get(shape):
            return self._replays[shape]()[:live]
        return self._prove(shape, work, live, self._recorder)

    def _prove(
        self, shape: tuple[int, int], work: Callable[[], Tensor], live: int, recorder: "CudaRecorder"
    ) -> Tensor:
        """The computed step, compared with its recording, which is made first if it does not exist."""
        steps: list[Tensor] = []

        def compare() -> Iterator[tuple[Tensor, Tensor]]:
            if shape in self._replays:
                steps.append(work())
            else:
                steps.append(recorder.rehearse(work))
                self._replays[shape] = recorder.record(work)
            yield self._replays[shape]()[:live], steps[0][:live]

        # An error may be memory that ran out: a plain step needs less, and says so if that is too much.
        why = RECORDED.fault(compare)
        if not why:
            self.recorded[shape] = shape in self.recorded
            return steps[0][:live]
        self._give_up(why)
        return work()[:live]

    def _give_up(self, why: str) -> None:
        self._recorder = None
        self._replays.clear()
        self.recorded.clear()
        if self._lm.device.type == "cuda":
            torch.cuda.empty_cache()
        RECORDED.verdicts[ref(self._lm.model)] = why
        RECORDED.tell(why, self._note)


class CudaRecorder:
    """Records CUDA graphs on one GPU, with all that is computed on it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            # Rehearsed and recorded on one stream of its own: libraries set up their memory per stream.
            self._aside = torch.cuda.Stream()
        # One pool for all graphs. They run one at a time and what one leaves is copied before the next, so it
        # does no harm that they use the same memory.
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


def _power(count: int, least: int, most: int) -> int:
    """The next power of two, within bounds."""
    return min(most, max(least, 1 << (count - 1).bit_length()))
