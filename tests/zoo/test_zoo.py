"""Every architecture is right with every method, or refused in one line. There is no third outcome."""

import pytest
from architectures import ARCHITECTURES
from checks import CASES, WRONG, check

from crosstune.methods import METHODS

# In every run, also of `-m "not zoo"`: the families that studies are mostly made with.
ALWAYS = ("llama", "mistral", "gemma2", "gemma3", "qwen3", "phi3", "xglm", "bloom")


@pytest.mark.parametrize(
    "name",
    [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.zoo) for name in ARCHITECTURES],
)
def test_right_or_refused(name, tmp_path):
    outcomes = check(name, tmp_path / "model")
    wrong = {case: said for case, said in outcomes.items() if said.startswith(WRONG)}
    assert not wrong


def test_enough_architectures():
    assert len({model_type for model_type, _ in ARCHITECTURES.values()}) >= 100


def test_every_method_has_a_case():
    assert {name for name, _ in CASES.values()} == set(METHODS) - {"few-shot"}, "exemplars are text"
