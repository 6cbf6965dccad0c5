"""An invertible adapter at the embeddings, its inverse in front of the output layer (MAD-X, 2005.00052).

NICE (Dinh et al. 2015, arXiv 1410.8516): of a vector's halves x1, x2

    y1 = x1 + F(x2),  y2 = x2 + G(y1)         and back   x2 = y2 - G(y1),  x1 = y1 - F(x2)

F and G are bottlenecks of half their width, whose last layers are zero at the start: both directions are
then the identity, bit for bit. Computed in fp32 whatever the model's dtype, so that the way back is exact to
rounding. Trained parameters: 2 (2 h w + w + h) with h = d/2, w = h/2.

The forward way changes what the input embedding gives: of Gemma 3, the scaled embedding. The inverse stands
behind the decoder's last norm, so that scores of all tokens or of some, the loss and decoding all see it.
The two ends of a decoder are of other scales, also where their tables are one; so the adapter is undone
exactly, but what it undoes are not the coordinates that the embedding had.
"""

from collections.abc import Callable, Iterator
from typing import Any

from crosstune.errors import UserError
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

COUPLINGS = ("first", "second")


def size(geometry: Geometry) -> int:
    """Width of what is changed.

    Raises:
        UserError: It cannot be halved twice.
    """
    if geometry.encoder_layers:
        raise UserError(
            "invertible: this model is an encoder-decoder, with two embeddings; set invertible: false"
        )
    d = geometry.embedding or geometry.hidden
    if d % 4:
        raise UserError(f"invertible: embeddings of width {d} cannot be halved twice; set invertible: false")
    return d


def count(geometry: Geometry) -> int:
    """2 (2 h w + w + h)."""
    h = size(geometry) // 2
    return 2 * (2 * h * (h // 2) + h // 2 + h)


def tensors(geometry: Geometry, draw: "torch.Generator") -> Iterator[tuple[str, Tensor]]:
    """Names and values at the start."""
    h = size(geometry) // 2
    for name in COUPLINGS:
        bound = h**-0.5
        yield f"{name}.down.weight", torch.empty(h // 2, h).uniform_(-bound, bound, generator=draw)
        yield f"{name}.down.bias", torch.zeros(h // 2)
        yield f"{name}.up.weight", torch.zeros(h, h // 2)
        yield f"{name}.up.bias", torch.zeros(h)


class Invertible:
    """The two hooks.

    Attributes:
        tensor: Of a name, as `tensors` gives them.
        activation: Name of the function between the two layers of a coupling.
        active: Whether anything is changed now.
    """

    def __init__(
        self, lm: LanguageModel, part: Part, tensor: Callable[[str], Tensor], activation: str
    ) -> None:
        self.tensor, self.activation, self.active = tensor, activation, True

        def embedded(module: object, args: object, out: Tensor) -> Tensor:
            return self.forward(out) if self.active else out

        def finished(module: object, args: object, out: Any) -> Any:
            if self.active:
                out.last_hidden_state = self.inverse(out.last_hidden_state)
            return out

        part.undo.callback(lm.embedding.register_forward_hook(embedded).remove)
        part.undo.callback(lm.decoder.register_forward_hook(finished).remove)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d]``."""
        x1, x2 = x.float().chunk(2, dim=-1)
        y1 = x1 + self._coupling("first", x2)
        return torch.cat([y1, x2 + self._coupling("second", y1)], -1).to(x.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        """``[..., d]``."""
        y1, y2 = y.float().chunk(2, dim=-1)
        x2 = y2 - self._coupling("second", y1)
        return torch.cat([y1 - self._coupling("first", x2), x2], -1).to(y.dtype)

    def _coupling(self, name: str, x: Tensor) -> Tensor:
        def layer(end: str, x: Tensor) -> Tensor:
            weight, bias = (self.tensor(f"{name}.{end}.{of}").to(x.device) for of in ("weight", "bias"))
            return nn.functional.linear(x, weight, bias)

        return layer("up", getattr(nn.functional, self.activation)(layer("down", x)))
