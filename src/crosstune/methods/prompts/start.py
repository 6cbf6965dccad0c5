"""What each layer's attention receives of a text, to start prompts from."""

from collections.abc import Callable, Sequence
from typing import Any

from crosstune.errors import UserError
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch


def text_hidden(lm: LanguageModel, ids: Tensor) -> list[Tensor]:
    """Input of every layer's attention (after the layer's norm) for a text.

    Args:
        lm: The model, as the methods before this one left it.
        ids: ``[n]`` token ids.

    Returns:
        One ``[n, hidden]`` a layer, bottom first.
    """
    seen: dict[int, Tensor] = {}

    def keep(i: int) -> Callable[..., None]:
        def hook(module: "nn.Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            seen[i] = states[0, -len(ids) :].detach()  # a soft prompt stands in front

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
    """Keys (rotated, from the model's first position) and values of a text in every layer.

    Args:
        lm: The model, as the methods before this one left it; of a soft prompt nothing is read.
        ids: ``[n]`` token ids.

    Returns:
        A pair of ``[kv_heads, n, head_dim]`` a layer, bottom first.
    """
    from transformers import DynamicCache

    cache = DynamicCache()  # made without a config, so that sliding layers keep every token
    with torch.no_grad():
        positions = torch.arange(len(ids), device=lm.device)[None] + lm.adaptation.first_position
        lm.decoder(input_ids=ids[None], position_ids=positions, past_key_values=cache, use_cache=True)
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


def init_ids(lm: LanguageModel, text: str, length: int) -> Tensor:
    """``[length]`` token ids of ``text`` as a prompt starts (with the beginning-of-text token)."""
    first = lm.encode_prompts([text])[0]
    more = lm.tokenizer.encode(" " + text, add_special_tokens=False)
    if not first or not more:
        raise UserError(f"init_text {text!r} has no tokens; give a sentence")
    ids = first
    while len(ids) < length:
        ids = ids + more
    return torch.tensor(ids[:length], device=lm.device)


def normal(shape: Sequence[int], seed: int, scale: float = 1.0) -> Tensor:
    """fp32 draws from N(0, scale²), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * scale
