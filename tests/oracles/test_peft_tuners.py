"""Every tuner of PEFT that is taken: as PEFT has it, identity at the start, merged, taken off again."""

from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType

from crosstune.errors import UserError
from crosstune.methods.adapters.peft_tuner import NORMS, REFUSED, TYPES, UNMERGED, PeftTuner
from crosstune.outputs.rows import TrainingRow
from crosstune.study.entries import MethodEntry
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from tiny_models import all_logits, make_lm, near, random_ids, row, tiny_model

# What a model this small takes, and what PEFT's (IA)³ cannot do without.
SMALL: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 8},
    "SHIRA": {"r": 4},
    "ROAD": {"group_size": 8},
    "WAVEFT": {"n_frequency": 50},
    "FOURIERFT": {"n_frequency": 50},
    "VBLORA": {"vector_length": 8, "num_vectors": 32},
    "OFT": {"oft_block_size": 8, "r": 0},
    "ADALORA": {"init_r": 6, "target_r": 3},
    "GRALORA": {"r": 8, "gralora_k": 2},
}
# PEFT's own start is not the model itself (docs/methods.md).
NOT_IDENTITY = {"FOURIERFT", "UNILORA", "VBLORA", "C3A"}
IDS = random_ids(19)


def tuner(kind: str, **more: Any) -> PeftTuner:
    return PeftTuner(PeftTuner.Config(type=kind, **SMALL.get(kind, {}) | more))


def shaken(method: PeftTuner) -> None:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw).to(parameter.device))


def test_every_type_of_peft_is_taken_or_refused_with_a_reason():
    known = {kind.value for kind in PeftType if kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert known == {kind for kind, _ in TYPES.values()} | set(REFUSED)


@pytest.mark.parametrize("kind", sorted(TYPES))
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3"])
def test_as_peft_has_it(kind, family):
    lm = make_lm(family)
    modules, plain = [id(m) for m in lm.model.modules()], all_logits(lm, IDS)
    bits = {name: x.clone() for name, x in lm.model.named_parameters()}
    method = tuner(kind, layers=[0, 2])
    method.attach(lm, seed=3)
    at_start = all_logits(lm, IDS)
    if kind not in NOT_IDENTITY:
        near("identity at the start", at_start, plain, 1e-5)
    shaken(method)
    counted = PeftTuner.count(method.config, lm.geometry)
    assert counted == sum(p.numel() for p in method.parameters().values())
    ours = all_logits(lm, IDS)
    assert (ours - at_start).abs().max() > 1e-3

    # PEFT by itself, on a model with transformers' attention, given the same tensors.
    stock = tiny_model(family, torch.float32, 0, "sdpa")
    name, fixed = TYPES[kind]
    targets = [f"layers.{i}.self_attn.{leaf}" for i in (0, 2) for leaf in ("q_proj", "v_proj")]
    if kind == NORMS:
        targets = [
            name
            for name, module in stock.model.named_modules()
            if name.startswith(("layers.0.", "layers.2.")) and "Norm" in type(module).__name__
        ]
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)](
        target_modules=targets,
        **fixed | SMALL.get(kind, {}) | ({"feedforward_modules": []} if kind == "IA3" else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = peft.get_peft_model(stock, config)
    found = dict(theirs.named_parameters()) | dict(theirs.named_buffers())
    with torch.no_grad():
        for key, value in method.state().items():
            if (
                twin := found.get(f"base_model.model.model.{key}", found.get(f"base_model.{key}"))
            ) is not None:
                twin.copy_(value)
        wanted = theirs.eval()(input_ids=row(IDS)).logits[0]
    near("as PEFT", ours, wanted, 1e-5)

    with method.evaluating():
        assert method.merge is not None
        assert method.merge.merged == (0 if kind in UNMERGED else 4)
        near("merged = beside the weights", all_logits(lm, IDS), ours, 1e-5)
    assert torch.equal(all_logits(lm, IDS), ours)
    kept = {name: x.clone() for name, x in method.state().items()}
    method.detach()
    assert [id(m) for m in lm.model.modules()] == modules
    assert all(torch.equal(x, bits[name]) for name, x in lm.model.named_parameters())
    assert torch.equal(all_logits(lm, IDS), plain)

    other = tuner(kind, layers=[0, 2])
    other.attach(lm, seed=3)
    other.load_state(kept)
    assert torch.equal(all_logits(lm, IDS), ours)


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_in_bf16_it_trains_and_evaluates(kind):
    lm = make_lm("llama", torch.bfloat16)
    plain = all_logits(lm, IDS)
    method = tuner(kind)
    method.attach(lm, seed=3)
    assert torch.equal(all_logits(lm, IDS), plain) == (kind not in NOT_IDENTITY)
    assert {x.dtype for x in method.parameters().values()} == {torch.float32}
    assert method.trained_parameters() == method.count(method.config, lm.geometry)
    rows = [TrainingRow(tuple(random_ids(6 + i, seed=i)), 2) for i in range(4)]
    before = {name: x.detach().clone() for name, x in method.parameters().items()}
    result = train(method, rows, TrainSettings(steps=2, batch_size=4, learning_rate=0.01))
    assert all(torch.isfinite(torch.tensor(point["loss"])) for point in result.curve)
    assert any(not torch.equal(x, before[name]) for name, x in method.parameters().items())
    beside = all_logits(lm, IDS)
    with method.evaluating():
        near("merged = beside, in bf16", all_logits(lm, IDS), beside, 0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"type": "PREFIX_TUNING"}, "use prefix"),
        ({"type": "DOR"}, 'unknown type "DOR"'),
        ({"type": "ADALORA", "total_step": 9}, "it is the number of steps that training has"),
        ({"type": "LN_TUNING", "target_modules": ["norm"]}, "trains all norms of layers"),
        ({"type": "LORA", "bias": "all"}, "bias is not taken"),
        ({"type": "LORA", "init_lora_weights": "pissa"}, "changes the model's own weights"),
    ],
)
def test_what_is_not_taken(settings, words):
    with pytest.raises(ValueError, match=words):
        PeftTuner.Config(**settings)


