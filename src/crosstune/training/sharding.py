"""Training with sharded weights: what can be, and how it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crosstune.errors import NotHere, UserError
from crosstune.methods.base import Method
from crosstune.methods.full import Full
from crosstune.methods.head import without_head
from crosstune.training import parallel

if TYPE_CHECKING:
    from crosstune.models.fast.shards import Shards


@contextmanager
def sharded(method: Method) -> "Iterator[Shards]":
    """Inside, each process has a part of the model's weights; behind it all of them again.

    Raises:
        UserError: The method's or the model's weights cannot be sharded.
        NotHere: There is one process alone.
    """
    lm, tuned = method.attached(), without_head(method)
    if parallel.processes() == 1:
        raise NotHere("train.shard: this is one process; start several with torchrun (docs/gpu.md)")
    if tuned.trains_weights and not isinstance(tuned, Full):
        raise UserError(f"train.shard: {tuned.name} trains weights that stay whole; take full, or shard out")
    if lm.quantized or lm.geometry.encoder_layers:
        kind = "quantised" if lm.quantized else "an encoder-decoder"
        raise UserError(f"train.shard: {lm.name} is {kind}, which is not sharded; take shard out")
    from crosstune.models.fast.shards import Shards  # not in every build of PyTorch

    parameters = tuned.parameters()
    if not isinstance(tuned, Full):
        shards = Shards(lm, {}, parameters.values())
    else:
        shards = tuned.shards = Shards(lm, parameters, ())
    # Behind any other error than one that all processes have, the others are not there to give their parts.
    try:
        yield shards
    except Exception as error:
        if parallel.everywhere(error):
            shards.close()
        raise
    shards.close()
    if isinstance(tuned, Full):
        tuned.shards, tuned.masters = None, {}
