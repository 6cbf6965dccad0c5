"""A budget's size is the nearest there is: checked against trying every size."""

import re
from typing import Any

import pytest

from crosstune.config.counts import parse_count, written
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.budget import hint, solve
from crosstune.models.loading.known import KNOWN
from tiny_models import CASES, make_method

SIZE = re.compile(r"(?:length|rank|width) (\d+) is ([\d,]+)")
MODELS = ("llama-3.1-8b", "llama-3.2-1b", "mistral-7b-v0.3", "mistral-small-24b", "gemma-3-270m")
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, method in METHODS.items() if method.size not in (None, "keep")),
    ("prefix", {"space": "kv"}),
    ("prefix", {"layers": 10}),
    ("prefix", {"reparameterise": 64}),
    ("llama-adapter", {"layers": [0, 3, 5], "gate": "layer"}),
    ("lora", {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "layers": 4}),
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
@pytest.mark.parametrize("budget", [1, 100_000, 1_230_000, 3_456_789])
def test_the_nearest_size(model: str, name: str, settings: dict[str, Any], budget: int) -> None:
    method, geometry = METHODS[name], KNOWN[model]
    config = method.Config.model_validate(settings)
    solved = solve(name, config, geometry, budget)
    assert solved is not None
    assert method.count(solved.config, geometry) == solved.count
    assert solved.config.model_dump(exclude={solved.setting}) == config.model_dump(exclude={solved.setting})
    assert solved.off == solved.count / budget - 1
    # Every size, or where these are millions of single weights, all small ones and all near the answer.
    top, near = 4 * solved.size + 10, range(max(1, solved.size - 500), solved.size + 500)
    sizes = range(1, top) if top < 20_000 else [*range(1, 1000), *near, *range(1000, top, top // 1000), top]
    tried = {}
    for size in sizes:
        tried[size] = method.count(config.model_copy(update={solved.setting: size}), geometry)
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


def near(name: str, config: Any, model: str, budget: int) -> dict[tuple[int, int], int]:
    """Counts within 2% of a budget by (layers, size), every layer and size tried."""
    method, geometry = METHODS[name], KNOWN[model]
    found = {}
    for layers in range(1, geometry.layers + 1):
        for size in range(1, 2000):
            changed = config.model_copy(update={"layers": layers, str(method.size): size})
            count = method.count(changed, geometry)
            if abs(count / budget - 1) <= 0.02:
                found[layers, size] = count
            if count > 2 * budget:
                break
    return found


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-270m"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("prefix", {}), ("prefix", {"layers": 12}), ("prefix", {"space": "kv"}), ("llama-adapter", {}),
        ("lora", {}), ("lora", {"layers": 5}), ("soft-prompt", {}), ("prefix", {"layers": [0, 3]}),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("budget", [70_000, 130_000, 1_230_000, 3_500_000])
def test_what_is_said_of_a_size_that_is_not_near(
    model: str, name: str, settings: dict[str, Any], budget: int
) -> None:
    method, geometry = METHODS[name], KNOWN[model]
    config = method.Config.model_validate(settings)
    solved = solve(name, config, geometry, budget)
    assert solved is not None
    said = hint(name, solved, geometry)
    if abs(solved.count / budget - 1) <= 0.02:
        assert said is None
        return
    assert said is not None
    sizes, _, layers = said.partition("; ")
    # The nearest, and its neighbour on the budget's other side.
    shown = {int(size): int(count.replace(",", "")) for size, count in SIZE.findall(sizes)}
    assert shown[solved.size] == solved.count
    for size, count in shown.items():
        assert count == method.count(config.model_copy(update={str(method.size): size}), geometry)
    if len(shown) > 1:
        assert min(shown.values()) < budget < max(shown.values())
        assert max(shown) - min(shown) == 1
    else:
        assert solved.size == 1
        assert solved.count > budget
    if "layers" not in method.Config.model_fields or isinstance(settings.get("layers"), list):
        assert not layers
        return
    possible, asked = near(name, config, model, budget), settings.get("layers", geometry.layers)
    if not possible:
        assert layers == "no number of layers comes within 2%"
        return
    told = re.fullmatch(r"with layers: (\d+), (.+)", layers)
    assert told is not None
    size, count = SIZE.findall(told[2])[0]
    assert possible[int(told[1]), int(size)] == int(count.replace(",", ""))
    assert abs(int(told[1]) - asked) == min(abs(k - asked) for k, _ in possible)


def test_the_hints_on_llama_3_1_8b() -> None:
    found = {}
    for name in ("soft-prompt", "prefix", "llama-adapter", "lora"):
        solved = solve(name, METHODS[name].Config(), KNOWN["llama-3.1-8b"], 1_230_000)
        assert solved is not None
        found[name] = (hint(name, solved, KNOWN["llama-3.1-8b"]) or "").partition("with ")[2]
    assert found == {
        "soft-prompt": "",
        "prefix": "layers: 30, length 10 is 1,228,800 (-0.1%)",
        "llama-adapter": "layers: 30, length 10 is 1,229,760 (+0.0%)",
        "lora": "layers: 31, rank 3 is 1,238,016 (+0.7%)",
    }


@pytest.mark.parametrize(
    "name", sorted({n for n, m in METHODS.items() if m.size is None} - {"stack", "adapter"})
)
def test_methods_without_a_size(name: str) -> None:
    cases = (case for case, (method, _) in CASES.items() if method == name)
    config = make_method(next(cases)).config
    assert solve(name, config, KNOWN["llama-3.1-8b"], 1_230_000) is None


def test_settings_that_do_not_fit_the_model() -> None:
    with pytest.raises(UserError, match=r"soft-prompt: a budget of 12,345,678 needs length 19290; .* 10000"):
        solve("soft-prompt", METHODS["soft-prompt"].Config(), KNOWN["gemma-3-270m"], 12_345_678)
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
    assert parse_count(given, "budget") == budget
    assert written(budget) == text


@pytest.mark.parametrize(
    "given", ["", "M", "-1M", "1.5", "1,2M", "1.23G", 0, -4, 1.5, True, None, "9999B", [1]]
)
def test_what_is_no_budget(given: object) -> None:
    with pytest.raises(UserError, match=r"budget: give a number of parameters, such as 1\.23M"):
        parse_count(given, "budget")
