"""A decoding step recorded as a CUDA graph, and replayed.

A step of a few rows is thousands of small kernels, which a GPU finishes sooner than Python can start them. A
graph starts them all at once, but always with the same shapes and addresses. So the step is done over a fixed
number of rows and columns, the next powers of two: rows that hold no text write and read their own first
column, columns behind a text are masked.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from crosstune.models.decoding import Slots
from crosstune.models.language_model import LanguageModel

# Fewer columns than this are not worth a graph of their own.
COLUMNS = 128


def stepper(lm: LanguageModel, slots: Slots) -> Callable[[Tensor], Tensor]:
    """What reads one more token of each text: `LanguageModel.step`, or on one GPU its recorded form."""
    if lm.device.type == "cuda" and not lm.quantized:
        places = {lm.layer_device(i) for i in range(lm.geometry.layers)} | {lm.device}
        if len(places) == 1:
            return FixedStep(lm, slots)
    return lambda ids: lm.step(ids, slots)


class FixedStep:
    """`LanguageModel.step` over fixed shapes, recorded where there is a GPU.

    Args:
        lm: The model, on one device.
        slots: The texts being written.
    """

    def __init__(self, lm: LanguageModel, slots: Slots) -> None:
        self._lm, self._slots = lm, slots
        self._ids = torch.zeros(slots.rows, dtype=torch.long, device=lm.device)
        self._lengths = torch.zeros_like(self._ids)
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._record = lm.device.type == "cuda"
        # One pool for all graphs: what one leaves there is copied before another runs.
        self._pool = torch.cuda.graph_pool_handle() if self._record else None

    def __call__(self, ids: Tensor) -> Tensor:
        """Read ``[live]`` token ids; ``[live, hidden]``, after the final norm."""
        slots = self._slots
        live = len(ids)
        self._ids[:live] = ids
        self._lengths.copy_(torch.tensor(slots.lengths + [0] * (slots.rows - live)))
        rows = _power(live, 1, slots.rows)
        columns = _power(max(slots.lengths) + 1, COLUMNS, slots.columns)
        hidden = self._replay(rows, columns)[:live].clone()
        slots.end()
        return hidden

    def _compute(self, rows: int, columns: int) -> Tensor:
        lengths = self._lengths[:rows]
        self._slots.fix(lengths, columns)
        return self._lm.read_next(self._ids[:rows], lengths, self._slots)

    def _replay(self, rows: int, columns: int) -> Tensor:
        if self._record and (rows, columns) not in self._graphs:
            return self._first(rows, columns)
        if not self._record:
            return self._compute(rows, columns)
        graph, out = self._graphs[rows, columns]
        graph.replay()
        return out

    def _first(self, rows: int, columns: int) -> Tensor:
        """A step of a new shape, done and recorded; a graph that gives anything else is not used.

        Doing a step twice writes the same keys and values to the same places.
        """
        with torch.cuda.device(self._lm.device):
            # On another stream, as PyTorch asks for: libraries set themselves up outside of the graph.
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                first = self._compute(rows, columns)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool):
                    out = self._compute(rows, columns)
                graph.replay()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                # Some architectures look at numbers on the way (rotary scaling by length): no graph for them.
                self._record = False
                return first
        if torch.allclose(out.float(), first.float(), rtol=0.02, atol=0.02 * float(first.abs().max())):
            self._graphs[rows, columns] = graph, out
        else:
            self._record = False
        return first


def _power(count: int, least: int, most: int) -> int:
    """The next power of two, within bounds."""
    return min(most, max(least, 1 << (count - 1).bit_length()))
