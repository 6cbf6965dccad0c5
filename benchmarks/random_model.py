"""Random weights in the shape of a well-known model: what a step costs does not depend on what they say."""

import copy
import tempfile
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.geometry import Geometry, geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.known import KNOWN
from crosstune.models.loading.load import load

_TINY = Geometry(2, 128, 4, 2, 32, 96, 512, tied=False, parameters=0)
SHAPES = {
    "tiny": _TINY,
    "1b": KNOWN["llama-3.2-1b"],
    "8b": KNOWN["llama-3.1-8b"],
    "24b": KNOWN["mistral-small-24b"],
}


def llama_config(shape: str) -> LlamaConfig:
    """The config of a Llama of that shape."""
    g = SHAPES[shape]
    return LlamaConfig(
        vocab_size=g.vocabulary,
        hidden_size=g.hidden,
        intermediate_size=g.intermediate,
        num_hidden_layers=g.layers,
        num_attention_heads=g.heads,
        num_key_value_heads=g.kv_heads,
        head_dim=g.head_dim,
        tie_word_embeddings=g.tied,
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def random_lm(
    shape: str, device: torch.device, dtype: torch.dtype, quantize: str | None = None
) -> LanguageModel:
    """A Llama of that shape with seeded weights; on a CPU those to be quantised come from a folder."""
    config = llama_config(shape)
    g = SHAPES[shape]
    if quantize == "4bit" and device.type == "cuda":
        model = in_4_bits(config, device, dtype)
        return LanguageModel(model, tokenizer(g.vocabulary), f"random-{shape}", "0", geometry_of(config))
    torch.manual_seed(0)
    with torch.device("cpu" if quantize else device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=IMPLEMENTATION)
    words = tokenizer(g.vocabulary)
    if quantize:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            words.save_pretrained(folder)
            del model
            return load(
                folder, device=str(device), dtype=str(dtype).removeprefix("torch."), quantize=quantize
            )
    model.requires_grad_(False).eval()
    return LanguageModel(model, words, f"random-{shape}", "0", geometry_of(config))


def in_4_bits(config: LlamaConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with NF4 weights, each drawn on the device and quantised there: 24B of them take no disk."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=IMPLEMENTATION)
    draw = torch.Generator(device).manual_seed(0)

    def drawn(shape: torch.Size) -> torch.Tensor:
        return torch.empty(shape, device=device, dtype=dtype).normal_(std=0.02, generator=draw)

    for name, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            sizes = (module.in_features, module.out_features)
            layer = Linear4bit(*sizes, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
            packed = Params4bit(drawn(module.weight.shape), requires_grad=False, quant_type="nf4")
            layer.weight = packed.to(device)
            model.model.set_submodule(name, layer)
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            value = (
                drawn(parameter.shape) if parameter.dim() > 1 else torch.ones_like(parameter, device=device)
            )
            owner = model.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(value))
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.tie_weights()
    model.is_quantized = model.is_loaded_in_4bit = True
    return model.requires_grad_(False).eval()


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A word for every token id, so that answers are compared token by token."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def twin(model: Any, share: bool = True) -> Any:
    """The model for the other side: transformers' own attention over the same weights (or copies of them)."""
    kept = [*model.parameters(), *model.buffers()] if share else []
    other = copy.deepcopy(model, memo={id(tensor): tensor for tensor in kept})
    other.set_attn_implementation("sdpa")
    return other
