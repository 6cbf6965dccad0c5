"""Counts in closed form equal what is attached, and the figures of the published models."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, LlamaConfig

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.budget import solve
from crosstune.methods.config import Layered
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.geometry import Geometry, geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.known import KNOWN
from tiny_models import CASES, CONFIGS, FAMILIES, make_lm, make_method

LLAMA_8B = Geometry(32, 4096, 32, 8, 128, 14336, 128256, False, 8030261248)
LLAMA_1B = Geometry(16, 2048, 32, 8, 64, 8192, 128256, True, 1235814400)
MISTRAL_7B = Geometry(32, 4096, 32, 8, 128, 14336, 32768, False, 7248023552)
MISTRAL_24B = Geometry(40, 5120, 32, 8, 128, 32768, 131072, False, 23572403200)
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def count(geometry: Geometry, name: str, **config: Any) -> int:
    method = METHODS[name]
    return method.count(method.Config(**config), geometry)


@pytest.mark.parametrize(
    ("wanted", "name", "config"),
    [
        (1_228_800, "prefix", {"length": 10, "layers": 30}),
        (1_228_800, "prefix", {"length": 20, "layers": 30, "space": "kv"}),
        (655_360, "prefix", {"length": 10, "space": "kv"}),
        (1_048_576, "prefix", {"length": 16, "space": "kv"}),
        (1_179_648, "prefix", {"length": 18, "space": "kv"}),
        (1_245_184, "prefix", {"length": 19, "space": "kv"}),
        (1_310_720, "prefix", {"length": 20, "space": "kv"}),
        (1_966_080, "prefix", {"length": 30, "space": "kv"}),
        (1_229_760, "llama-adapter", {"length": 10, "layers": 30}),
        (1_228_830, "llama-adapter", {"length": 10, "layers": 30, "gate": "layer"}),
        (1_228_800, "soft-prompt", {"length": 300}),
        (40_960, "soft-prompt", {"length": 10}),
        (409_600, "soft-prompt", {"length": 100}),
        (1_703_936, "lora", {"rank": 4}),
        (2_359_296, "lora", {"rank": 4, "target_modules": ("q_proj", "k_proj", "v_proj")}),
        (3_407_872, "lora", {"rank": 4, "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")}),
        (10_485_760, "lora", {"rank": 4, "target_modules": ALL_LINEAR}),
        (1_310_720, "lora", {"rank": 4, "target_modules": ("k_proj", "v_proj")}),
        (1_048_576, "lora", {"rank": 4, "target_modules": ("q_proj",)}),
        (67_248_128, "bottleneck", {"placement": "pfeiffer"}),
        (134_496_256, "bottleneck", {"placement": "houlsby"}),
        (537_067_520, "bottleneck", {"width": "d/2"}),
        (1_179_776, "bottleneck", {"width": 4}),
        (811_072, "compacter", {}),
        (524_288, "ia3", {}),
        (8_030_261_248, "full", {}),
        (266_240, "full", {"only": "norms"}),
        (436_224_000, "full", {"layers": 2}),
        (16_384, "full", {"layers": [0, 5], "only": "norms"}),
        (0, "none", {}),
        (0, "few-shot", {"k": 8}),
    ],
)
def test_llama_3_1_8b(wanted, name, config):
    assert count(LLAMA_8B, name, **config) == wanted


def test_other_published_models():
    assert count(LLAMA_1B, "lora", rank=4) == 425_984
    assert count(MISTRAL_7B, "lora", rank=4) == 1_703_936
    assert count(MISTRAL_24B, "lora", rank=4) == 2_457_600
    assert count(LLAMA_1B, "prefix", length=10, layers=14) == 286_720
    assert count(MISTRAL_24B, "prefix", length=10, layers=38) == 1_945_600


@pytest.mark.parametrize(
    ("model", "pfeiffer", "houlsby", "half", "compacter", "ia3", "width", "near"),
    [
        ("llama-3.1-8b", 67_248_128, 134_496_256, 537_067_520, 811_072, 524_288, 4, 1_179_776),
        ("llama-3.2-1b", 8_423_424, 16_846_848, 67_158_016, 202_816, 147_456, 18, 1_212_704),
        ("gemma-3-270m", 933_840, 1_867_680, 7_390_080, 71_344, 46_080, 53, 1_233_594),
        ("qwen3-0.6b", 3_700_480, 7_400_960, 29_403_136, 177_472, 143_360, 21, 1_233_484),
    ],
)
def test_adapters_of_published_sizes(model, pfeiffer, houlsby, half, compacter, ia3, width, near):
    geometry = KNOWN[model]
    assert count(geometry, "bottleneck", placement="pfeiffer") == pfeiffer
    assert count(geometry, "bottleneck", placement="houlsby") == houlsby
    assert count(geometry, "bottleneck", placement="parallel") == half
    assert count(geometry, "compacter") == compacter
    assert count(geometry, "ia3") == ia3
    solved = solve("bottleneck", METHODS["bottleneck"].Config(), geometry, 1_230_000)
    assert (solved.size, solved.count) == (width, near)


@pytest.fixture(scope="module")
def llama_8b() -> LanguageModel:
    """Of its true size, without storage."""
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION)
    assert geometry_of(config) == LLAMA_8B
    return LanguageModel(model.requires_grad_(False), None, "llama", "0", LLAMA_8B)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("bottleneck", {"placement": "pfeiffer"}),
        ("bottleneck", {"width": 4, "sublayers": "both", "scale": "learned"}),
        ("compacter", {}),
        ("ia3", {}),
    ],
    ids=str,
)
def test_what_is_attached_to_llama_3_1_8b(llama_8b, name, config):
    assert attached(llama_8b, METHODS[name](METHODS[name].Config(**config))) == count(
        LLAMA_8B, name, **config
    )


def attached(lm, method) -> int:
    method.attach(lm)
    total = method.trained_parameters()
    method.detach()
    return total


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("case", sorted(CASES))
def test_count_equals_what_is_attached(tiny_lm, kind, case):
    lm, method = tiny_lm(kind), make_method(case)
    assert method.count(method.config, lm.geometry) == attached(lm, method)
    assert method.trains == (method.needs_head or method.count(method.config, lm.geometry) > 0)
    assert (method.default_rate is not None) == method.trains


PLACES: list[dict[str, Any]] = [
    {"placement": "inside"},
    {"placement": "inside", "sublayers": "both", "scale": "learned"},
    {"placement": "houlsby"},
    {"placement": "houlsby", "sublayers": "mlp"},
    {"placement": "pfeiffer", "scale": "learned"},
    {"placement": "parallel", "width": "d/7"},
]
LMS = {family: make_lm(family) for family in FAMILIES}
LAYERS = st.one_of(st.none(), st.integers(1, 3), st.lists(st.integers(0, 2), min_size=1, unique=True))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(FAMILIES),
    LAYERS,
    st.integers(1, 70),
    st.sampled_from(["hidden", "kv"]),
    st.sampled_from([None, 1, 7]),
    st.sampled_from(["text", "random"]),
    st.sampled_from(["head", "layer"]),
    st.integers(1, 9),
    st.sets(st.sampled_from(ALL_LINEAR), min_size=1),
    st.sampled_from(PLACES),
)
def test_counts_of_any_setting(family, layers, length, space, inner, init, gate, rank, targets, place):
    lm = LMS[family]
    settings_of: dict[str, dict[str, Any]] = {
        "soft-prompt": {"length": length, "init": init},
        "prefix": {"length": length, "layers": layers, "space": space, "reparameterise": inner, "init": init},
        "llama-adapter": {"length": length, "layers": layers, "gate": gate, "init": init},
        "lora": {"layers": layers, "rank": rank, "target_modules": tuple(sorted(targets))},
        "bottleneck": {"layers": layers, "width": length, **place},
        "compacter": {"layers": layers, "width": 2 * length, "n": 2, "rank": rank},
    }
    for name, config in settings_of.items():
        assert count(lm.geometry, name, **config) == attached(
            lm, METHODS[name](METHODS[name].Config(**config))
        )


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if issubclass(method.Config, Layered)]
)
@pytest.mark.parametrize(
    ("layers", "words"), [(4, "has 3"), (0, "give 1 to"), ([3], "0 to 2"), ([], "empty")]
)
def test_layers_the_model_does_not_have(tiny_lm, name, layers, words):
    lm = tiny_lm("llama")
    method = METHODS[name](METHODS[name].Config(layers=layers))
    with pytest.raises(UserError, match=words):
        method.count(method.config, lm.geometry)
    with pytest.raises(UserError, match=words):
        method.attach(lm)


def test_settings_that_make_no_sense(tiny_lm):
    with pytest.raises(UserError, match='unknown target module "q_porj"; did you mean "q_proj"'):
        count(LLAMA_8B, "lora", target_modules=("q_porj",))
    with pytest.raises(UserError, match="lora"):
        METHODS["lora"](METHODS["lora"].Config(target_modules=("q_porj",))).attach(tiny_lm("llama"))
    for part, name, config in [
        ("norm before the MLP", "bottleneck", {"placement": "pfeiffer"}),
        ("attention's last projection", "compacter", {}),
        ("MLP's last projection", "ia3", {}),
    ]:
        with pytest.raises(UserError, match=f"{name}: this model's {part} has no known name; choose"):
            count(replace(LLAMA_8B, unknown=(part,)), name, **config)
    with pytest.raises(UserError, match="full: this model has no biases"):
        count(LLAMA_8B, "full", only="biases")
    for size, config in [("width 6", {"width": 6}), ("hidden size 4096", {"n": 3})]:
        with pytest.raises(UserError, match=f"does not divide the {size}"):
            count(LLAMA_8B, "compacter", **config)
    for name, config in [
        ("prefix", {"length": 0}),
        ("prefix", {"init_text": ""}),
        ("lora", {"rank": 0}),
        ("few-shot", {"k": 0}),
        ("bottleneck", {"width": 0}),
        ("bottleneck", {"width": "d/0"}),
        ("bottleneck", {"placement": "pfeiffer", "sublayers": "both"}),
    ]:
        with pytest.raises(ValidationError):
            METHODS[name].Config(**config)
    for name, method in METHODS.items():
        # A library checks what the config does not name, when its parameters are counted.
        with pytest.raises(UserError if method.Config.open_ended() else ValidationError, match="lenght"):
            count(LLAMA_8B, name, lenght=3)
