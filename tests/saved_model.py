"""A tiny random Llama in a folder, with a byte-level tokenizer, and a study on it: whole runs in a second."""

from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and a token before every text: 259 in all."""
    tokens = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def save_model(folder: Path, seed: int = 0, **changes: int) -> Path:
    """Write the model and its tokenizer; another seed gives other weights, ``changes`` another config."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **{"head_dim": 16, **changes},
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def study_of(model: Path, store: Path, **changes: Any) -> dict[str, Any]:
    """A study of seconds: two methods that need no training, and one that trains for three steps."""
    return {
        "name": "tiny",
        "model": str(model),
        "device": "cpu",
        "dtype": "float32",
        "tasks": ["cldr-names"],
        "methods": ["lora", {"name": "few-shot", "k": 2}, "none"],
        "languages": ["de", "ru"],
        "train": {"steps": 3, "batch_size": 4},
        "evaluate": {"limit": 4, "max_answer_tokens": 4},
        "store": str(store),
    } | changes


def write_study(file: Path, study: dict[str, Any]) -> Path:
    """Put a study into a file."""
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return file
