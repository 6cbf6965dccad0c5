"""What each layer's attention receives of a text, to start prompts from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from crosstune.errors import UserError
from crosstune.models.language_model import LanguageModel


def text_hidden(lm: LanguageModel, ids: Tensor) -> list[Tensor]:
    """Input of every layer's attention (after the layer's norm) for a text.

    Args:
        lm: A model with nothing attached.
        ids: ``[n]`` token ids.

    Returns:
        One ``[n, hidden]`` a layer, bottom first.
    """
    seen: dict[int, Tensor] = {}

    def keep(i: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            seen[i] = states[0].detach()

        return hook

    handles = [a.register_forward_pre_hook(keep(i), with_kwargs=True) for i, a in enumerate(lm.attentions)]
    try:
        with torch.no_grad():
            lm.hidden(ids[None])
    finally:
        for handle in handles:
            handle.remove()
    return [seen[i] for i in range(len(seen))]


def text_keys_values(lm: LanguageModel, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys (rotated, from position 0) and values of a text in every layer.

    Args:
        lm: A model with nothing attached.
        ids: ``[n]`` token ids.

    Returns:
        A pair of ``[kv_heads, n, head_dim]`` a layer, bottom first.
    """
    cache = DynamicCache()  # made without a config, so that sliding layers keep every token
    with torch.no_grad():
        lm.decoder(input_ids=ids[None], past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    return [(layer.keys[0], layer.values[0]) for layer in layers]


def project(module: Any, states: Tensor, kv_heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values that an attention module makes of hidden states, keys not rotated.

    Args:
        module: Attention with ``k_proj`` and ``v_proj`` (and ``k_norm`` in Gemma 3, Qwen 3, OLMo 2).
        states: ``[n, hidden]``.
        kv_heads: Key/value heads.

    Returns:
        Two ``[kv_heads, n, head_dim]``.
    """
    if not hasattr(module, "k_proj") or not hasattr(module, "v_proj"):
        raise UserError(
            f"{type(module).__name__} has no separate k_proj and v_proj; "
            "use prefix with space: kv on this model"
        )
    keys: Tensor = module.k_proj(states)
    values: Tensor = module.v_proj(states)
    norm: Any = getattr(module, "k_norm", None)
    whole = norm is not None and norm.weight.shape[0] == keys.shape[-1] and kv_heads > 1
    if whole:
        keys = norm(keys)
    keys, values = (x.unflatten(-1, (kv_heads, -1)).transpose(0, 1) for x in (keys, values))
    if norm is not None and not whole:
        keys = norm(keys)
    return keys, values
