"""(IA)³: keys, values and the MLP's inner activations scaled by trained vectors.

    k = l_k * (W_k x)        v = l_v * (W_v x)        mlp(x) = W_down (l_ff * inner(x))

Liu et al. 2022 (arXiv 2205.05638), on the paper's three places in every architecture (PEFT's default scales
queries in place of keys in some). The vectors are fp32 and 1 at the start; for evaluation they are multiplied
into the weights. In an encoder-decoder its three attentions are scaled, as in the paper's T0. Trained
parameters: layers * (2 * kv_heads * head_dim + intermediate), and 2 * kv_heads * head_dim more for each
attention between an encoder and a decoder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from crosstune.errors import UserError
from crosstune.methods.adapters.merged import lost, merged, worth_merging
from crosstune.methods.base import Method
from crosstune.methods.config import Placed
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

if TYPE_CHECKING:
    from crosstune.models.parts import Layer, Projection


@dataclass(eq=False)
class Scaled:
    """A linear layer that is scaled."""

    projection: "Projection"  # where it is
    input: bool  # whether its input is scaled; else its output
    # Each with the columns of the output that it scales, None for all.
    vectors: "list[tuple[nn.Parameter, Tensor | None]]"
    folded: bool = False  # whether the vectors are in its weight now

    def scale(self, width: int) -> Tensor:
        """Fp32 ``[width]`` of the input or output."""
        whole: Tensor | None = None
        for vector, columns in self.vectors:
            if columns is None:
                return vector
            whole = torch.ones(width, device=vector.device) if whole is None else whole
            whole = whole.index_put((columns,), vector)
        assert whole is not None
        return whole

    @property
    def foldable(self) -> bool:
        """Whether it is a plain linear layer (GPT-2's among them), whose weight can hold the scale."""
        module = self.projection.module
        return type(module) is nn.Linear or type(module).__name__ == "Conv1D"

    def held(self) -> list[Tensor]:
        """The weight ``[out, in]``, and the bias where it is scaled too."""
        module: Any = self.projection.module
        weight = module.weight if type(module) is nn.Linear else module.weight.T
        return [weight] if self.input or module.bias is None else [weight, module.bias]

    def folds(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What holds the scale, each with what is added to it."""
        for tensor in self.held():
            more = self.scale(tensor.shape[-1] if self.input else len(tensor)).detach() - 1
            yield tensor, tensor * (more if self.input or tensor.dim() == 1 else more[:, None])


class Ia3(Method[Placed]):
    """Scaled keys, values and inner activations.

    Attributes:
        scales: The vectors, by name.
        places: What they scale.
        active: Whether they do now.
    """

    name = "ia3"
    summary = "keys, values and inner activations scaled (Liu et al. 2022)"
    learning_rate = 1e-2
    learning_rate_from = (
        "SIB-200 with Gemma 3 270M, 60 steps, loss: choices: English 64.7 to 83.8; not searched further"
    )
    Config = Placed

    @classmethod
    def count(cls, config: Placed, geometry: Geometry) -> int:
        """Layers * (2 * kv_heads * head_dim + intermediate)."""
        geometry.need(cls.name, "projection of keys and values", "MLP's last projection")
        if geometry.uneven:
            raise UserError(
                f"{cls.name}: some layers of this model have other sizes of {' and '.join(geometry.uneven)}; "
                "choose lora on this model"
            )
        sides = config.sides(geometry)
        layers = sum(geometry.side(i) in sides for i in config.chosen(geometry.layers))
        return len(config.attention_places(geometry)) * 2 * geometry.kv_size + layers * geometry.intermediate

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Hooks that scale."""
        self.count(self.config, lm.geometry)
        self.scales: dict[str, nn.Parameter] = {}
        self.places: list[Scaled] = []
        self.active, part.switch = True, self._switch
        sides = self.config.sides(lm.geometry)
        for i in self.config.chosen(lm.geometry.layers):
            layer, g, device = lm.parts.layers[i], lm.geometry, lm.layer_device(i)
            if g.side(i) in sides:
                self._scale_keys(layer, f"layers.{i}", g.kv_size, device)
                outer = layer.mlp_output
                assert outer is not None, "`count` asks for it"
                inner = self.scales[f"layers.{i}.inner"] = nn.Parameter(
                    torch.ones(g.intermediate, device=device)
                )
                self.places.append(Scaled(outer, True, [(inner, None)]))
            if layer.cross is not None and "cross" in sides:
                self._scale_keys(layer.cross, f"layers.{i}.cross", g.kv_size, device)
        for place in self.places:
            module = place.projection.module
            if place.input:
                handle = module.register_forward_pre_hook(partial(self._before, place))
            else:
                handle = module.register_forward_hook(partial(self._after, place))
            part.undo.callback(handle.remove)

    def _scale_keys(self, layer: "Layer", name: str, size: int, device: "torch.device") -> None:
        """Vectors for the keys and values of a layer's attention."""
        pair = layer.key_and_value()
        assert pair is not None, "`count` asks for them"
        vectors = {end: nn.Parameter(torch.ones(size, device=device)) for end in ("key", "value")}
        self.scales |= {f"{name}.{end}": vector for end, vector in vectors.items()}
        columns = [None if p.columns is None else p.columns.to(device) for p in pair]
        keys, values = zip((vectors["key"], vectors["value"]), columns, strict=True)
        if pair[0].name == pair[1].name:
            self.places.append(Scaled(pair[0], False, [keys, values]))
        else:
            self.places += [Scaled(pair[0], False, [keys]), Scaled(pair[1], False, [values])]

    def _switch(self, on: bool) -> None:
        self.active = on

    def _times(self, place: Scaled, x: Tensor) -> Tensor:
        if place.folded or not self.active:
            return x
        # In fp32: steps of a scale are smaller than 16 bits tell apart.
        return (x * place.scale(x.shape[-1])).to(x.dtype)

    def _before(self, place: Scaled, module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self._times(place, args[0]), *args[1:])

    def _after(self, place: Scaled, module: object, args: object, out: Tensor) -> Tensor:
        return self._times(place, out)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Multiply into the weights where rounding allows it, and put the weights' bits back after."""
        loss: dict[Scaled, float] = {}
        if not self.attached().quantized and (self.part is None or self.part.languages is None):
            with torch.no_grad():
                loss = {
                    place: max(lost(weight, change) for weight, change in place.folds())
                    for place in self.places
                    if place.foldable
                }
        chosen, self.merge = worth_merging(loss, len(self.places))

        def fold() -> None:
            for place in chosen:
                for weight, change in place.folds():
                    weight.add_(change)

        with merged([weight for place in chosen for weight in place.held()], fold):
            for place in chosen:
                place.folded = True
            try:
                yield
            finally:
                for place in chosen:
                    place.folded = False

    def parameters(self) -> "dict[str, nn.Parameter]":
        """``layers.<i>.key``, ``.value`` and ``.inner``."""
        return self.scales
