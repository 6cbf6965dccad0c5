"""The worked example of docs/add-a-model.md, taken from the page: an architecture under names of its own."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.models import parts
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.geometry import geometry_of
from crosstune.models.language_model import LanguageModel
from tiny_models import (
    CASES,
    DEVICE,
    SIZES,
    all_logits,
    make_method,
    near,
    random_ids,
    randomise,
    row,
    shake,
    tokenizer,
)

PAGE = Path(__file__).parents[2] / "docs" / "add-a-model.md"
IDS = random_ids(13)


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """The page's code: the architecture, and the names that are added."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def config(blocks) -> Any:
    """A small config of the architecture, which transformers knows from here on."""
    space: dict[str, Any] = {"__name__": "toto"}
    exec(compile(blocks[0], str(PAGE), "exec"), space)
    return space["TotoConfig"](**SIZES, head_dim=24, score_factor=0.5)


@pytest.fixture
def taught(blocks, monkeypatch) -> None:
    """The names, in `parts` for one test."""
    known = {name: value for name, value in vars(parts).items() if name.isupper()}
    space = {name: value.copy() if isinstance(value, dict) else value for name, value in known.items()}
    exec(compile(blocks[1], str(PAGE), "exec"), space)
    for name in known:
        monkeypatch.setattr(parts, name, space[name])


def make(config: Any) -> LanguageModel:
    model = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION).eval().to(DEVICE)
    randomise(model, False, 0)
    return LanguageModel(model.requires_grad_(False), tokenizer(), "toto", "0", geometry_of(config))


def test_unknown_names_are_refused(config):
    with pytest.raises(UserError, match="TotoForCausalLM has no layers with their attention"):
        make(config)


def test_what_is_computed_is_the_model_s_own(config, taught):
    lm = make(config)
    lm.check()
    assert lm.skips_unread_rows
    near("toto", all_logits(lm, IDS), lm.model(input_ids=row(IDS)).logits[0])
    g = lm.geometry
    assert (g.heads, g.kv_heads, g.head_dim, g.intermediate) == (4, 2, 24, 96)
    assert ("mixer.query", 64, 96) in g.linears_of(0)
    assert lm.parts.layers[1].mlp_output.module is lm.model.model.blocks[1].ffn.lower


def test_a_name_that_is_left_out_shows(config, taught, monkeypatch):
    monkeypatch.delitem(parts.SCALES, "score_factor")
    with pytest.raises(UserError, match="computes its logits in a way"):
        make(config).check()


def on_toto(name, settings):
    """Settings with its names of modules, of which Llama's are the defaults."""
    if "stack" in settings:
        parts = [{"name": part} if isinstance(part, str) else part for part in settings["stack"]]
        return settings | {"stack": [on_toto(part["name"], part) | {"name": part["name"]} for part in parts]}
    targets = "target_modules" in METHODS[name].Config.model_fields
    return settings | ({"target_modules": ("query", "value", "lower")} if targets else {})


@pytest.mark.parametrize("case", CASES)
def test_every_method(config, taught, case):
    lm = make(config)
    plain = all_logits(lm, IDS)
    name, settings = CASES[case]
    method = make_method(case, **{key: x for key, x in on_toto(name, settings).items() if key != "name"})
    method.attach(lm)
    trained = method.trained_parameters()
    assert trained == method.count(method.config, lm.geometry)
    if trained:
        shake(method)
        shaken = all_logits(lm, IDS)
        assert (shaken - plain).abs().max() > 1e-3
        with method.evaluating():
            near("toto evaluating", all_logits(lm, IDS), shaken)
    method.detach()
    assert torch.equal(all_logits(lm, IDS), plain)


def test_prefix_of_real_text_is_that_text_in_front(config, taught):
    lm = make(config)
    text = "the tin in the hat: yes"
    method = make_method("prefix-kv", length=5, layers=None, init_text=text)
    method.attach(lm)
    prefixed = all_logits(lm, IDS)
    method.detach()
    front = lm.tokens.prompts([text])[0][:5]
    near("toto: prefix of text = text", prefixed, all_logits(lm, front + IDS)[5:])
