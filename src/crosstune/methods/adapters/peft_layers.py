"""Layers of PEFT's in the place of a model's own: put in, switched, merged, saved, and taken out again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from crosstune.errors import UserError
from crosstune.methods.adapters.merged import merged_layers
from crosstune.methods.adapters.placement import swap_hooks
from crosstune.methods.base import Method
from crosstune.methods.config import MethodConfig
from crosstune.methods.deferred import Tensor, nn, torch
from crosstune.models.adaptation import Part

ADAPTER = "default"
"""PEFT's name for what it puts in."""

Settings = TypeVar("Settings", bound=MethodConfig)


class PeftLayers(Method[Settings]):
    """A method whose layers are PEFT's, in fp32 over a model of any dtype."""

    stacking = "once"
    wrapped: dict[str, Any]  # PEFT's layers, by name
    trained: "dict[str, nn.Parameter]"  # their tensors that are trained, by name
    drawn: dict[str, Tensor]  # the others that came with them

    @property
    def mergeable(self) -> bool:
        """Whether PEFT can merge them into the model's weights."""
        return True

    def wrap(self, part: Part, root: "nn.Module", make: Callable[[], Any], seed: int) -> Any:
        """Let PEFT wrap layers under a module; its tensors are those that were not there before.

        Args:
            part: What the method leaves on the model.
            root: Holds the layers.
            make: Makes PEFT's tuner over ``root``.
            seed: Of what it draws.

        Returns:
            PEFT's tuner.
        """
        from peft.tuners.lora import LoraLayer
        from peft.tuners.tuners_utils import BaseTunerLayer

        from crosstune.methods.adapters.lora_kernel import use_update

        children = {module: dict(module.named_children()) for module in root.modules()}
        before = {id(tensor) for tensor in (*root.parameters(), *root.buffers())}
        self.wrapped, self.trained, self.drawn = {}, {}, {}
        part.undo.callback(self._unwrap, children)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tuner = make()
        self.wrapped = {name: x for name, x in root.named_modules() if isinstance(x, BaseTunerLayer)}
        for module in self.wrapped.values():
            for copy in getattr(module, "ln_tuning_layers", {}).values():
                swap_hooks(copy, nn.Module())  # the norm's own are run once
            base = module.get_base_layer()
            if not isinstance(module, LoraLayer) or not use_update(module, ADAPTER):
                base.weight_is_read = True
                part.undo.callback(delattr, base, "weight_is_read")
            swap_hooks(base, module)
            part.undo.callback(swap_hooks, base, module)
            hook = module.register_forward_hook(_as_input)
            part.undo.callback(hook.remove)
        added = [
            (f"layers.{name.removeprefix('model.')}", tensor)
            for name, tensor in (*tuner.named_parameters(), *tuner.named_buffers())
            if id(tensor) not in before
        ]
        for _, tensor in added:
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
        for name, tensor in added:
            if ".ranknum." in name:  # AdaLoRA's counts of ranks, which PEFT lets be trained in 16 bits
                tensor.requires_grad_(False)
        self.trained = {name: x for name, x in added if isinstance(x, nn.Parameter) and x.requires_grad}
        self.drawn = {name: x for name, x in added if name not in self.trained}
        part.switch = self._switch
        return tuner

    def _switch(self, on: bool) -> None:
        for module in self.wrapped.values():
            module.enable_adapters(on)

    def _unwrap(self, children: "dict[nn.Module, dict[str, nn.Module]]") -> None:
        """Put the very modules back that were there."""
        for module, named in children.items():
            for name, child in named.items():
                if getattr(module, name) is not child:
                    setattr(module, name, child)
        self.wrapped, self.trained, self.drawn = {}, {}, {}

    def parameters(self) -> "dict[str, nn.Parameter]":
        """By PEFT's names, ``layers.<i>.<module>.<tensor>``."""
        return self.trained

    def state(self) -> dict[str, Tensor]:
        """The trained tensors, and those that were drawn and stay as they are."""
        return super().state() | {name: x.detach() for name, x in self.drawn.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put both back.

        Raises:
            UserError: Names or shapes differ.
        """
        for name, x in self.drawn.items():
            if name not in state or state[name].shape != x.shape:
                raise UserError(f"weights do not fit {self.name}: {name} is not {tuple(x.shape)} in them")
        super().load_state({name: x for name, x in state.items() if name not in self.drawn})
        with torch.no_grad():
            for name, x in self.drawn.items():
                x.copy_(state[name])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Merge where PEFT can, and put the very bits of the weights back after."""
        mergeable = self.mergeable and (self.part is None or self.part.languages is None)
        with merged_layers(self.wrapped if mergeable else {}, len(self.wrapped)) as self.merge:
            yield


def _as_input(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Some tuners return their own dtype; what stands behind them has the model's."""
    return output.to(inputs[0].dtype)
