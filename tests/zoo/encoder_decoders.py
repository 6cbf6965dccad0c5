"""Encoder-decoders of many architectures, and the forms in which pairs of a source and a target are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from crosstune.models.attention.choose import Source
from crosstune.models.encoder_decoder import EncoderDecoder
from tiny_encoder_decoders import BART, T5, randomise

Pair = tuple[list[int], list[int]]
BART2 = BART | {"decoder_layers": 2}
T52 = T5 | {"num_decoder_layers": 2}
GEMMA = {
    "vocab_size": 268,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "head_dim": 16,
}
GEMMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "sliding_window": 8}
# As `architectures.ARCHITECTURES`. NLLB is of M2M100's class, MBart-50 of mBART's, Flan-T5 of T5 v1.1's.
ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart (encoder-decoder)": ("bart", BART2),
    "bigbird-pegasus": ("bigbird_pegasus", BART2),
    "blenderbot (encoder-decoder)": ("blenderbot", BART2),
    "blenderbot-small": ("blenderbot-small", BART2),
    "fsmt": ("fsmt", BART2 | {"langs": ["en", "de"], "src_vocab_size": 268, "tgt_vocab_size": 268}),
    "led": ("led", BART2),
    "longt5": ("longt5", T52),
    "m2m100 and nllb": ("m2m_100", BART2 | {"decoder_start_token_id": 2}),
    "marian (encoder-decoder)": ("marian", BART2 | {"decoder_start_token_id": 0, "decoder_vocab_size": 268}),
    "mbart and mbart50": ("mbart", BART2 | {"decoder_start_token_id": 2}),
    "mt5": ("mt5", T52 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mvp (encoder-decoder)": ("mvp", BART2),
    "nllb-moe": ("nllb-moe", BART2 | {"num_experts": 4, "decoder_start_token_id": 2}),
    "pegasus (encoder-decoder)": ("pegasus", BART2),
    "pegasus-x": ("pegasus_x", BART2),
    "plbart (encoder-decoder)": ("plbart", BART2),
    "prophetnet (encoder-decoder)": (
        "prophetnet",
        {"vocab_size": 268, "hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2}
        | {
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
    "switch-transformers": ("switch_transformers", T52 | {"num_experts": 4, "num_sparse_encoder_layers": 1}),
    "t5": ("t5", T52),
    "t5 v1.1 and flan": ("t5", T52 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5gemma": ("t5gemma", {"encoder": GEMMA, "decoder": GEMMA, "vocab_size": 268}),
    "umt5": ("umt5", T52),
}


def eager_encoder_decoder(config: Any, seed: int) -> Any:
    """The model on transformers' eager attention, weights away from their start."""
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, seed)
    return model.requires_grad_(False)


def _read(lm: EncoderDecoder, pairs: list[Pair]) -> list[Tensor]:
    """Logits of targets behind their sources, in one padded batch."""
    width = max(len(target) for _, target in pairs)
    ids = torch.tensor([[*target, *[lm.pad_id] * (width - len(target))] for _, target in pairs])
    states = lm.hidden(ids, source=Source.of([source for source, _ in pairs], lm.pad_id, lm.device))
    return [lm.logits(row[: len(target)]) for row, (_, target) in zip(states, pairs, strict=True)]


def _alone(lm: EncoderDecoder, pairs: list[Pair]) -> list[Tensor]:
    return [_read(lm, [pair])[0] for pair in pairs]


def _steps(lm: EncoderDecoder, pairs: list[Pair]) -> list[Tensor]:
    """Two tokens together, then one after the other, behind a source that is read once."""
    logits = []
    for source, target in pairs:
        encoded, cache = lm.encode(Source.of([source], lm.pad_id, lm.device)), lm.new_cache()
        parts = [target[:2], *([token] for token in target[2:])]
        logits.append(
            lm.logits(torch.cat([lm.decode(torch.tensor([part]), encoded, cache)[0] for part in parts]))
        )
    return logits


FORMS: dict[str, Callable[[EncoderDecoder, list[Pair]], list[Tensor]]] = {
    "a text alone": _alone,
    "padded rows": _read,
    "decoding steps": _steps,
}
