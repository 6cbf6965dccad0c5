"""The top layer for the rows that are read: what it computes for other tokens goes nowhere.

Of the top layer, other tokens see its keys and values alone. Queries, attention's output projection and the
MLP look at tokens one at a time, and of their results only the rows that predict an answer reach the
vocabulary. So inside `read_rows_only` these modules take those rows, and leave zeros at all others: for a
choice task one row a text, in place of thirty. No gradient comes back from a row that is not read, so
losses and gradients are the same for every method, whatever it trains in the top layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from crosstune.models.language_model import LanguageModel

LARGEST_SHARE = 0.5
"""Of the tokens; with more rows than that, picking them out and putting them back costs what it saves."""


@contextmanager
def read_rows_only(lm: LanguageModel, rows: Tensor, lines: int, width: int) -> Iterator[None]:
    """Inside, final hidden states are right at ``rows`` and arbitrary numbers everywhere else.

    The backward pass belongs inside as well: a checkpointed layer runs again there.

    Args:
        lm: A model, with a method attached or not.
        rows: ``[n]`` flat indices (lines * width) into the text, a soft prompt not counted.
        lines: Of the batch.
        width: Of a line of text, padding included.
    """
    n = 0 if lm.soft_prompt is None else len(lm.soft_prompt)
    layer = lm.decoder.layers[-1]
    found = (
        getattr(layer.self_attn, "q_proj", None),
        getattr(layer.self_attn, "o_proj", None),
        getattr(layer, "mlp", None),
    )
    few = len(rows) <= LARGEST_SHARE * lines * (n + width)
    # One with a forward of its own is hooked by something else, such as a model spread over GPUs.
    chosen = [m for m in found if few and m is not None and "forward" not in vars(m)]
    places = rows.div(width, rounding_mode="floor") * (n + width) + n + rows % width
    for module in chosen:
        module.forward = _at(places, module.forward)
    try:
        yield
    finally:
        for module in chosen:
            del module.forward


def _at(places: Tensor, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A module's forward of ``[lines, width, in]`` at some of its flattened places, zeros elsewhere."""

    def some(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        here = places.to(x.device)
        out = forward(x.flatten(0, -2)[None, here], *args, **kwargs)[0]
        whole = out.new_zeros(x.shape[:-1].numel(), out.shape[-1])
        return whole.index_copy(0, here, out).view(*x.shape[:-1], -1)

    return some
