"""Tiny random models of many architectures: of each a config of two layers, and weights that matter.

A config takes those of `SIZES` that its class knows, and what is written beside its name.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from encoder_decoders import ENCODER_DECODERS, eager_encoder_decoder
from encoders import ENCODERS, eager_encoder
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

VOCABULARY = 264  # a byte tokenizer's 259, and what a family's own class adds
WIDTH = 32
# Small, with sizes that differ where an architecture lets them: grouped heads, value heads of a size of
# their own, a head size that is not width / heads.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Mixtures of experts.
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "expert_ffn_hidden_size": 24,
    # Latent attention.
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    # State spaces and linear attention.
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    # Names of their own.
    "n_positions": 128,
    "n_ctx": 128,
    "ffn_dim": 48,
    "n_inner": 48,
    "ffn_hidden_size": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_kv_heads": 2,
    "max_seq_len": 128,
}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
DECODER = {"is_decoder": True}
# In a decoder taken out of an encoder-decoder.
NO_ENCODER = {"is_encoder_decoder": False, "is_decoder": True}

# Name -> model type, and what its config has beyond `SIZES`.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": ("afmoe", {}),
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {}),
    "aria": ("aria_text", {"moe_num_experts": 4}),
    "bamba": ("bamba", {"attn_layer_indices": [1]}),
    "bart": ("bart", NO_ENCODER),
    "bert": ("bert", DECODER),
    "biogpt": ("biogpt", {}),
    "bitnet": ("bitnet", {}),
    "blenderbot": ("blenderbot", NO_ENCODER),
    "bloom": ("bloom", {}),
    "codegen": ("codegen", {"rotary_dim": 4}),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "cohere-qk-norm": ("cohere", {"logit_scale": 0.25, "use_qk_norm": True}),
    "cohere2": ("cohere2", SLIDING | {"logit_scale": 0.25}),
    "ctrl": ("ctrl", {"dff": 48}),
    "cwm": ("cwm", {}),
    "deepseek-v2": ("deepseek_v2", {"num_key_value_heads": 4}),
    "deepseek-v3": ("deepseek_v3", {"num_key_value_heads": 4, "first_k_dense_replace": 1}),
    "diffllama": ("diffllama", {}),
    "doge": ("doge", {}),
    "dots1": ("dots1", {"n_shared_experts": 1, "first_k_dense_replace": 1}),
    "ernie4.5": ("ernie4_5", {}),
    "ernie4.5-moe": ("ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1}),
    "exaone4": ("exaone4", SLIDING),
    "falcon": ("falcon", {}),
    "falcon-new": ("falcon", {"new_decoder_architecture": True}),
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": False, "num_kv_heads": 4}),
    "falcon-h1": ("falcon_h1", {}),
    "falcon-mamba": ("falcon_mamba", {"state_size": 4}),
    "flex-olmo": ("flex_olmo", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", SLIDING | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2-uncapped": ("gemma2", SLIDING | {"attn_logit_softcapping": None}),
    "gemma3": ("gemma3_text", SLIDING | {"query_pre_attn_scalar": 10}),
    "gemma3n": (
        "gemma3n_text",
        SLIDING
        | {
            "num_kv_shared_layers": 0,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
        },
    ),
    "gemma4": (
        "gemma4_text",
        SLIDING
        | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "global_head_dim": 16},
    ),
    "gemma4-shared": (  # upper layers attend to the keys of lower ones
        "gemma4_text",
        {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "sliding_window": 8,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "global_head_dim": 24,
        },
    ),
    "gemma4-wide": (  # as published: heads of two sizes
        "gemma4_text",
        SLIDING
        | {
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "global_head_dim": 24,
            "num_global_key_value_heads": 1,
        },
    ),
    "glm": ("glm", {"num_key_value_heads": 2}),
    "glm4": ("glm4", {}),
    "glm4-moe": ("glm4_moe", {"use_qk_norm": True, "first_k_dense_replace": 1}),
    "gpt-sw3": ("gpt-sw3", {}),
    "gpt2": ("gpt2", {}),
    "gpt-bigcode": ("gpt_bigcode", {}),
    "gpt-neo": ("gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": 8}),
    "gpt-neox": ("gpt_neox", {}),
    "gpt-neox-japanese": ("gpt_neox_japanese", {}),
    "gpt-oss": ("gpt_oss", SLIDING),
    "gptj": ("gptj", {"rotary_dim": 4}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.3,
        },
    ),
    "granite-moe": ("granitemoe", {"logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    "granite-moe-hybrid": (
        "granitemoehybrid",
        {"layer_types": ["mamba", "attention"], "logits_scaling": 4.0},
    ),
    "granite-moe-shared": ("granitemoeshared", {"logits_scaling": 4.0}),
    "helium": ("helium", {"head_dim": 8}),
    "hunyuan": ("hunyuan_v1_dense", {}),
    "hunyuan-moe": ("hunyuan_v1_moe", {"moe_topk": 2}),
    "hyperclovax": ("hyperclovax", {}),
    "jais2": ("jais2", {}),
    "jamba": ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1}),
    "jetmoe": ("jetmoe", {}),
    "kimi-linear": (
        "kimi_linear",
        {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "num_key_value_heads": 4,
        },
    ),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "lfm2-moe": ("lfm2_moe", {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    "llama": ("llama", {}),
    "llama-yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama-dynamic": (
        "llama",
        {
            "max_position_embeddings": 40,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
    "llama-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama3-rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama4": ("llama4_text", {"intermediate_size_mlp": 48, "attention_chunk_size": 8}),
    "longcat": (
        "longcat_flash",
        {
            "num_key_value_heads": 4,
            "num_layers": 2,
            "zero_expert_num": 1,
            "head_dim": 8,
            "expert_ffn_hidden_size": 24,
        },
    ),
    "mamba": ("mamba", {"state_size": 4}),
    "mamba2": ("mamba2", {"num_heads": 4, "state_size": 8, "n_groups": 1}),
    "mbart": ("mbart", NO_ENCODER),
    "minicpm3": ("minicpm3", {"num_key_value_heads": 4}),
    "minimax": ("minimax", {"layer_types": ["linear_attention", "full_attention"], "block_size": 4}),
    "minimax-m2": ("minimax_m2", {}),
    "ministral": ("ministral", SLIDING),
    "ministral3": ("ministral3", {}),
    "mistral": ("mistral", {"sliding_window": 8}),
    "mixtral": ("mixtral", {}),
    "modernbert-decoder": ("modernbert-decoder", {"local_attention": 8}),
    "mpt": ("mpt", {}),
    "mvp": ("mvp", NO_ENCODER),
    "nanochat": ("nanochat", {}),
    "nemotron": ("nemotron", {}),
    "nemotron-h": ("nemotron_h", {"layers_block_type": ["mamba", "attention"], "n_groups": 1}),
    "olmo": ("olmo", {}),
    "olmo-clipped": ("olmo", {"clip_qkv": 0.5}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", SLIDING),
    "olmo-hybrid": ("olmo_hybrid", {"layer_types": ["linear_attention", "full_attention"]}),
    "olmoe": ("olmoe", {}),
    "openai-gpt": ("openai-gpt", {}),
    "opt": ("opt", {}),
    "opt-350m": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "pegasus": ("pegasus", NO_ENCODER),
    "persimmon": ("persimmon", {}),
    "phi": ("phi", {}),
    "phi-qk-norm": ("phi", {"qk_layernorm": True}),
    "phi3": ("phi3", {}),
    "phi3-longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 40,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
            },
        },
    ),
    "phimoe": ("phimoe", {}),
    "phimoe-longrope": (
        "phimoe",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
                "short_mscale": 1.2,
                "long_mscale": 1.5,
                "original_max_position_embeddings": 40,
            },
        },
    ),
    "plbart": ("plbart", NO_ENCODER),
    "prophetnet": (
        "prophetnet",
        NO_ENCODER | {"num_decoder_layers": 2, "num_encoder_layers": 1, "num_decoder_attention_heads": 4},
    ),
    "qwen2": ("qwen2", {}),
    "qwen2-moe": ("qwen2_moe", {}),
    "qwen3": ("qwen3", {}),
    "qwen3-moe": ("qwen3_moe", {}),
    "qwen3-next": ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}),
    "recurrent-gemma": ("recurrent_gemma", {"lru_width": WIDTH, "block_types": ["recurrent", "attention"]}),
    "roberta": ("roberta", DECODER),
    "rwkv": ("rwkv", {}),
    "seed-oss": ("seed_oss", {}),
    "smollm3": ("smollm3", {}),
    "stablelm": ("stablelm", {}),
    "stablelm2": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True}),
    "starcoder2": ("starcoder2", {}),
    "trocr": ("trocr", {}),
    "vaultgemma": ("vaultgemma", SLIDING),
    "xglm": ("xglm", {}),
    "xlm-roberta": ("xlm-roberta", DECODER),
    "youtu": ("youtu", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "bailing-hybrid": ("bailing_hybrid", {}),
    "cohere2-moe": ("cohere2_moe", SLIDING),
    "cpmant": ("cpmant", {}),
    "deepseek-v32": ("deepseek_v32", {"num_key_value_heads": 4, "first_k_dense_replace": 1}),
    "deepseek-v4": ("deepseek_v4", {}),
    "electra": ("electra", DECODER),
    "exaone-moe": ("exaone_moe", SLIDING),
    "flint": ("flint", {}),
    "glm-moe-dsa": ("glm_moe_dsa", {"num_key_value_heads": 4}),
    "glm4-moe-lite": ("glm4_moe_lite", {"num_key_value_heads": 4}),
    "granite-swa": ("granite_swa", SLIDING),
    "granite-moe-swa": ("granitemoe_swa", SLIDING),
    "hrm-text": ("hrm_text", {}),
    "hunyuan-v3": ("hy_v3", {}),
    "hunyuan-v4": ("hy_v4", {}),
    "inkling": ("inkling_text", {}),
    "internlm3": ("internlm3", {}),
    "iquestcoder": ("iquestcoder", {}),
    "kolibri1": ("kolibri1", {}),
    "laguna": ("laguna", {}),
    "lfm3": ("lfm3", {}),
    "mellum": ("mellum", {}),
    "mimo-v2-flash": ("mimo_v2_flash", {}),
    "minimax-m3": ("minimax_m3_vl_text", {}),
    "moshi": ("moshi", {}),
    "qwen3.5": ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]}),
    "qwen3.5-moe": ("qwen3_5_moe_text", {"layer_types": ["linear_attention", "full_attention"]}),
    "solar-open": ("solar_open", {}),
}


def config_of(name: str) -> Any:
    """The config of an architecture, two layers and 32 wide."""
    model_type, more = (ARCHITECTURES | ENCODERS | ENCODER_DECODERS)[name]
    kind = CONFIG_MAPPING[model_type]
    known = {*inspect.signature(kind.__init__).parameters, *kind.attribute_map}
    aliased = set(kind.attribute_map.values())
    sizes = {key: value for key, value in SIZES.items() if key in known - aliased | set(kind.attribute_map)}
    config = kind(**sizes | more)
    if name in ENCODERS:
        config.architectures = [MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(model_type, "Gemma3TextModel")]
    return config


def eager_model(name: str, seed: int = 0) -> Any:
    """The model as transformers computes it with its own eager attention, weights away from their start."""
    config = config_of(name)
    if name in ENCODER_DECODERS:
        return eager_encoder_decoder(config, seed)
    if name in ENCODERS:
        return weighted(eager_encoder(config), seed)
    # Falcon's eager attention adds ALiBi twice (test_families has the computation by hand).
    attends = "sdpa" if getattr(config, "alibi", False) else "eager"
    return weighted(AutoModelForCausalLM.from_config(config, attn_implementation=attends).eval(), seed)


def weighted(model: nn.Module, seed: int) -> nn.Module:
    """The frozen model with random weights."""
    randomise(model, seed)
    return model.requires_grad_(False)


def randomise(model: nn.Module, seed: int) -> None:
    """Weights large enough for attention to be far from uniform, and for every norm and bias to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2 or "norm" in name:
                parameter.add_(0.2 * noise)
            elif "embed" in name or VOCABULARY in parameter.shape:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(1.3 * noise * parameter.shape[-1] ** -0.5)
