"""Families whose attention computes its scores itself: the scores are handed to the hook.

transformers lets most architectures be given an attention function. Those below never ask for one. A model of
theirs is loaded as it is, and then its attention modules become a subclass in which only the part that
attends is the hook's: queries, keys, values, rotations and output projections stay the family's own code.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.models.attention.hook import IMPLEMENTATION, attention
from crosstune.models.attention.layout import pattern_of

Method = Callable[..., Any]


def implementation(config: Any) -> str:
    """What a model is to be loaded with, before it is given to `through_hook`."""
    return "eager" if config.model_type in FAMILIES else IMPLEMENTATION


def reference(config: Any) -> str:
    """Which of transformers' implementations computes what the model was trained with."""
    # Its eager attention adds ALiBi twice: to the scores, and once more with the mask.
    return "sdpa" if config.model_type == "falcon" and config.alibi else "eager"


def through_hook(model: Any) -> None:
    """Let a model that was loaded with `implementation` attend through the hook."""
    classes = FAMILIES.get(model.config.model_type)
    if classes is None:
        return
    model.config._attn_implementation = IMPLEMENTATION  # of its masks
    decoder = model.get_decoder()
    decoder.use_alibi = False  # Falcon's would go into the mask
    for module in decoder.modules():
        if (methods := classes.get(type(module).__name__)) is not None:
            kind: Any = type(module)
            module.__class__ = _with(kind, tuple(methods.items()))


@functools.cache
def _with(kind: type, methods: tuple[tuple[str, Method], ...]) -> type:
    return type(kind.__name__, (kind,), {**dict(methods), "is_causal": True})


def _rate(module: nn.Module, dropout: Any) -> float:
    """Of an attention's dropout now."""
    rate = dropout.p if isinstance(dropout, nn.Dropout) else dropout
    return float(rate) if module.training else 0.0


def _slopes(heads: int, device: torch.device) -> Tensor:
    """ALiBi's slope of each head: a geometric series for powers of two, of others those between as well."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes, device=device)


# --- XGLM -------------------------------------------------------------------------------------------


def _xglm(
    self: Any, hidden_states: Tensor, past_key_values: Any = None, attention_mask: Any = None, **kwargs: Any
) -> tuple[Tensor, None]:
    cache = kwargs.get("cache", past_key_values)
    projections = (self.q_proj, self.k_proj, self.v_proj)
    query, key, value = (
        project(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for project in projections
    )
    if cache is not None:
        key, value = cache.update(key, value, self.layer_idx)
    out, _ = attention(
        self, query, key, value, attention_mask, _rate(self, self.dropout), scaling=self.scaling
    )
    return self.out_proj(out.flatten(2)), None


def _xglm_positions(self: Any, position_ids: Tensor, past_key_values_length: int = 0) -> Tensor:
    """Sines and cosines of the positions themselves: a table of 2,048 is outgrown by a prefix and a text."""
    places, half = position_ids + self.offset, self.embedding_dim // 2
    rates = torch.arange(half, device=places.device).float() * (-math.log(10000) / (half - 1))
    angles = places[..., None].float() * rates.exp()
    states = torch.cat([angles.sin(), angles.cos()], -1)
    states = nn.functional.pad(states, (0, self.embedding_dim % 2))
    if self.padding_idx is not None:
        states = states.masked_fill((places == self.padding_idx)[..., None], 0)
    return states.to(self.weights.dtype)


# --- BLOOM and Falcon -------------------------------------------------------------------------------


def _bloom(
    self: Any,
    hidden_states: Tensor,
    residual: Tensor,
    alibi: Any = None,
    attention_mask: Any = None,
    layer_past: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    query, key, value = self._reshape(self.query_key_value(hidden_states))
    if layer_past is not None:
        key, value = layer_past.update(key, value, self.layer_idx)
    rate = _rate(self, self.attention_dropout)
    slopes = _slopes(self.num_heads, query.device)
    out, _ = attention(
        self, query, key, value, attention_mask, rate, scaling=self.inv_norm_factor, alibi=slopes
    )
    out = self.dense(out.flatten(2))
    return residual + nn.functional.dropout(out, self.hidden_dropout, self.training), None


def _falcon(
    self: Any,
    hidden_states: Tensor,
    alibi: Any = None,
    attention_mask: Any = None,
    position_ids: Any = None,
    layer_past: Any = None,
    position_embeddings: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """With rotations, where Falcon drops no attention; or with an ALiBi in 16 bits, as it was trained."""
    query, key, value = (x.transpose(1, 2) for x in self._split_heads(self.query_key_value(hidden_states)))
    slopes, rate = None, 0.0
    if self.config.alibi:
        slopes = _slopes(self.num_heads, query.device).bfloat16()
        rate = _rate(self, self.attention_dropout)
    else:
        cos, sin = (x[:, None] for x in position_embeddings)
        query, key = (x * cos + _rotate_half(x) * sin for x in (query, key))
    if layer_past is not None:
        key, value = layer_past.update(key, value, self.layer_idx)
    scaling = self.inv_norm_factor
    out, _ = attention(self, query, key, value, attention_mask, rate, scaling=scaling, alibi=slopes)
    return self.dense(out.flatten(2)), None


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


# --- families with a method that attends ------------------------------------------------------------


def _attends(scaling: Callable[[Any], float], dropout: str) -> Method:
    """In place of ``_attn``, which gets queries, keys and values as they are attended with.

    ``scaling`` is of the module's scores, ``dropout`` the name of the module that drops probabilities.
    """

    def attn(
        self: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        query, key = query.to(value.dtype), key.to(value.dtype)  # some rotate in fp32
        if getattr(self, "attention_type", "") == "local":
            attention_mask = _in_window(attention_mask, self.config.window_size, query, key)
        rate = _rate(self, getattr(self, dropout))
        out, _ = attention(self, query, key, value, attention_mask, rate, scaling=scaling(self))
        return out.transpose(1, 2), None

    return attn


def _in_window(mask: Tensor | None, window: int, query: Tensor, key: Tensor) -> Tensor:
    """The mask of every second layer of GPT-Neo, which makes its windows itself."""
    if (pattern := pattern_of(mask)) is not None:
        return pattern.mask(window)
    rows, columns = query.shape[2], key.shape[2]
    near = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)
    near = near.triu(columns - rows - window + 1)[None, None]
    return near if mask is None else near & mask


_GPTJ = {"_attn": _attends(lambda module: 1 / module.scale_attn, "attn_dropout")}
_NEO = {"_attn": _attends(lambda module: 1.0, "attn_dropout")}
_JAPANESE = {"_attn": _attends(lambda module: 1 / module.norm_factor, "attention_dropout")}

FAMILIES: dict[str, dict[str, dict[str, Method]]] = {
    "bloom": {"BloomAttention": {"forward": _bloom}},
    "codegen": {"CodeGenAttention": _GPTJ},
    "falcon": {"FalconAttention": {"forward": _falcon}},
    "gpt_neo": {"GPTNeoSelfAttention": _NEO},
    "gpt_neox_japanese": {"GPTNeoXJapaneseAttention": _JAPANESE},
    "gptj": {"GPTJAttention": _GPTJ},
    "xglm": {
        "XGLMAttention": {"forward": _xglm},
        "XGLMSinusoidalPositionalEmbedding": {"forward": _xglm_positions},
    },
}
"""By model type: which classes get which methods."""
