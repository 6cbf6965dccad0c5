"""A model's weights with what a method trained in them."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from crosstune.errors import UserError
from crosstune.methods.adapters.ia3 import Ia3
from crosstune.methods.adapters.lora import Lora
from crosstune.methods.adapters.merged import lost, merged_layers
from crosstune.methods.adapters.peft_layers import PeftLayers
from crosstune.methods.base import Method
from crosstune.methods.stack import Stack
from crosstune.models.language_model import LanguageModel


@contextmanager
def merged_model(method: Method, lm: LanguageModel) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Inside, the weights by the names that the plain model has for them, all changes merged.

    Also the largest share of a weight's change that rounding to the model's dtype took.

    Raises:
        UserError: What was trained is no change of weights, or the weights are quantised.
    """
    if lm.quantized:
        raise UserError("quantised weights cannot hold what was trained; write it with --adapter")
    with ExitStack() as inside:
        share = max(_merge(part, inside) for part in parts_of(method))
        yield plainly_named(lm), share


def parts_of(method: Method) -> list[Method]:
    """The methods of a stack; of any other the one."""
    return list(method.methods.values()) if isinstance(method, Stack) else [method]


def _merge(method: Method, inside: ExitStack) -> float:
    """Merge a method, and give the largest share of a change that was lost."""
    if method.trains_weights:
        return 0.0
    if isinstance(method, Lora | PeftLayers) and getattr(method, "mergeable", True):
        merge = inside.enter_context(merged_layers(method.wrapped, len(method.wrapped), math.inf))
        return merge.lost or 0.0
    if isinstance(method, Ia3):
        if not all(place.foldable for place in method.places):
            raise UserError("ia3: a layer that it scales is none of the model's plain linear layers")
        changes = [pair for place in method.places for pair in place.folds()]
        share = max(lost(weight, change) for weight, change in changes)
        with torch.no_grad():
            for weight, change in changes:
                weight.add_(change)
        return share
    raise UserError(
        f"{method.name}: what it trains is no change of the model's weights; write it with --adapter"
    )


def plainly_named(lm: LanguageModel) -> dict[str, Tensor]:
    """The model's own weights, without what PEFT put around and beside them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = {name for name, module in lm.model.named_modules() if isinstance(module, BaseTunerLayer)}
    weights = {}
    for name, x in lm.model.state_dict().items():
        around = next((at for at in wrapped if name.startswith(f"{at}.")), None)
        if around is None or name.startswith(f"{around}.base_layer."):
            weights[name if around is None else name.replace(".base_layer.", ".", 1)] = x
    return weights
