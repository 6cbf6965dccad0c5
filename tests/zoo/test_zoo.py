"""Every architecture is right with every method, or refused in one line. There is no third outcome."""

import pytest
from architectures import ARCHITECTURES
from checks import CASES, SLOW, WRONG, check, own_way
from encoder_decoders import ENCODER_DECODERS
from encoders import ENCODERS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from crosstune.methods import METHODS

# In every run, also of `-m "not zoo"`: the families that studies are mostly made with.
ALWAYS = ("llama", "mistral", "gemma2", "gemma3", "qwen3", "phi3", "xglm", "bloom", "mt5")
# Those that keep a state beside attention, or attend in a way of their own.
ONE_PER_ROW = {
    "bamba",
    "deepseek-v32",
    "doge",
    "falcon-h1",
    "glm-moe-dsa",
    "granite-moe-hybrid",
    "hunyuan-v4",
    "jamba",
    "kimi-linear",
    "lfm2",
    "lfm2-moe",
    "minimax",
    "olmo-hybrid",
    "qwen3-next",
    "qwen3.5",
    "qwen3.5-moe",
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ALWAYS else pytest.param(name, marks=pytest.mark.zoo)
        for name, (model_type, _) in (ARCHITECTURES | ENCODERS | ENCODER_DECODERS).items()
        if model_type in CONFIG_MAPPING  # an older transformers has fewer
    ],
)
def test_right_or_refused(name, tmp_path):
    outcomes = check(name, tmp_path / "model")
    wrong = {case: said for case, said in outcomes.items() if said.startswith(WRONG)}
    assert not wrong
    assert name in ONE_PER_ROW or SLOW not in outcomes.values(), "a fast way is lost"


def test_enough_architectures():
    assert len({model_type for model_type, _ in ARCHITECTURES.values()}) >= 100


def test_every_method_has_a_case():
    """Which changes what the model computes."""
    assert {name for name in METHODS if own_way(name)} <= {name for name, _ in CASES.values()}
