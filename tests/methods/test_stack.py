"""``{stack: [...]}``: what methods compute together, how they are trained, kept, counted and refused."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.budget import hint, solve
from crosstune.methods.stack import Stack
from crosstune.models.loading.known import KNOWN
from crosstune.outputs.rows import TrainingRow
from crosstune.study.entries import MethodEntry
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from reference_decoder import effect_of, reference_logits
from tiny_models import WINDOW, all_logits, near, random_ids, shake

IDS = random_ids(2 * WINDOW)
ROWS = [TrainingRow(tuple(random_ids(9, seed=i)), 2) for i in range(4)]
LORA = {"name": "lora", "target_modules": ["q_proj", "o_proj", "down_proj"], "alpha": 3.0}
KV = {"name": "prefix", "length": 3, "space": "kv", "reparameterise": 5}
STACKS: dict[str, list[Any]] = {
    "lora under a prefix": [LORA, KV],
    "a prefix under lora": [KV, LORA],
    "bottleneck and lora": [{"name": "bottleneck", "width": 5, "sublayers": "both"}, LORA],
    "soft prompt and ia3": [{"name": "soft-prompt", "length": 3}, "ia3"],
    "three": ["ia3", {"name": "peft", "type": "LOHA", "r": 3}, KV],
}


def make(*parts: Any) -> Stack:
    return Stack(Stack.Config.model_validate({"stack": parts}))


@pytest.mark.parametrize("parts", STACKS.values(), ids=STACKS)
def test_a_stack(tiny_lm, family, parts, tmp_path):
    """Trained, shaken, as the fp64 decoder has it, merged, through a file, off again."""
    lm = tiny_lm(family)
    plain, method = all_logits(lm, IDS), make(*parts)
    method.attach(lm, seed=3)
    assert sum(p.numel() for p in method.parameters().values()) == method.count(method.config, lm.geometry)
    start = {name: p.detach().clone() for name, p in method.parameters().items()}
    train(method, ROWS, TrainSettings(steps=2, batch_size=4, learning_rate=0.01, warmup_steps=0))
    assert all(not torch.equal(p, start[name]) for name, p in method.parameters().items())
    shake(method)
    both = all_logits(lm, IDS)
    near("a stack = slow fp64 decoder", both, reference_logits(lm, IDS, effect_of(method, lm)))
    with method.evaluating():
        near("a stack evaluating", all_logits(lm, IDS), both)
        of_parts = [m.merge for m in method.methods.values() if m.merge is not None]
        assert method.merge is not None
        assert method.merge.merged == sum(merge.merged for merge in of_parts) > 0
    save_file({name: x.contiguous().clone() for name, x in method.state().items()}, tmp_path / "weights")
    method.detach()
    assert torch.equal(all_logits(lm, IDS), plain)
    other = make(*parts)
    other.attach(lm, seed=9)
    other.load_state(load_file(tmp_path / "weights"))
    near("a stack through a file", all_logits(lm, IDS), both, 1e-6)


def test_each_method_keeps_its_rate(tiny_lm):
    """AdamW's first step moves an entry by its rate: llama-adapter's gate by 30 times as much as LoRA's B."""
    lm = tiny_lm("llama")
    settings = TrainSettings(steps=1, batch_size=4, warmup_steps=0, clip=0.0)

    def moved(*parts: Any) -> dict[str, float]:
        method = make(*parts)
        method.attach(lm)
        before = {name: p.detach().clone() for name, p in method.parameters().items()}
        assert method.default_rate is not None
        train(method, ROWS, settings.model_copy(update={"learning_rate": method.default_rate}))
        after = method.parameters()
        method.detach()
        steps = {name: (after[name] - before[name]).detach().abs().max() for name in before}
        return {name[:2] + name[-5:]: float(step) for name, step in steps.items()}

    found = moved("lora", "llama-adapter")
    assert found["0.roj.B"] == pytest.approx(1e-3, rel=1e-3)
    assert found["1..gate"] == pytest.approx(3e-2, rel=1e-3)
    found = moved({"name": "lora", "learning_rate": 0.02}, {"name": "llama-adapter", "learning_rate": 0.005})
    assert found["0.roj.B"] == pytest.approx(0.02, rel=1e-3)
    assert found["1..gate"] == pytest.approx(0.005, rel=1e-3)


