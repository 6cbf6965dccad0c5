"""The orthogonality term of adapters, after Vidoni et al. 2020 (arXiv 2012.06460; no code is published).

What an adapter adds should say something new: be orthogonal to the output of the frozen sub-layer that it is
added to. Of an adapter's a = A(x) and that output y, taken as given,

    R = sum over adapters, mean over the text's tokens, of (a y)^2 / (|y|^2 (|a|^2 + 1e-6 |y|^2))

which is the squared cosine but for vectors a of less than a thousandth of y, as they are at the start. There
the cosine jumps with every step, and its gradients would be all that is left after clipping. A weight w
minimises the loss + w R; ``alternate`` the loss in odd steps and R in even ones.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from crosstune.methods.deferred import Tensor, torch

Ortho = Literal["alternate"] | Annotated[float, Field(gt=0)]
SMALL = 1e-6


def term(
    pairs: Iterable[tuple[Tensor, Tensor]], tokens: Tensor, lines: int, width: int, front: int = 0
) -> Tensor:
    """R of one pass.

    Args:
        pairs: Of each adapter a and y, ``[..., hidden]``: of all positions of the pass, or of those alone
            that are read, where a top layer leaves out the others.
        tokens: Places of the texts' tokens, counted through lines and width.
        lines: Of the pass.
        width: Of a line.
        front: Length of a soft prompt in front of each line, which is not counted in.
    """

    def of_text(x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if len(rows) != lines * (width + front):
            return rows
        return rows[tokens + front * (tokens // width + 1)]

    return torch.stack([_squared_cosine(of_text(a), of_text(y)).mean() for a, y in pairs]).sum()


def _squared_cosine(a: Tensor, y: Tensor) -> Tensor:
    a, y = a.float(), y.detach().float()
    size = y.square().sum(-1)
    return (a * y).sum(-1).square() / (size * (a.square().sum(-1) + SMALL * size)).clamp_min(1e-30)
