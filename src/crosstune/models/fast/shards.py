"""Sharded weights in training: each of several processes keeps a part of every layer's (PyTorch's FSDP2).

A layer's weights are gathered before it computes, forward and backward, and let go after. Weights that are
trained are kept as fp32 rows, with the gradients and moments of these rows alone: 16 bytes a weight over the
number of processes. Embeddings and the output layer stay whole in each process; where they are trained, their
fp32 copy, gradients and moments are sharded too.

FSDP2 is put around a layer's forward and not on the model's own modules, which it could never be taken off
again: outside of training, and while development data is scored, the model is whole and as it was.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from crosstune.models.fast.layers import in_place_of
from crosstune.models.protocol import Model

_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""What FSDP2 leaves on the modules whose weights it has."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """Where a layer has a weight."""

    module: nn.Module
    name: str  # in the module
    whole: nn.Parameter  # the model's own, empty while it is sharded
    sharded: Any  # FSDP2's parameter


class _Gathered(nn.Module):
    """A forward function, and the modules whose weights it needs."""

    def __init__(self, run: Callable[..., Any], modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.run, self.needed = run, nn.ModuleList(modules)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


class Shards:
    """A model's weights, spread over all processes until it is `close`d.

    Args:
        lm: In training mode already: the forward functions that it has now are those that are run.
        trained: Those of its weights that are trained, by name.
        kept: Parameters that methods have put into its layers, and that every process has whole.

    Attributes:
        rows: Of each trained weight the rows that this process steps, fp32; after `collect` with gradients.
    """

    def __init__(self, lm: Model, trained: Mapping[str, nn.Parameter], kept: Iterable[nn.Parameter]) -> None:
        self._lm, self._forwards = lm, ExitStack()
        self._mesh = init_device_mesh(lm.device.type, (distributed.get_world_size(),))
        self._kept = set(kept)
        names = {id(weight): name for name, weight in trained.items()}
        self._policy = MixedPrecisionPolicy(
            lm.dtype if trained else None, torch.float32 if trained else None, cast_forward_inputs=False
        )
        self._sharded: dict[str, Any] = {}  # those of the trained weights that FSDP2 has
        self._layers = [self._shard(layer, names) for layer in lm.layers]
        self._root: Any = _Gathered(lm.decoder.forward, [gathered for gathered, _ in self._layers])
        fully_shard(self._root, mesh=self._mesh)
        self._outside = {name: weight for name, weight in trained.items() if name not in self._sharded}
        self._reached: set[str] = set()  # those of them that a step's loss depends on
        wholes = {name: weight.detach().float() for name, weight in self._outside.items()}
        self._shapes = {name: x.shape for name, x in (self._sharded | wholes).items()}
        self.rows = {name: nn.Parameter(self._local(x)) for name, x in (self._sharded | wholes).items()}
        self.rows = {name: self.rows[name] for name in trained}
        self._spread_out()

    def _local(self, x: Tensor) -> Tensor:
        """This process's rows of a tensor that is sharded, or whole in each process."""
        sharded = (
            x if isinstance(x, DTensor) else distribute_tensor(x, self._mesh, [Shard(0)], src_data_rank=None)
        )
        return cast(DTensor, sharded.detach()).to_local()

    def _shard(self, layer: Any, names: Mapping[int, str]) -> tuple[Any, list[_Weight]]:
        """What runs in place of a layer, and where its weights are."""
        weights = [
            (module, name, weight)
            for module in layer.modules()
            for name, weight in module._parameters.items()
            if weight is not None and weight not in self._kept
        ]
        for module, name, weight in weights:
            if id(weight) in names:
                module._parameters[name] = nn.Parameter(weight.detach().float())
        gathered: Any = _Gathered(layer.forward, [layer])
        fully_shard(
            gathered,
            mesh=self._mesh,
            reshard_after_forward=True,
            mp_policy=self._policy,
            ignored_params=self._kept,
        )
        # Summed over the processes; their mean, the default, is not taken by every backend.
        gathered.set_gradient_divide_factor(1.0)
        gathered.set_force_sum_reduction_for_comms(True)
        placed = [_Weight(module, name, weight, module._parameters[name]) for module, name, weight in weights]
        self._sharded |= {names[id(one.whole)]: one.sharded for one in placed if id(one.whole) in names}
        return gathered, placed

    def _spread_out(self) -> None:
        for weight in self._weights():
            weight.module._parameters[weight.name] = weight.sharded
            weight.whole.data = weight.whole.data.new_empty(0)
        # Their calls, and not the modules: a module given another as its forward would hold it as its part.
        calls = [gathered.__call__ for gathered in (self._root, *(gathered for gathered, _ in self._layers))]
        self._forwards.enter_context(in_place_of([self._lm.decoder, *self._lm.layers], calls))

    def _weights(self) -> list[_Weight]:
        return [weight for _, weights in self._layers for weight in weights]

    def _put_together(self) -> None:
        """The whole weights, in the model's own parameters."""
        self._forwards.close()
        for gathered, weights in self._layers:
            gathered.unshard()
            for weight in weights:
                weight.whole.data = getattr(weight.module, weight.name).detach().clone()
            gathered.reshard()
            for weight in weights:
                weight.module._parameters[weight.name] = weight.whole

    @contextmanager
    def away(self) -> Iterator[None]:
        """Inside, every process has all weights, as the model computes with them."""
        self._put_together()
        try:
            yield
        finally:
            self._spread_out()

    def close(self) -> None:
        """Every process has all weights again, and the model nothing of FSDP2."""
        self._put_together()
        for module in {module for layer in self._lm.layers for module in layer.modules()}:
            for mark in _MARKS:
                vars(module).pop(mark, None)

    def after_backward(self) -> None:
        """Take over the gradients of trained weights outside of the layers; once a pass, in all processes."""
        for name, weight in self._outside.items():
            if weight.grad is not None:
                self._reached.add(name)
            grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            part = DTensor.from_local(grad.float(), self._mesh, [Partial()], run_check=False)
            summed, row = part.redistribute(placements=[Shard(0)]).to_local(), self.rows[name]
            row.grad = summed if row.grad is None else row.grad + summed
            weight.grad = None

    def collect(self) -> Mapping[str, nn.Parameter]:
        """Take over the gradients of trained weights in the layers, behind a step's passes; gives `rows`."""
        for name, sharded in self._sharded.items():
            self.rows[name].grad = None if sharded.grad is None else sharded.grad.to_local()
            sharded.grad = None
        flags = [int(name in self._reached) for name in self._outside]
        reached = torch.tensor(flags, device=self._lm.device)
        distributed.all_reduce(reached)
        for name in itertools.compress(self._outside, (reached == 0).tolist()):
            self.rows[name].grad = None  # and not 0: no process has one
        self._reached.clear()
        return self.rows

    @torch.no_grad()
    def after_step(self) -> None:
        """Round stepped rows into the weights outside of the layers; those of layers are when gathered."""
        for name, weight in self._outside.items():
            weight.copy_(self.whole(name, self.rows[name]))

    def whole(self, name: str, rows: Tensor) -> Tensor:
        """All rows, of what every process has some of: a trained weight, or a moment of it."""
        if name not in self._shapes or not rows.dim():
            return rows
        shape = self._shapes[name]
        stride = torch.empty(shape, device="meta").stride()
        sharded = DTensor.from_local(
            rows.detach(), self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        )
        return sharded.full_tensor()

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This process's rows of a tensor that `whole` has made."""
        return self._local(whole) if name in self._shapes and whole.dim() else whole
