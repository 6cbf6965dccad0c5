"""What a CUDA graph does, done on a CPU: operations are taped with their tensors and numbers, and repeated.

A replay calls no Python of the model: it reads and writes the tensors that it was recorded with. A number
that Python worked out while recording is repeated as it was, and what has to wait for a GPU, or copies from
the host, is an error: as in a graph.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("aten._local_scalar_dense", "aten.item", "aten.is_nonzero", "aten.nonzero", "aten.equal")
FROM_HOST = ("aten.lift_fresh",)


class Tape(TorchDispatchMode):
    def __init__(self, keep=True):
        super().__init__()
        self.calls, self.keep = [], keep

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).rpartition(".")[0]
        if name in (*WAITS, *FROM_HOST):
            raise RuntimeError(f"called a synchronizing operation: {name}\nand more")
        out = func(*args, **(kwargs or {}))
        if self.keep:
            self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch.inference_mode():
            for func, args, kwargs, out in self.calls:
                taken = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))}
                if func._schema.is_mutable:
                    func(*args, **kwargs)
                elif not any(x.untyped_storage().data_ptr() in taken for x in _tensors(out)):  # not a view
                    for old, new in zip(_tensors(out), _tensors(func(*args, **kwargs)), strict=True):
                        old.copy_(new)


def _tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


class TapeRecorder:
    """A recorder for `crosstune.models.fast.graphs.Steps`."""

    def __init__(self):
        self.rehearsals, self.recordings, self.replays = 0, 0, 0

    def rehearse(self, work):
        self.rehearsals += 1
        with Tape(keep=False):
            return work()

    def record(self, work):
        self.recordings += 1
        with Tape() as tape:
            out = work()

        def replay():
            self.replays += 1
            tape.replay()
            return out

        return replay