def test_mistakes_in_settings(tiny_lm):
    lm = tiny_lm("llama")
    modules = [id(m) for m in lm.model.modules()]
    for settings, words in (
        ({"type": "LOHA", "rnk": 3}, 'LOHA has no setting "rnk"'),
        ({"type": "LOHA", "target_modules": ("q_prj",)}, 'unknown target module "q_prj"'),
        ({"type": "ADALORA", "init_r": 4, "target_r": 4}, "ADALORA: target_r 4 should be below init_r 4"),
        ({"type": "C3A", "block_size": 7}, "C3A: .*block size"),
    ):
        method = PeftTuner(PeftTuner.Config(**settings))
        for do in (lambda m=method: m.attach(lm), lambda m=method: m.count(m.config, lm.geometry)):
            with pytest.raises(UserError, match=words):
                do()
    assert [id(m) for m in lm.model.modules()] == modules


def test_the_default_is_counted_as_peft_counts_it(tiny_lm):
    g = tiny_lm("llama").geometry
    assert PeftTuner.count(PeftTuner.Config(), g) == PeftTuner.count(PeftTuner.Config(type="LORA", r=8), g)


def test_what_was_drawn_is_part_of_what_was_trained(tiny_lm):
    """VeRA's projections are drawn: weights without them, or with others' shapes, would be another method."""
    method = tuner("VERA")
    method.attach(tiny_lm("llama"), seed=3)
    state = {name: x.clone() for name, x in method.state().items()}
    drawn = next(name for name in state if name.endswith("vera_A.default"))
    for wrong in ({k: x for k, x in state.items() if k != drawn}, state | {drawn: state[drawn][:1]}):
        with pytest.raises(UserError, match=f"weights do not fit peft: {drawn}"):
            method.load_state(wrong)


def test_in_a_study():
    """What the config does not name is PEFT's to check, is in the label, and is written as it was read."""
    entry = MethodEntry.model_validate({"name": "peft", "type": "DORA", "r": 8})
    assert entry.label(None) == "peft DORA r 8"
    assert entry.as_written() == {"name": "peft", "type": "DORA", "r": 8, "train": {}}
    with pytest.raises(ValueError, match='unknown key "r" in method lora'):
        MethodEntry.model_validate({"name": "lora", "r": 8})
