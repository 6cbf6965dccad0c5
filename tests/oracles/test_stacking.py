"""Several methods on one model: what they compute together, for which languages, and what is refused."""

import pytest
import torch

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.prompts.start import init_ids
from crosstune.methods.staged.stage import Staged
from crosstune.models.adaptation import Part, Prompt
from reference_decoder import effect_of, reference_logits, stacked
from tiny_models import CASES, WINDOW, all_logits, attach, make_method, near, random_ids, shake

IDS = random_ids(3 * WINDOW + 1)
PAIRS = [
    ("soft-prompt", "soft-prompt"),
    ("prefix-hidden", "prefix-kv"),
    ("prefix-kv", "prefix-kv"),
    ("prefix-kv", "llama-adapter"),
    ("llama-adapter", "prefix-hidden"),
    ("llama-adapter", "llama-adapter-plain"),
    ("prefix-hidden", "soft-prompt"),
    ("soft-prompt", "prefix-kv"),
    ("lora", "prefix-hidden"),
    ("llama-adapter", "lora-all"),
    ("soft-prompt", "lora"),
    ("bottleneck", "bottleneck"),
    ("bottleneck", "lora-all"),
    ("prefix-hidden", "bottleneck-parallel"),
    ("prefix-kv", "ia3"),
    ("ia3", "bottleneck"),
    ("ia3", "lora-all"),
]


@pytest.mark.parametrize(("below", "above"), PAIRS)
def test_two_methods_equal_the_slow_computation(tiny_lm, family, below, above):
    lm = tiny_lm(family)
    plain = all_logits(lm, IDS)
    first, second = attach(lm, below), attach(lm, above)
    with torch.no_grad():
        for parameter in second.parameters().values():
            parameter.mul_(-0.8)  # not the numbers of the first
    effect = stacked(effect_of(first, lm), effect_of(second, lm))
    both = all_logits(lm, IDS)
    near("two methods = slow fp64 decoder", both, reference_logits(lm, IDS, effect))
    with first.evaluating(), second.evaluating():
        near("two methods evaluating", all_logits(lm, IDS), both)
    first.detach()  # from below
    near("one left", all_logits(lm, IDS), reference_logits(lm, IDS, effect_of(second, lm)))
    second.detach()
    assert torch.equal(all_logits(lm, IDS), plain)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen3"])
def test_prefix_of_real_text_on_a_prefix_is_that_text_in_front(tiny_lm, kind):
    """The upper prefix starts from what the text is on the model as the lower one left it."""
    lm = tiny_lm(kind, **({"layer_types": ["full_attention"] * 3} if kind == "gemma3" else {}))
    attach(lm, "prefix-kv", layers=None)
    front = init_ids(lm, "the tin in the hat: yes", 3).tolist()
    whole = all_logits(lm, front + IDS)[3:]
    make_method("prefix-kv", length=3, layers=None, init_text="the tin in the hat: yes").attach(lm)
    near("prefix from text on a prefix = text in front", all_logits(lm, IDS), whole)


@pytest.mark.parametrize(
    ("below", "above"), [("lora", "lora-all"), ("full", "lora"), ("prefix-kv", "full"), ("full", "full")]
)
def test_what_cannot_be_stacked(tiny_lm, below, above):
    lm = tiny_lm("llama")
    attach(lm, below)
    before, modules = all_logits(lm, IDS), [id(module) for module in lm.model.modules()]
    with pytest.raises(UserError, match="cannot be put on") as caught:
        make_method(above).attach(lm)
    assert "\n" not in str(caught.value)
    assert torch.equal(all_logits(lm, IDS), before)
    assert [id(module) for module in lm.model.modules()] == modules


@pytest.mark.parametrize("case", sorted(CASES))
def test_nothing_stays_of_a_method_that_fails_while_it_is_attached(tiny_lm, monkeypatch, case):
    lm = tiny_lm("qwen3")
    before, modules = all_logits(lm, IDS), [(name, id(m)) for name, m in lm.model.named_modules()]
    method = make_method(case)
    place = method.place

    def fail(*arguments):
        place(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(method, "place", fail)
    with pytest.raises(KeyboardInterrupt):
        method.attach(lm)
    assert not lm.adaptation.parts
    assert method.lm is None
    assert [(name, id(m)) for name, m in lm.model.named_modules()] == modules
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert torch.equal(all_logits(lm, IDS), before)


@pytest.mark.parametrize("case", ["prefix-kv", "soft-prompt", "llama-adapter", "lora", "bottleneck", "ia3"])
def test_parts_for_some_languages(tiny_lm, case):
    """A method for Swahili under one for all: in German the first is as if it were not there."""
    lm = tiny_lm("gemma3")
    upper = attach(lm, "prefix-hidden")
    without = all_logits(lm, IDS)
    lower = make_method(case)
    lower.attach(lm, seed=3, languages=["sw"])
    shake(lower)
    assert lm.adaptation.groups(["en", "sw", "de"]) == [["en", "de"], ["sw"]]
    with pytest.raises(RuntimeError, match="for_language"):
        all_logits(lm, IDS)
    with lm.adaptation.for_language("sw"):
        inside = all_logits(lm, IDS)
        with lm.adaptation.for_language("de"), lower.evaluating():
            assert torch.equal(all_logits(lm, IDS), without)
        # What is computed once for all languages must not be what it is for one of them.
        with upper.evaluating(), lower.evaluating():
            assert torch.equal(all_logits(lm, IDS), inside)
            with lm.adaptation.for_language("de"):
                assert torch.equal(all_logits(lm, IDS), without)
        assert torch.equal(all_logits(lm, IDS), inside)
    assert (inside - without).abs().max() > 0.01
    lower.detach()
    assert torch.equal(all_logits(lm, IDS), without)
    assert lm.adaptation.groups(["en", "sw"]) == [["en", "sw"]]


def test_a_part_made_by_hand(tiny_lm):
    """A prompt for one language whose values are zero: it takes attention away and gives nothing back."""
    lm = tiny_lm("llama")
    g = lm.geometry
    zeros = torch.zeros(g.kv_heads, 2, g.head_dim, device=lm.device)
    part = Part("by-hand", frozenset({"th"}), prompts={1: Prompt(lambda: (zeros, zeros))}, shift=5)
    plain = all_logits(lm, IDS)
    with lm.adaptation.attaching(part):
        pass
    with lm.adaptation.for_language("th"):
        assert lm.adaptation.first_position == 5
        assert (all_logits(lm, IDS) - plain).abs().max() > 1e-3
    with lm.adaptation.for_language("en"):
        assert torch.equal(all_logits(lm, IDS), plain)
    lm.adaptation.detach(part)
    assert torch.equal(all_logits(lm, IDS), plain)


def test_every_method_has_a_case():
    # What stands on stages has tests of its own, such as test_language_adapters.py.
    staged = {name for name, method in METHODS.items() if issubclass(method, Staged)}
    assert {name for name, _ in CASES.values()} == set(METHODS) - staged - {"adapter"}
