"""The attention hook: the one place where a method's prompt meets the model's attention.

transformers lets an attention function be registered by name and used by every architecture that
follows its interface (Llama, Gemma 3, Qwen 3, BERT, mBART, T5, ...). crosstune registers one, called
``crosstune``. It asks the model's `Adaptation` for the prompts that methods left on the layer:

* none: the model's own scaled dot-product attention, untouched, bit for bit;
* joint: prompt keys and values stand in front of the text's and share its softmax,
  ``softmax(q [P_k; K]^T) [P_v; V]`` (prefix tuning, arXiv 2101.00190);
* gated: a second softmax over the prompt alone is added before the output projection,
  ``softmax(q K^T) V + gate * softmax(q P_k^T) P_v`` (LLaMA-Adapter, arXiv 2303.16199).

One layer may have both. A prompt is visible to every token: also beyond a sliding window, and where an
additive position bias (T5's) is learned for the distance between tokens: a prompt has no position, its bias
is 0. Because nothing goes through a key/value cache, gradient checkpointing and every decoder shape keep
working.

A module says whether it is causal (``is_causal``). Without a mask a causal module's tokens see those before
them; those of another (an encoder's self-attention, cross-attention) see everything. An attention pattern
(`crosstune.models.attention.layout`) orders the text of causal self-attention alone, or, where it is
two-way, that of an encoder, or of those layers of a causal model that a method lets see behind
(`Part.two_way`), while its others stay causal: cross-attention inside the same forward keeps its own mask,
whose keys are another text's, one row of them for each line. A causal pattern where a module is not causal
is refused in one line; every pattern with position biases too, which are computed for columns and not for
the patterns' positions. ALiBi and attention sinks (`crosstune.models.attention.biases`) go with every
pattern.

Scores that are capped (Gemma 2) are written out, prompts' scores like the text's: no kernel knows them.

Which kernel computes it never changes what is computed. A prompt in front of plain causal text is causal
order aligned at the lower right: on a GPU flash attention knows that order by itself, so no mask is made and
grouped heads are not repeated. On a CPU, whose kernel takes masks with grouped heads, they are not repeated
either. In a step of writing there is one query a head and no order among them: heads that share keys are the
rows of one product, with any kernel; or a GPU's reads the cache where it stands.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from crosstune.errors import UserError
from crosstune.models.adaptation import Prompt, prompts_of, sees_behind
from crosstune.models.attention import gpu_line
from crosstune.models.attention.biases import with_alibi, with_sinks
from crosstune.models.attention.cpu_line import PaddingFreeBatch, attend
from crosstune.models.attention.flash.next_tokens import NextTokens
from crosstune.models.attention.gpu_line import VarlenBatch
from crosstune.models.attention.layout import Attended, in_use, pattern_of
from crosstune.models.attention.own_keys import Captured, capturing

IMPLEMENTATION = "crosstune"


def _lower_right(rows: int, columns: int, device: torch.device) -> Tensor:
    """Causal order, ``[1, 1, rows, columns]``, in which the last row sees every column."""
    seen = torch.ones(rows, columns, dtype=torch.bool, device=device)
    return seen.tril(columns - rows)[None, None]


def _with_prompt(mask: Tensor | None, n: int, rows: int, key: Tensor, causal: bool) -> Tensor | None:
    """The text's mask ``[batch, 1, rows, columns]``, widened by ``n`` columns in front that every row sees.

    Boolean or to be added; None for plain causal order, or in a module that is not causal for no mask.
    """
    if mask is not None:
        return pad(mask, (n, 0), value=mask.dtype == torch.bool)
    return _lower_right(rows, n + key.shape[2], key.device) if causal and rows > 1 else None


def _with_bias(mask: Tensor | None, bias: Tensor, causal: bool) -> Tensor:
    """The bias ``[1 or batch, heads, rows, columns]``, and the lowest number for pairs that are not seen.

    No mask means plain causal order, or none at all in a module that is not causal or with one row.
    """
    if mask is None and causal and bias.shape[2] > 1:
        mask = _lower_right(bias.shape[2], bias.shape[3], bias.device)
    if mask is None:
        return bias
    if mask.dtype != torch.bool:
        return bias + mask
    return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float,
    cap: float,
    dropout: float = 0.0,
) -> Tensor:
    """``softmax(cap * tanh(scaling * Q K' / cap) + mask) V``, ``[batch, rows, heads, size]``.

    Queries ``[batch, heads, rows, head_dim]``, keys and values ``[batch, kv_heads, columns, head_dim or
    size]``; mask as in `_with_bias`.
    """
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = cap * torch.tanh(query @ key.transpose(2, 3) * (scaling / cap))
    weights = torch.softmax(_with_bias(mask, scores, causal), -1, dtype=torch.float32).to(value.dtype)
    return (torch.dropout(weights, dropout, True) @ value).transpose(1, 2)


def _flash(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether a flash kernel takes these: on a GPU, in 16 bits, heads not too large."""
    if query.device.type != "cuda":
        return False
    grouped = key.shape[1] != query.shape[1]
    params = torch.backends.cuda.SDPAParams(query, key, value, None, dropout, False, grouped)
    return torch.backends.cuda.can_use_flash_attention(params)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    alibi: Tensor | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer with the prompts that methods left on it.

    Args:
        module: The attention module.
        query: ``[batch, heads, rows, head_dim]``, rotated.
        key: ``[batch, kv_heads, columns, head_dim]``, rotated; of another text in cross-attention.
        value: As ``key``, of any size.
        attention_mask: ``[batch, 1, rows, columns]``, boolean or to be added; None for plain causal order,
            or for no mask at all where the module is not causal.
        dropout: Of attention probabilities.
        scaling: Factor of the scores before the softmax.
        position_bias: ``[1 or batch, heads, rows, columns]``, added to the scores of the text's columns.
        softcap: Scores become ``softcap * tanh(score / softcap)``; None leaves them.
        alibi: ``[heads]``: how much scores fall with each token of distance; None for not at all.
        s_aux: ``[heads]``: attention sinks, a score more in each softmax over the text.
        **kwargs: Whatever else the architecture passes on.

    Returns:
        ``[batch, rows, heads, head_dim]`` and None (attention weights are not kept).

    Raises:
        UserError: The architecture asks for a path that is causal only where it is not.
    """
    if (wanted := capturing.get()) is not None:
        if wanted == "keys":
            raise Captured(key, value)
        return value.new_zeros(*query.shape[:1], query.shape[2], query.shape[1], value.shape[-1]), None
    is_causal = kwargs.pop("is_causal", None)
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    attention_mask, pattern = _pattern(module, attention_mask, key, causal, alibi)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    biased = not all(x is None for x in (softcap, position_bias, alibi, s_aux))
    stepped, attention_mask, pattern = _step(attention_mask, pattern, query, key, value, scale, biased)
    line = pattern if isinstance(pattern, PaddingFreeBatch) else None
    _refuse(module, query, key, causal, line is not None, position_bias)
    prompts = prompts_of(module)
    inside = causal and (use := in_use()) is not None and use.pattern.prompts_inside
    joint, rows, own_query = None if inside else prompts.joint(), query.shape[2], query
    if inside and attention_mask is not None and (n := key.shape[2] - attention_mask.shape[-1]):
        attention_mask = _with_prompt(attention_mask, n, rows, key, causal)
    if alibi is not None or s_aux is not None:
        scaling = scale  # of the query as it was
    if alibi is not None:
        query, key, joint = with_alibi(alibi, query, key, joint, pattern, scale)
    if s_aux is not None:
        query, key, joint = with_sinks(s_aux, query, key, value, joint, scale)

    def grouped(k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = scaled_dot_product_attention(
            query, k, v, mask, dropout, scale=scaling, enable_gqa=k.shape[1] != query.shape[1]
        )
        return out.transpose(1, 2).contiguous()

    def plain(k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if softcap is not None:
            return _capped(query, k, v, mask, causal, scale, softcap, dropout)
        if position_bias is not None:
            bias = pad(position_bias, (k.shape[2] - position_bias.shape[-1], 0)).to(query.dtype)
            return grouped(k, v, _with_bias(mask, bias, causal))
        if mask is not None and rows == mask.shape[1] == 1:
            return _one_row(query, k, v, mask, dropout, scaling)
        if mask is not None and query.device.type == "cpu":
            return grouped(k, v, mask)
        out, _ = sdpa_attention_forward(
            module, query, k, v, mask, dropout=dropout, scaling=scaling, is_causal=causal, **kwargs
        )
        return out

    def text(front: tuple[Tensor, Tensor] | None) -> Tensor:
        if front is None:
            return plain(key, value, attention_mask)
        keys, values = (x.expand(key.shape[0], -1, -1, -1) for x in front)
        n = keys.shape[2]
        keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        bare = attention_mask is None and position_bias is None and softcap is None
        if causal and bare and rows > 1 and _flash(query, keys, values, dropout):
            return grouped(keys, values, causal_lower_right(rows, keys.shape[2]))
        return plain(keys, values, _with_prompt(attention_mask, n, rows, key, causal))

    if stepped is not None:
        out = stepped
    elif isinstance(line, VarlenBatch) and softcap is None and query.shape[-1] == value.shape[-1]:
        out = gpu_line.attend(line, query, key, value, scaling, joint)
    elif line is not None:
        out = attend(line, query, key, value, scaling, joint, softcap)
    else:
        out = text(joint)
    for prompt in prompts.gated():
        out = out + _gated(prompt, own_query, scale, softcap)
    return out, None


def _one_row(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, scaling: float | None
) -> Tensor:
    """``[batch, 1, heads, size]``: there is no order among queries, so heads that share keys are rows."""
    rows = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    return scaled_dot_product_attention(rows, key, value, mask, dropout, scale=scaling).flatten(1, 2)[:, None]


def _gated(prompt: Prompt, query: Tensor, scale: float, softcap: float | None) -> Tensor:
    """What a gated prompt adds, ``[batch, rows, heads, size]``."""
    assert prompt.gate is not None
    keys, values = (x.expand(query.shape[0], -1, -1, -1) for x in prompt.keys_values())
    if softcap is not None:
        extra = _capped(query, keys, values, None, False, scale, softcap)
    else:
        grouped = keys.shape[1] != query.shape[1]
        extra = scaled_dot_product_attention(query, keys, values, scale=scale, enable_gqa=grouped)
        extra = extra.transpose(1, 2)
    return prompt.gate().to(extra.dtype)[:, None] * extra


def _pattern(
    module: nn.Module, mask: Tensor | None, key: Tensor, causal: bool, alibi: Tensor | None
) -> tuple[Tensor | None, Attended | None]:
    """The mask, and the `pattern_of` it; an error where it was cut on its way, and no longer says.

    Of a two-way pattern a causal module takes what is not behind a token, unless it is to see that too.
    """
    pattern = pattern_of(mask)
    if pattern is None and mask is not None and mask.shape[-1] == 1 < key.shape[2]:
        raise RuntimeError(f"{type(module).__name__} got a mask that is not the one made for it")
    if causal and mask is not None and pattern is not None and pattern.two_way:
        if alibi is not None:
            raise UserError(f"{type(module).__name__}: ALiBi's distances have one way only; take two_way out")
        if not sees_behind(module):
            mask = mask & _lower_right(mask.shape[-2], mask.shape[-1], mask.device)
    return mask, pattern


def _step(
    mask: Tensor | None,
    pattern: Attended | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    biased: bool,
) -> tuple[Tensor | None, Tensor | None, Attended | None]:
    """What a kernel that reads the cache in place gives, or else the mask and the pattern to go on with."""
    if not isinstance(pattern, NextTokens):
        return None, mask, pattern
    out = pattern.attend(query, key, value, scale, biased)
    return out, pattern.cache.seen(pattern.window) if out is None else None, pattern.cache


def _refuse(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    causal: bool,
    padding_free: bool,
    bias: Tensor | None,
) -> None:
    """Raise a one-line `UserError` where this attention would see what it should not."""
    name, use = type(module).__name__, in_use()
    two_way = use is not None and use.applied and use.pattern.two_way
    if not causal and not two_way and (padding_free or (use is not None and not use.applied)):
        raise UserError(
            f"{name} is not causal, and padding-free batches, packed sequences and decoding slots are for "
            "causal self-attention only; give it one text a row, with a mask for its padding"
        )
    if (causal or two_way) and bias is not None and (padding_free or use is not None):
        raise UserError(
            f"{name} has position biases, which padding-free batches, packed sequences and decoding slots "
            "would give to the wrong tokens; give it one text a row, with a mask for its padding"
        )
    if query.shape[0] != key.shape[0]:
        raise UserError(
            f"{name} got {query.shape[0]} rows of queries and {key.shape[0]} of keys: where texts share a "
            "row, cross-attention cannot tell their sources apart; give it one text a row"
        )


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    mask_function: Callable[..., Any],
    local_size: int | None = None,
    allow_is_bidirectional_skip: bool = False,
    **kwargs: Any,
) -> Tensor | None:
    """The mask transformers asks for: its own, or that of the attention pattern in use.

    A causal pattern is for causal order alone, a two-way one for every mask of an encoder.
    """
    use = in_use()
    causal = mask_function is not bidirectional_mask_function and not allow_is_bidirectional_skip
    if use is not None and (causal or use.pattern.two_way):
        use.applied = True
        # A two-way window of transformers' own making has its last token in it, one made of a causal one not.
        ends = use.pattern.two_way and not causal and local_size is not None
        return use.pattern.mask(local_size + 1 if ends and local_size is not None else local_size)
    mask: Tensor | None = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        mask_function=mask_function,
        local_size=local_size,
        allow_is_bidirectional_skip=allow_is_bidirectional_skip,
        **kwargs,
    )
    return mask


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, attention_mask)
