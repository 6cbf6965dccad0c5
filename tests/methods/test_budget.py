"""A budget's size is the nearest there is: checked against trying every size."""

from typing import Any

import pytest

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.budget import parse_budget, solve, written
from crosstune.models.known import KNOWN

MODELS = ("llama-3.1-8b", "llama-3.2-1b", "mistral-7b-v0.3", "mistral-small-24b", "gemma-3-270m")
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, method in METHODS.items() if method.size is not None),
    ("prefix", {"space": "kv"}),
    ("prefix", {"layers": 10}),
    ("prefix", {"reparameterise": 64}),
    ("llama-adapter", {"layers": [0, 3, 5], "gate": "layer"}),
    ("lora", {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "layers": 4}),
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
@pytest.mark.parametrize("budget", [1, 100_000, 1_230_000, 12_345_678])
def test_the_nearest_size(model: str, name: str, settings: dict[str, Any], budget: int) -> None:
    method, geometry = METHODS[name], KNOWN[model]
    config = method.Config.model_validate(settings)
    solved = solve(name, config, geometry, budget)
    assert solved is not None
    assert method.count(solved.config, geometry) == solved.count
    assert solved.config.model_dump(exclude={solved.setting}) == config.model_dump(exclude={solved.setting})
    assert solved.off == solved.count / budget - 1
    tried = {}
    for size in range(1, 4 * solved.size + 10):
        tried[size] = method.count(method.Config.model_validate(settings | {solved.setting: size}), geometry)
    best = min(tried, key=lambda size: (abs(tried[size] - budget), size))
    assert (solved.size, solved.count) == (best, tried[best])
    assert tried[max(tried)] > budget  # so nothing beyond was nearer


def test_the_papers_figure_on_llama_3_1_8b() -> None:
    """1.23M = 10 tokens in 30 layers; each method's nearest size is written out here by hand."""
    found = []
    for name, settings in [
        ("soft-prompt", {}),
        ("prefix", {"layers": 30}),
        ("prefix", {"layers": 30, "space": "kv"}),
        ("llama-adapter", {"layers": 30}),
        ("lora", {}),
        ("lora", {"target_modules": ["k_proj"]}),
    ]:
        solved = solve(name, METHODS[name].Config(**settings), KNOWN["llama-3.1-8b"], 1_230_000)
        assert solved is not None
        found.append((solved.size, solved.count))
    assert found == [
        (300, 1_228_800),
        (10, 1_228_800),
        (20, 1_228_800),
        (10, 1_229_760),
        (3, 1_277_952),
        (8, 1_310_720),
    ]


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.size is None])
def test_methods_without_a_size(name: str) -> None:
    assert solve(name, METHODS[name].Config(), KNOWN["llama-3.1-8b"], 1_230_000) is None


def test_settings_that_do_not_fit_the_model() -> None:
    with pytest.raises(UserError, match="the model has 16"):
        solve("prefix", METHODS["prefix"].Config(layers=30), KNOWN["llama-3.2-1b"], 1_230_000)


@pytest.mark.parametrize(
    ("given", "budget", "text"),
    [
        ("1.23M", 1_230_000, "1.23M"),
        ("1.23m", 1_230_000, "1.23M"),
        (1_230_000, 1_230_000, "1.23M"),
        (1e6, 1_000_000, "1M"),
        ("500K", 500_000, "500K"),
        ("0.5 M", 500_000, "500K"),
        ("2B", 2_000_000_000, "2B"),
        ("1228800", 1_228_800, "1,228,800"),
        (999, 999, "999"),
        ("0.29K", 290, "290"),
    ],
)
def test_budgets_as_people_write_them(given: object, budget: int, text: str) -> None:
    assert parse_budget(given) == budget
    assert written(budget) == text


@pytest.mark.parametrize(
    "given", ["", "M", "-1M", "1.5", "1,2M", "1.23G", 0, -4, 1.5, True, None, "9999B", [1]]
)
def test_what_is_no_budget(given: object) -> None:
    with pytest.raises(UserError, match=r"budget: give a number of parameters, such as 1\.23M"):
        parse_budget(given)
