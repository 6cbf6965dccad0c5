"""Small copies of an architecture: of a config the first layers, one of each kind, with random weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crosstune.errors import UserError
from crosstune.models.attention.families import implementation, reference, through_hook
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.models.family import encoder_decoder, from_config, stack_of, text_config, uncached
from crosstune.models.geometry import geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.config import one_line
from crosstune.models.loading.log_noise import without_notices

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MOST = 300_000_000
"""Parameters of a copy, beyond which it is not made."""
VOCABULARY = 64
_WIDTHS = (
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "expert_ffn_hidden_size",
    "ffn_dim",
    "n_inner",
    "decoder_ffn_dim",
    "encoder_ffn_dim",
)
# Of an encoder-decoder, by the names that families have for them.
_LAYERS = ("encoder_layers", "decoder_layers", "num_layers", "num_decoder_layers", "num_hidden_layers")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Sizes that decide how long the copy takes and not how it computes: at most so much of each.
_SMALL: dict[str, int] = {
    "sliding_window": 8,
    "window_size": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "encoder_layers": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    **dict.fromkeys(_EXPERTS, 8),
    **dict.fromkeys(_WIDTHS, 64),
}


def copies(config: PretrainedConfig) -> tuple[Any, LanguageModel]:
    """A small model on transformers' own attention, and one of the same weights through the hook.

    Raises:
        UserError: None can be made.
    """
    text: Any = text_config(config)
    error: Exception | None = None
    for sizes in (_SMALL, {}):
        try:
            small = _shrunk(text, sizes)
            with torch.device("meta"):
                on_meta = from_config(small)
            if sum(p.numel() for p in on_meta.parameters()) > MOST:
                raise UserError(f'"{text.model_type}" is too large to be tried on a small copy')
            with without_notices():
                eager = from_config(
                    copy.deepcopy(small), attn_implementation=reference(small), dtype=torch.float32
                )
                _randomise(eager.eval().requires_grad_(False))
                ids = torch.tensor([[1, 2, 3]])
                written = {"decoder_input_ids": ids} if encoder_decoder(small) else {}
                eager(input_ids=ids, **written, **uncached(small))
            break
        except Exception as caught:
            error = error or caught
    else:
        raise UserError(
            f'"{text.model_type}": a small copy of the model cannot be computed '
            f"({one_line(error or Exception())}); choose another model or report it"
        ) from error
    try:
        with without_notices():
            hooked = from_config(
                copy.deepcopy(small), attn_implementation=implementation(small), dtype=torch.float32
            )
        through_hook(hooked)
        hooked.load_state_dict(eager.state_dict(), assign=True)
    except Exception as caught:
        raise UserError(
            f"{type(eager).__name__} does not take an attention function ({type(caught).__name__}: "
            f"{one_line(caught)}); choose another model or report it"
        ) from caught
    hooked.requires_grad_(False).eval()
    shape = geometry_of(small)
    kind = EncoderDecoder if shape.encoder_layers else LanguageModel
    return eager, kind(hooked, None, f'"{text.model_type}"', "probe", shape)


def _shrunk(text: Any, sizes: dict[str, int]) -> Any:
    """A config of the first layers, one of each kind among them, and of a small vocabulary."""
    small = copy.deepcopy(text)
    if encoder_decoder(small):
        for name in _LAYERS:
            if isinstance(layers := getattr(small, name, None), int):
                setattr(small, name, min(2, layers))
        return _with_few_words(small, sizes)
    layers = small.num_hidden_layers
    few = min(layers, max(2, _kinds(small)))
    small.num_hidden_layers = few
    for name, value in vars(text).items():
        if isinstance(value, list | tuple) and len(value) == layers and layers > few:
            setattr(small, name, value[:few])
    return _with_few_words(small, sizes)


def _with_few_words(small: Any, sizes: dict[str, int]) -> Any:
    """The config with at most so much of each size, and of a small vocabulary."""
    for name, most in sizes.items():
        value = getattr(small, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > most:
            setattr(small, name, most)
    small.vocab_size = VOCABULARY
    if hasattr(small, "decoder_vocab_size"):
        small.decoder_vocab_size = VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, 0)
    return small


def _kinds(text: Any) -> int:
    """How many of the first layers it takes until every kind of layer is among them."""
    with torch.device("meta"):
        model = from_config(copy.deepcopy(text))
    layers = getattr(stack_of(model), "layers", ())
    seen: dict[Any, int] = {}
    for i, layer in enumerate(layers):
        kind = tuple(
            (
                name,
                type(module).__name__,
                *(tuple(p.shape) for p in module.parameters(recurse=False)),
                *(
                    (key, value)
                    for key, value in sorted(vars(module).items())
                    if isinstance(value, int | float | str | None) and key not in ("layer_idx", "layer_id")
                ),
            )
            for name, module in layer.named_modules()
        )
        seen.setdefault(kind, i)
    return max(seen.values(), default=1) + 1


def _randomise(model: nn.Module) -> None:
    """Weights large enough for attention to be far from uniform, and for every norm and bias to matter."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2 or "norm" in name:
            parameter.data.add_(0.2 * noise)
        elif "relative_attention_bias" in name:
            parameter.data.copy_(noise)
        elif parameter.shape[0] == VOCABULARY:
            parameter.data.copy_(0.3 * noise)
        else:
            parameter.data.copy_(1.3 * noise * parameter.shape[-1] ** -0.5)
