"""What each layer's attention receives of a text, to start prompts from."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from crosstune.errors import UserError
from crosstune.methods.deferred import LanguageModel, Tensor, torch


def attention_inputs(lm: LanguageModel, ids: Tensor) -> list[Tensor]:
    """What every layer's attention receives of a text ``[n]``, behind the layer's norm.

    Both stacks of an encoder-decoder read it; attention between them receives the encoder's states.

    Returns:
        fp32 ``[n, hidden]`` a layer, lowest first; nothing of a soft prompt in front.
    """
    inputs: dict[Any, Tensor] = {}

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        states = states if kwargs.get("key_value_states") is None else kwargs["key_value_states"]
        inputs[module] = states[0, -len(ids) :].float().clone()

    with torch.no_grad(), ExitStack() as hooks:
        for module in lm.attentions:
            hooks.enter_context(module.register_forward_pre_hook(keep, with_kwargs=True))
        lm.read_alone(ids)
    return [inputs[module] for module in lm.attentions]


def text_keys_values(lm: LanguageModel, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of a text ``[n]``, but not of a soft prompt.

    Keys are rotated, from the model's first position; an encoder's and an encoder-decoder's are not.

    Returns:
        A pair of ``[kv_heads, n, head_dim]`` a layer, lowest first.
    """
    if lm.geometry.encoder or lm.geometry.encoder_layers:  # it has no cache to read them from
        return [lm.keys_values(i, x.to(lm.dtype)) for i, x in enumerate(attention_inputs(lm, ids))]
    from transformers import DynamicCache

    cache = DynamicCache()  # made without a config, so that sliding layers keep every token
    with torch.no_grad():
        positions = torch.arange(len(ids), device=lm.device)[None] + lm.adaptation.first_position
        lm.decoder(input_ids=ids[None], position_ids=positions, use_cache=True, **{lm.cache_argument: cache})
    layers: list[Any] = cache.layers
    return [(layer.keys[0], layer.values[0]) for layer in layers]


def init_ids(lm: LanguageModel, text: str, length: int) -> Tensor:
    """``[length]`` token ids of ``text`` as a prompt starts (with the beginning-of-text token)."""
    first = lm.tokens.prompts([text])[0]
    more = lm.tokenizer.encode(" " + text, add_special_tokens=False)
    if not first or not more:
        raise UserError(f"init_text {text!r} has no tokens; give a sentence")
    return torch.tensor((first + more * length)[:length], device=lm.device)


def normal(shape: Sequence[int], seed: int, scale: float = 1.0) -> Tensor:
    """fp32 draws from N(0, scale²), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * scale
