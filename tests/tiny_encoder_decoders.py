"""Tiny random encoder-decoders of five families, and a tokenizer with the tokens of some languages."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    AutoModelForSeq2SeqLM,
    M2M100Config,
    MarianConfig,
    MBartConfig,
    MT5Config,
    PreTrainedTokenizerFast,
    T5Config,
)

from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.models.geometry import Geometry, as_loaded, geometry_of
from saved_model import byte_tokenizer
from tiny_models import DEVICE, copied

VOCABULARY = 268  # the bytes', and tokens of languages
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 256,
    "scale_embedding": True,
    "forced_eos_token_id": None,
    **TOKENS,
}
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 12,  # four heads of it are no 32
    "num_heads": 4,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
    **TOKENS,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "t5": lambda: T5Config(**T5),
    "mt5": lambda: MT5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mbart": lambda: MBartConfig(**BART, decoder_start_token_id=2),
    "nllb": lambda: M2M100Config(**BART, decoder_start_token_id=2),
    "marian": lambda: MarianConfig(**BART, decoder_start_token_id=0, decoder_vocab_size=VOCABULARY),
}
# Of like lengths and of unlike ones, so that batches have padding.
SOURCES = [[3 + (7 * i * i + 5 * i + n) % 250 for i in range(n)] for n in (17, 9, 21)]
TARGETS = [[3 + (5 * i * i + 3 * i + n) % 250 for i in range(n)] for n in (4, 8, 6)]


@copied
def seq2seq_model(family: str, dtype: torch.dtype, implementation: str, seed: int = 0) -> Any:
    """The transformers model alone; the same weights whatever the attention implementation."""
    model = AutoModelForSeq2SeqLM.from_config(CONFIGS[family](), attn_implementation=implementation)
    randomise(model, seed)
    return model.to(DEVICE, dtype).requires_grad_(False).eval()


def randomise(model: Any, seed: int = 0) -> None:
    """Weights large enough for attention to be far from uniform, and for every norm and bias to matter."""
    draw = torch.Generator().manual_seed(seed)
    # Tables of sines are computed when a model is loaded, whatever was saved.
    fixed = {f"{name}.weight" for name, x in model.named_modules() if "Sinusoidal" in type(x).__name__}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=draw)
            if name in fixed:
                continue
            if "relative_attention_bias" in name:
                parameter.copy_(noise)
            elif parameter.dim() < 2:
                parameter.add_(0.2 * noise)
            elif "shared" in name or "embed" in name or "lm_head" in name:
                parameter.copy_(0.4 * noise)
            else:
                # T5's scores are not divided by the root of the head's size.
                scale = 0.4 if name.endswith("Attention.q.weight") else 1.3
                parameter.copy_(scale * noise * parameter.shape[-1] ** -0.5)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=draw))


@copied
def seq2seq_geometry(family: str) -> Geometry:
    """The shape of `seq2seq_model`."""
    return as_loaded(geometry_of(CONFIGS[family]()), seq2seq_model(family, torch.float32, IMPLEMENTATION))


def make_seq2seq(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> EncoderDecoder:
    """A frozen, hooked tiny encoder-decoder with random weights."""
    return EncoderDecoder(
        model=seq2seq_model(family, dtype, IMPLEMENTATION, seed),
        tokenizer=seq2seq_tokenizer(),
        name=f"tiny-{family}",
        revision="0",
        geometry=seq2seq_geometry(family),
    )


def seq2seq_tokenizer(languages: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token a byte, one behind every text, and tokens of languages behind all others."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(languages)})
    ends: Any = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = ends
    return tokenizer


def save_seq2seq(folder: Path, family: str = "mt5", tokenizer: Any = None) -> Path:
    """An encoder-decoder and its tokenizer as a hub repository holds them."""
    seq2seq_model(family, torch.float32, "eager").save_pretrained(folder)
    (tokenizer or seq2seq_tokenizer()).save_pretrained(folder)
    return folder
