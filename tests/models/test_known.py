import subprocess
import sys

import pytest
from transformers import BertConfig, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen3Config

from crosstune.errors import UserError
from crosstune.models.geometry import geometry_of
from crosstune.models.loading.known import ALIASES, KNOWN, geometry_for

CONFIGS = {
    "llama": LlamaConfig,
    "smollm2": LlamaConfig,
    "mistral": MistralConfig,
    "gemma": Gemma3TextConfig,
    "qwen3": Qwen3Config,
    "e5": BertConfig,
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_parameters_equal_those_of_the_built_model(name):
    shape = KNOWN[name]
    config = CONFIGS[name.split("-")[0]](
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )
    assert geometry_of(config) == shape


def test_published_totals():
    totals = {
        "meta-llama/Llama-3.1-8B": 8_030_261_248,
        "meta-llama/Llama-3.2-1B": 1_235_814_400,
        "meta-llama/Llama-3.2-3B": 3_212_749_824,
        "mistralai/Mistral-7B-v0.3": 7_248_023_552,
        "mistralai/Mistral-Small-24B-Base-2501": 23_572_403_200,
        "demo:gemma-3-270m": 268_098_176,
    }
    assert {name: geometry_for(name).parameters for name in totals} == totals


def test_aliases_lead_somewhere_and_case_does_not_matter():
    assert set(ALIASES.values()) <= set(KNOWN)
    assert all(name == name.lower() for name in KNOWN)
    assert geometry_for("META-LLAMA/llama-3.1-8b") is KNOWN["llama-3.1-8b"]


def test_folder_and_config_file(save_tiny, tiny_config):
    folder = save_tiny("qwen3")
    expected = geometry_of(tiny_config("qwen3"))
    assert geometry_for(str(folder)) == geometry_for(str(folder / "config.json")) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lama-3.1-8b", 'did you mean "llama-3.1-8b"'),
        ("/nowhere/at/all", "no such folder"),
        (__file__, "give a model folder"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(UserError, match=message) as caught:
        geometry_for(name)
    assert "\n" not in str(caught.value)


def test_known_shapes_need_no_torch():
    code = (
        "import sys; from crosstune.models.loading.known import geometry_for; geometry_for('llama-3.1-8b');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
