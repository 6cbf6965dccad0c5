"""Tiny random encoders, their tokenizer, and the same models as transformers computes them with prompts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    EuroBertConfig,
    Gemma3TextConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)
from transformers.masking_utils import eager_mask

from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.geometry import Geometry, geometry_of
from crosstune.models.language_model import LanguageModel
from saved_model import byte_tokenizer
from tiny_models import DEVICE, copied

WINDOW = 8
SIZES: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DISTIL = {"vocab_size": 260, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}
GROUPED = {"num_key_value_heads": 2, "head_dim": 24}
TYPES = ["sliding_attention", "full_attention"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**SIZES, architectures=["BertForMaskedLM"]),
    "xlm-roberta": lambda: XLMRobertaConfig(**SIZES, architectures=["XLMRobertaForMaskedLM"]),
    "distilbert": lambda: DistilBertConfig(
        **DISTIL, max_position_embeddings=66, pad_token_id=0, architectures=["DistilBertForMaskedLM"]
    ),
    "modernbert": lambda: ModernBertConfig(
        **SIZES | {"cls_token_id": 1, "sep_token_id": 2},
        local_attention=2 * WINDOW,
        layer_types=TYPES,
        architectures=["ModernBertForMaskedLM"],
    ),
    "eurobert": lambda: EuroBertConfig(
        **SIZES | {"mask_token_id": 259}, **GROUPED, architectures=["EuroBertForMaskedLM"]
    ),
    "embeddinggemma": lambda: Gemma3TextConfig(
        **SIZES,
        **GROUPED,
        sliding_window=WINDOW,
        layer_types=TYPES,
        use_bidirectional_attention=True,
        architectures=["Gemma3TextModel"],
    ),
}
WRITTEN_OUT = "test-encoders"


@copied
def encoder_model(family: str, dtype: torch.dtype, implementation: str, seed: int = 0) -> Any:
    """The transformers model alone; the same weights whatever the attention implementation."""
    config = CONFIGS[family]()
    kind = AutoModelForMaskedLM if config.architectures[0].endswith("ForMaskedLM") else AutoModel
    model = kind.from_config(config, attn_implementation=implementation)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.dim() < 2:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * (0.7 if "embed" in name else 1.3 * parameter.shape[-1] ** -0.5))
    return model.to(DEVICE, dtype).requires_grad_(False).eval()


@copied
def encoder_geometry(family: str) -> Geometry:
    """The shape of `encoder_model`."""
    return geometry_of(CONFIGS[family]())


def make_encoder(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> LanguageModel:
    """A frozen, hooked tiny encoder with random weights."""
    return LanguageModel(
        model=encoder_model(family, dtype, IMPLEMENTATION, seed),
        tokenizer=encoder_tokenizer(),
        name=f"tiny-{family}",
        revision="0",
        geometry=encoder_geometry(family),
    )


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, a mask, and a token in front of and behind every text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    ends: Any = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = ends
    return tokenizer


def save_encoder(folder: Path, family: str = "xlm-roberta") -> Path:
    """An encoder and its tokenizer as a hub repository holds them."""
    encoder_model(family, torch.float32, "eager").save_pretrained(folder)
    encoder_tokenizer().save_pretrained(folder)
    return folder


@contextmanager
def planted(model: Any, prompts: Sequence[tuple[Any, Tensor, Tensor, Tensor | None]]) -> Iterator[None]:
    """Inside, attention modules see keys and values ``[heads, n, size]``: joint, or with a gate a head."""
    for module, *prompt in prompts:
        module.test_prompt = prompt
    model.config._attn_implementation = WRITTEN_OUT
    try:
        yield
    finally:
        model.config._attn_implementation = "eager"
        for module, *_ in prompts:
            del module.test_prompt


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    times = query.shape[1] // key.shape[1]
    keys, values, gate = module.test_prompt

    def mixed(k: Tensor, v: Tensor, added: Any) -> Tensor:
        scores = query @ k.repeat_interleave(times, 1).transpose(2, 3) * scaling
        return (scores if added is None else scores + added).softmax(-1) @ v.repeat_interleave(times, 1)

    if gate is None:
        n = keys.shape[1]
        wide = None if mask is None else torch.nn.functional.pad(mask, (n, 0))
        out = mixed(torch.cat([keys[None], key], 2), torch.cat([values[None], value], 2), wide)
    else:
        out = mixed(key, value, mask) + gate[:, None, None] * mixed(keys[None], values[None], None)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(WRITTEN_OUT, _attend)
AttentionMaskInterface.register(WRITTEN_OUT, eager_mask)
