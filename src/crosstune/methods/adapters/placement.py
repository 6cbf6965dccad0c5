"""Where an adapter A stands in a layer.

A sub-layer (attention, MLP) reads the residual stream r and adds f to it:

* ``inside``: ``y + A(y)``, y the output of the sub-layer's last projection, before any norm behind it;
* ``houlsby``: ``r + f + A(f)``, f as it is added, after any norm;
* ``pfeiffer``: ``h + A(h)``, h = r + f the layer's output;
* ``parallel``: ``h + A(r)``, r the stream before the MLP.

Decoders do not norm their stream. In Gemma 3 270M it grows 400-fold from the first layer to the last, and
adapters that read it (pfeiffer, parallel), or add to what was normed already (houlsby), have gradients up to
100 times those of ``inside``. Where no norm is behind the sub-layers (Llama, Qwen) ``inside`` is ``houlsby``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from crosstune.methods.deferred import Tensor, nn
from crosstune.models.adaptation import Part

if TYPE_CHECKING:
    from crosstune.models.parts import Layer

Placement = Literal["inside", "houlsby", "pfeiffer", "parallel"]
Adapter = Callable[[Tensor, Tensor], Tensor]
"""From what it reads and what it adds to, ``[..., hidden]`` each: the sum."""


def needs(placement: Placement, places: Sequence[str]) -> list[str]:
    """What a model must have (`crosstune.models.geometry.Geometry.need`) for adapters of some sub-layers."""
    if placement in ("pfeiffer", "parallel"):
        return ["norm before the MLP"]
    return ["MLP", *["attention's last projection"] * ("attention" in places)]


def insert(layer: "Layer", placement: Placement, adapters: Mapping[str, Adapter], part: Part) -> None:
    """Let adapters change what a layer computes.

    Args:
        layer: The layer.
        placement: Where in it.
        adapters: By the sub-layer that they belong to, "attention", "mlp" or "cross" (a decoder's attention
            to what an encoder read).
        part: Its ``undo`` takes them out again.
    """
    attention = None if layer.output is None else layer.output.module
    places: dict[str, nn.Module | None] = {"attention": attention, "mlp": layer.mlp}
    if placement == "houlsby":
        behind = dict(zip(places, layer.norms_behind, strict=True))
        places = {name: behind[name] or module for name, module in places.items()}
    elif placement != "inside":
        places = {"mlp": layer.module}
    if layer.cross is not None and layer.cross.output is not None:
        places["cross"] = layer.cross.output.module
    for name, adapter in adapters.items():
        module = places[name]
        assert module is not None, "`needs` was asked"
        if placement == "parallel":
            _beside(layer, adapter, part)
        else:
            _behind(module, partial(_to_itself, adapter), part)


def _to_itself(adapter: Adapter, x: Tensor) -> Tensor:
    return adapter(x, x)


def _behind(module: "nn.Module", change: Callable[[Tensor], Tensor], part: Part) -> None:
    """Change a module's output, or the first of its outputs."""

    def hook(module: "nn.Module", args: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    part.undo.callback(module.register_forward_hook(hook).remove)


def _beside(layer: "Layer", adapter: Adapter, part: Part) -> None:
    """Add to a layer's output what the adapter makes of the stream before its MLP."""
    streams: list[Tensor] = []

    def keep(module: "nn.Module", args: tuple[Tensor, ...]) -> None:
        streams[:] = [args[0]]

    def add(out: Tensor) -> Tensor:
        # A layer that stands aside, because its output is known, has read nothing; OPT's reads in one line.
        return adapter(streams.pop().reshape(out.shape), out) if streams else out

    assert layer.before_mlp is not None
    part.undo.callback(layer.before_mlp.register_forward_pre_hook(keep).remove)
    _behind(layer.module, add, part)


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def swap_hooks(layer: "nn.Module", wrapper: "nn.Module") -> None:
    """Exchange the hooks of a layer and of what wraps it, so that they see all that the two compute.

    Called when the wrapper comes and when it goes: methods keep their place, whichever was attached first.
    """
    for name in _HOOKS:
        hooks = getattr(layer, name)
        setattr(layer, name, getattr(wrapper, name))
        setattr(wrapper, name, hooks)
