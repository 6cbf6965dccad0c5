from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma3Config, GPT2Config, LlamaConfig

from crosstune.models.geometry import Geometry, geometry_of


def closed_form(config: Any) -> int:
    """Parameters of a Llama-like decoder, added up by hand."""
    d, f, h, n = (
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_hidden_layers,
    )
    q, kv = h * config.head_dim, config.num_key_value_heads * config.head_dim
    norms = {"gemma3_text": 4, "llama": 2, "mistral": 2, "qwen3": 2}[config.model_type] * d
    head_norms = 2 * config.head_dim if config.model_type in ("gemma3_text", "qwen3") else 0
    layer = d * q + 2 * d * kv + q * d + 3 * d * f + norms + head_norms
    if getattr(config, "attention_bias", False):
        layer += q + 2 * kv + d
    return config.vocab_size * d * (1 if config.tie_word_embeddings else 2) + n * layer + d


def test_equals_closed_form_and_real_model(family, tiny_config):
    config = tiny_config(family)
    real = AutoModelForCausalLM.from_config(config)
    shape = geometry_of(config)
    assert shape.parameters == closed_form(config) == sum(p.numel() for p in real.parameters())
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (2, 48, 4, 2, 16)
    assert (shape.intermediate, shape.vocabulary) == (64, 320)
    assert shape.tied == config.tie_word_embeddings
    assert real.model.layers[0].self_attn.k_proj.out_features == shape.kv_size
    assert real.model.layers[0].self_attn.q_proj.out_features == shape.q_size


@settings(max_examples=15, deadline=None)
@given(
    layers=st.integers(1, 4),
    per_head=st.integers(1, 10),
    kv=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.integers(1, 8).map(lambda n: 2 * n),
    tied=st.booleans(),
    bias=st.booleans(),
)
def test_any_llama_shape(layers, per_head, kv, group, head_dim, tied, bias):
    hidden = per_head * kv * group  # transformers insists on a multiple of the heads
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=hidden,
        intermediate_size=30,
        num_hidden_layers=layers,
        num_attention_heads=kv * group,
        num_key_value_heads=kv,
        head_dim=head_dim,
        tie_word_embeddings=tied,
        attention_bias=bias,
    )
    expected = Geometry(layers, hidden, kv * group, kv, head_dim, 30, 50, tied, closed_form(config))
    if bias:
        biases = (kv * group + 2 * kv) * head_dim + hidden
        ((every, _, norms), *_, outside) = expected.counts_with(2 * hidden + biases)
        expected = replace(expected, by_layer=(*[(every, biases, norms - biases)] * layers, outside))
    assert geometry_of(config) == expected


def test_multimodal_config_describes_its_text_decoder(tiny_config):
    text = tiny_config("gemma3")
    config = Gemma3Config(text_config=text, vision_config={"hidden_size": 16, "num_hidden_layers": 1})
    assert geometry_of(config) == geometry_of(text)


def test_family_with_other_names_for_sizes():
    shape = geometry_of(GPT2Config(vocab_size=60, n_embd=24, n_layer=3, n_head=4, n_positions=16))
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (3, 24, 4, 4, 6)
    assert (shape.intermediate, shape.tied) == (96, True)


def test_no_weights_are_made():
    """A trillion parameters would not fit: the count must not allocate."""
    config = LlamaConfig(hidden_size=65536, intermediate_size=262144, num_hidden_layers=20, head_dim=128)
    assert geometry_of(config).parameters > 10**12
    assert torch.get_default_device().type == "cpu"