def test_weights_that_fit_one_method_alone_change_nothing(tiny_lm):
    method = make(LORA, KV)
    method.attach(tiny_lm("llama"))
    shake(method)
    before = {name: x.clone() for name, x in method.state().items()}
    wrong = {name: x + 1 for name, x in before.items()} | {"1.prefix.layers.1": torch.ones(1)}
    with pytest.raises(UserError, match=r"weights do not fit stack: 1\.prefix\.layers\.1 is \(1,\)"):
        method.load_state(wrong)
    assert all(torch.equal(x, before[name]) for name, x in method.state().items())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["lora", "full"], "full cannot be put on lora: one of the two must be alone"),
        (["full", "prefix"], "prefix cannot be put on full"),
        (["lora", "prefix", "lora"], "lora cannot be put on lora: both wrap linear layers"),
        (["lora", {"name": "peft", "type": "DORA"}], "peft cannot be put on lora"),
        (["lora", "none"], "none cannot be in one"),
        ([{"name": "few-shot"}, "lora"], "few-shot cannot be in one"),
        (["lora", {"stack": ["ia3", "prefix"]}], "needs its name"),
        (["lora", "stack"], "stack cannot be in one"),
        (["lora", "mad-x"], "mad-x cannot be in one"),
        (["lora"], "at least 2 items"),
        (["lora", "prefixx"], 'unknown method "prefixx"'),
        (["lora", {"name": "prefix", "lenth": 3}], 'unknown key "lenth" in method prefix of a stack'),
        (["lora", {"name": "prefix", "length": 0}], "method prefix: length should be"),
    ],
)
def test_what_cannot_be_stacked(parts, words):
    with pytest.raises(ValidationError, match=words):
        MethodEntry.model_validate({"stack": parts})


def test_in_a_study():
    """With and without its name, its label, as it is written, and its sizes for a budget."""
    entry = MethodEntry.model_validate({"stack": ["lora", {"name": "prefix", "space": "kv"}]})
    assert entry == MethodEntry.model_validate({"name": "stack", **entry.config.model_dump()})
    assert entry.as_written() == {
        "name": "stack", "stack": [{"name": "lora"}, {"name": "prefix", "space": "kv"}], "train": {}
    }  # fmt: skip
    assert entry.label(None) == "lora + prefix kv"
    assert entry.label(1_000_000) == "lora + prefix kv 1M"
    rated = {"stack": [{"name": "lora", "rank": 8, "learning_rate": 0.01}, "prefix"]}
    assert MethodEntry.model_validate(rated).label(None) == "lora rank 8 lr 0.01 + prefix"

    geometry = KNOWN["llama-3.1-8b"]
    solved = solve("stack", entry.config, geometry, 2_500_000)
    assert solved is not None
    lora, prefix = (part.config.model_dump() for part in solved.config.stack)
    # Rank 3 is 1,277,952; of the rest a token of a prefix is 65,536.
    assert (lora["rank"], prefix["length"]) == (3, 19)
    assert str(solved) == "lora rank 3 prefix length 19 is 2,523,136 (+0.9%)"
    assert hint("stack", solved, geometry) is None
    given = MethodEntry.model_validate({"stack": [{"name": "lora", "rank": 2}, "prefix"]})
    solved = solve("stack", given.config, geometry, 1_230_000)
    assert solved is not None
    assert (solved.setting, solved.size) == ("prefix length", 3)
    assert METHODS["stack"].count(solved.config, geometry) == solved.count == 851_968 + 3 * 131_072
    with pytest.raises(ValidationError, match="no size"):
        MethodEntry.model_validate({"stack": [{"name": "lora", "rank": 2}, "ia3"], "budget": "1M"})
