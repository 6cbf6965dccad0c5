"""The attention hook: the one place where a method's prompt meets the model's attention.

transformers lets an attention function be registered by name and used by every architecture that
follows its interface (Llama, Mistral, Gemma 3, Qwen 3, ...). crosstune registers one, called
``crosstune``. It asks the model's `Adaptation` for the prompts that methods left on the layer:

* none: the model's own scaled dot-product attention, untouched, bit for bit;
* joint: prompt keys and values stand in front of the text's and share its softmax,
  ``softmax(q [P_k; K]^T) [P_v; V]`` (prefix tuning, arXiv 2101.00190);
* gated: a second softmax over the prompt alone is added before the output projection,
  ``softmax(q K^T) V + gate * softmax(q P_k^T) P_v`` (LLaMA-Adapter, arXiv 2303.16199).

One layer may have both. A prompt is visible to every token, also beyond a sliding window. Because nothing
goes through a key/value cache, gradient checkpointing and every decoder shape keep working.

Which kernel computes it never changes what is computed. A prompt in front of plain causal text is causal
order aligned at the lower right: on a GPU flash attention knows that order by itself, so no mask is made and
grouped heads are not repeated. On a CPU, whose kernel takes masks with grouped heads, they are not repeated
either.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from crosstune.errors import UserError
from crosstune.models.adaptation import Prompt, adaptation_of
from crosstune.models.attention import gpu_line as packed
from crosstune.models.attention.cpu_line import Ragged, attend
from crosstune.models.attention.gpu_line import Packed
from crosstune.models.attention.layout import _layout

IMPLEMENTATION = "crosstune"
# What some architectures pass on that changes the scores and that scaled dot-product attention leaves out.
_UNKNOWN = {
    "softcap": "capped attention scores",
    "s_aux": "attention sinks",
    "position_bias": "position biases",
}


def _mask_with_prompt(mask: Tensor | None, n: int, query: Tensor, key: Tensor) -> Tensor | None:
    """The text's mask, widened by ``n`` columns that every row sees.

    Args:
        mask: Boolean ``[batch, 1, rows, columns]`` of the text, or None for plain causal order.
        n: Length of the prompt.
        query: ``[batch, heads, rows, head_dim]``.
        key: ``[batch, kv_heads, columns, head_dim]`` of the text alone.
    """
    if mask is not None:
        return torch.cat([mask.new_ones((*mask.shape[:-1], n)), mask], dim=-1)
    rows, columns = query.shape[2], key.shape[2]
    if rows == 1:
        return None
    # Causal and aligned at the lower right: the last row sees everything.
    seen = torch.ones(rows, n + columns, dtype=torch.bool, device=key.device)
    return seen.tril(n + columns - rows)[None, None]


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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer with the prompts that methods left on it.

    Args:
        module: The attention module.
        query: ``[batch, heads, rows, head_dim]``, rotated.
        key: ``[batch, kv_heads, columns, head_dim]``, rotated.
        value: As ``key``.
        attention_mask: Boolean ``[batch, 1, rows, columns]`` or None for plain causal order.
        dropout: Of attention probabilities.
        scaling: Factor of the scores before the softmax.
        **kwargs: Whatever else the architecture passes on.

    Returns:
        ``[batch, rows, heads, head_dim]`` and None (attention weights are not kept).

    Raises:
        UserError: The architecture asks for something that this attention would leave out.
    """
    for name, what in _UNKNOWN.items():
        if kwargs.get(name) is not None:
            raise UserError(
                f"{type(module).__name__} has {what} ({name}), which are not supported; choose another model"
            )

    def grouped(k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        out = scaled_dot_product_attention(
            query, k, v, mask, dropout, scale=scaling, enable_gqa=k.shape[1] != query.shape[1]
        )
        return out.transpose(1, 2).contiguous()

    def plain(k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and query.device.type == "cpu" and query.shape[2] > 1:
            return grouped(k, v, mask)
        out, _ = sdpa_attention_forward(module, query, k, v, mask, dropout=dropout, scaling=scaling, **kwargs)
        return out

    def gated(prompt: Prompt) -> Tensor:
        assert prompt.gate is not None
        keys, values = (x.expand(key.shape[0], -1, -1, -1) for x in prompt.keys_values())
        extra = scaled_dot_product_attention(
            query, keys, values, scale=scaling, enable_gqa=keys.shape[1] != query.shape[1]
        ).transpose(1, 2)
        return prompt.gate().to(extra.dtype)[:, None] * extra

    def text(front: tuple[Tensor, Tensor] | None) -> Tensor:
        if front is None:
            return plain(key, value, attention_mask)
        keys, values = (x.expand(key.shape[0], -1, -1, -1) for x in front)
        n = keys.shape[2]
        keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        if attention_mask is None and query.shape[2] > 1 and _flash(query, keys, values, dropout):
            return grouped(keys, values, causal_lower_right(query.shape[2], keys.shape[2]))
        return plain(keys, values, _mask_with_prompt(attention_mask, n, query, key))

    adapted = adaptation_of(module)
    prompts = [] if adapted is None else adapted[0].gated(adapted[1])
    line, layout = Ragged.of_mask(attention_mask), _layout.get()
    if line is None and layout is not None and layout.prompts_inside:
        assert attention_mask is not None
        n = key.shape[2] - attention_mask.shape[-1]
        out = plain(key, value, _mask_with_prompt(attention_mask, n, query, key) if n else attention_mask)
    else:
        front = None if adapted is None else adapted[0].joint(adapted[1])
        if line is None:
            out = text(front)
        elif isinstance(line, Packed):
            out = packed.attend(line, query, key, value, scaling, front)
        else:
            out = attend(line, query, key, value, scaling, front)
    for prompt in prompts:
        out = out + gated(prompt)
    return out, None


def attention_mask(
    batch_size: int, q_length: int, kv_length: int, *, local_size: int | None = None, **kwargs: Any
) -> Tensor | None:
    """The mask transformers asks for: plain causal or windowed, or that of the active `Layout`."""
    layout = _layout.get()
    if layout is None:
        mask: Tensor | None = sdpa_mask(batch_size, q_length, kv_length, local_size=local_size, **kwargs)
        return mask
    return layout.mask(local_size)


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, attention_mask)
