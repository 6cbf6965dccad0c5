"""Tiny random models of each family, saved the way a hub repository holds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

VOCABULARY = 320
# head_dim is nowhere hidden / heads, and every model has fewer key/value heads than query heads.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=8),
    "gemma3": lambda: Gemma3TextConfig(
        **SIZES, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "qwen3": lambda: Qwen3Config(**SIZES, tie_word_embeddings=True),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tiny_config() -> Callable[[str], Any]:
    """Config of a family's tiny model."""
    return lambda family: FAMILIES[family]()


@pytest.fixture(scope="session")
def save_in() -> Callable[..., Path]:
    """``save_in(folder, family)``: save a tiny model of a family."""

    def save(folder: Path, family: str = "llama", **options: Any) -> Path:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(FAMILIES[family]()).save_pretrained(folder, **options)
        byte_tokenizer().save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def save_tiny(tmp_path: Path, save_in: Callable[..., Path]) -> Callable[..., Path]:
    """Save a tiny model of a family and give its folder."""

    def save(family: str = "llama", folder: str = "model", **options: Any) -> Path:
        return save_in(tmp_path / folder, family, **options)

    return save
