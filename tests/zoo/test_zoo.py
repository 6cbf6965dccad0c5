"""Every architecture is right with every method, or refused in one line. There is no third outcome."""

import pytest
from architectures import ARCHITECTURES
from checks import CASES, SLOW, WRONG, check

from crosstune.methods import METHODS

# In every run, also of `-m "not zoo"`: the families that studies are mostly made with.
ALWAYS = ("llama", "mistral", "gemma2", "gemma3", "qwen3", "phi3", "xglm", "bloom")
# Those that keep a state beside attention, or attend in a way of their own.
ONE_PER_ROW = {
    "bamba",
    "doge",
    "falcon-h1",
    "granite-moe-hybrid",
    "jamba",
    "kimi-linear",
    "lfm2",
    "lfm2-moe",
    "minimax",
    "olmo-hybrid",
    "qwen3-next",
}


@pytest.mark.parametrize(
    "name",
    [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.zoo) for name in ARCHITECTURES],
)
def test_right_or_refused(name, tmp_path):
    outcomes = check(name, tmp_path / "model")
    wrong = {case: said for case, said in outcomes.items() if said.startswith(WRONG)}
    assert not wrong
    assert name in ONE_PER_ROW or SLOW not in outcomes.values(), "a fast way is lost"


def test_enough_architectures():
    assert len({model_type for model_type, _ in ARCHITECTURES.values()}) >= 100


def test_every_method_has_a_case():
    # Exemplars are text, a probe changes nothing; PEFT's tuners have a table of their own.
    assert {name for name, _ in CASES.values()} == set(METHODS) - {"few-shot", "peft", "probe"}
