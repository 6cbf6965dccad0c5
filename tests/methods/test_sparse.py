"""Sparse fine-tuning, and what is added for each language: against plain loops and sums in float64."""

from typing import Any

import pytest
import torch

from crosstune.errors import UserError
from crosstune.methods.adapters.lora import Lora
from crosstune.methods.sparse import Sparse
from crosstune.methods.staged.adamergex import AdaMergeX
from crosstune.methods.staged.lt_sft import LtSft
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import rate, train
from crosstune.training.settings import TrainSettings
from tiny_models import DEVICE, all_logits, make_lm, near, random_ids, shake

IDS = random_ids(12)
ROWS = [TrainingRow(tuple(random_ids(9, seed=i)), 2) for i in range(4)]
SETTINGS = TrainSettings(steps=6, batch_size=4, learning_rate=0.01, warmup_steps=1, weight_decay=0.1)


def make(**settings: Any) -> Sparse:
    return Sparse(Sparse.Config(**settings))


def by_hand(lm: Any, keep: int, dense: int, l1: float) -> dict[str, torch.Tensor]:
    """Full tuning, the largest changes, rewound, tuned again under a mask: in fp32, on the model itself."""
    weights = {n: p for n, p in lm.model.named_parameters() if "norm" not in n}
    start = {n: p.detach().clone() for n, p in weights.items()}
    numel = sum(p.numel() for p in weights.values())
    masks = {n: torch.ones_like(p) for n, p in weights.items()}
    ids = torch.tensor([row.ids for row in ROWS], device=DEVICE)
    for steps in (dense, SETTINGS.total_steps(4) - dense):
        changes = {n: torch.zeros_like(p, requires_grad=True) for n, p in weights.items()}
        optimiser = torch.optim.AdamW(changes.values(), lr=1.0, weight_decay=0.1)
        for step in range(steps):
            call = {n: start[n] + changes[n] * masks[n] for n in weights}
            logits = torch.func.functional_call(lm.model, call, (ids,)).logits
            loss = torch.nn.functional.cross_entropy(logits[:, -3:-1].flatten(0, 1), ids[:, -2:].flatten())
            (loss + l1 / numel * sum((c * masks[n]).abs().sum() for n, c in changes.items())).backward()
            torch.nn.utils.clip_grad_norm_(changes.values(), 1.0)
            optimiser.param_groups[0]["lr"] = rate(SETTINGS, 0.01, step, steps)
            optimiser.step()
            optimiser.zero_grad()
        if steps == dense:
            sizes = torch.cat([c.detach().abs().flatten() for c in changes.values()])
            threshold = sizes.sort(descending=True).values[keep - 1]
            masks = {n: (c.detach().abs() >= threshold).float() for n, c in changes.items()}
    return {n: c.detach() * masks[n] for n, c in changes.items()}


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_training_equals_a_plain_loop(kind):
    lm = make_lm(kind)
    method = make(keep=1000, dense=0.34, l1=50.0)
    method.attach(lm)
    result = train(method, ROWS, SETTINGS.model_copy(update={"tokens_per_pass": 20}))
    assert result.curve[0]["loss"] == pytest.approx(result.curve[2]["loss"], rel=1e-5), "rewound"
    assert [point["learning_rate"] for point in result.curve[:3]] == [0.01, 0.01, 0.01]
    changes = {name: change.detach().clone() for name, change in method.parameters().items()}
    state = method.state()
    assert sum(len(x) for name, x in state.items() if name.endswith(".at")) == 1000
    assert method.trained_parameters() == 1000 == method.count(method.config, lm.geometry)
    method.detach()
    wanted = torch.cat([x.flatten() for x in by_hand(lm, 1000, 2, 50.0).values()])
    ours = torch.cat([x.flatten() for x in changes.values()])
    both = (ours != 0) & (wanted != 0)
    # After a few steps of Adam most changes are of nearly one size: rounding decides about the last of them.
    assert int(both.sum()) > 980
    assert float((ours - wanted)[both].norm()) < 0.01 * float(wanted[both].norm())


def test_what_is_refused(tiny_lm):
    lm = tiny_lm("llama")
    with pytest.raises(UserError, match=r"sparse: keep 9,999,999 of .* weights; lower it"):
        make(keep=9_999_999).attach(lm)
    method = make(keep=10)
    method.attach(lm)
    with pytest.raises(UserError, match="two training steps or more"):
        train(method, ROWS, SETTINGS.model_copy(update={"steps": 1}))
    with pytest.raises(UserError, match="is on one side only"):
        method.load_state(
            {"model.norm.weight.at": torch.tensor([3]), "model.norm.weight.change": torch.ones(1)}
        )
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(UserError, match="is outside of"):
        method.load_state({f"{name}.at": torch.tensor([10**6]), f"{name}.change": torch.ones(1)})


def languages(make_stage: Any, lm: Any, codes: str = "en de") -> dict[str, dict[str, torch.Tensor]]:
    """What stages would have trained, far from the start."""
    found = {}
    for seed, code in enumerate(codes.split()):
        stage = make_stage()
        stage.attach(lm, seed=7)
        shake(stage, seed=seed + 20)
        found[code] = {name: x.clone() for name, x in stage.state().items()}
        stage.detach()
    return found


def test_lt_sft_adds_the_language(tiny_lm):
    """Trained on the source language's change; each language has the sum, in bf16 rounded once."""
    lm = tiny_lm("gemma3", torch.bfloat16)
    plain = all_logits(lm, IDS)
    stages = {}
    for seed, code in enumerate(("en", "de")):
        stage = make(keep=0.1, dense=0.5, l1=0.1)
        stage.attach(lm)
        train(stage, ROWS[seed : seed + 2], SETTINGS)
        stages[code] = {name: x.clone() for name, x in stage.state().items()}
        stage.detach()
    method = LtSft(LtSft.Config(text="any", keep=0.2))
    method.uses, method.weights = {"en": "en", "de": "de", "sw": None}, stages
    method.attach(lm)
    start = {name: x.detach().clone() for name, x in method.originals.items()}
    with lm.adaptation.for_language("en"):
        first = train(method, ROWS, SETTINGS).curve[0]["loss"]
        task = {name: x.clone() for name, x in method.state().items()}
        ours = {}
        for code in ("de", "sw", "en"):
            with lm.adaptation.for_language(code), method.evaluating():
                ours[code] = all_logits(lm, IDS)
        assert torch.equal(all_logits(lm, IDS), ours["en"])
    assert lm.adaptation.groups(["en", "sw", "de"]) == [["en"], ["sw"], ["de"]]
    method.detach()
    assert torch.equal(all_logits(lm, IDS), plain)
    weights = dict(lm.model.named_parameters())

    def put(*states: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in start.items():
                total = value.double().flatten()
                for state in states:
                    for at, change in zip(
                        state.get(f"{name}.at", ()), state.get(f"{name}.change", ()), strict=True
                    ):
                        total[int(at)] += float(change)
                weights[name].copy_(total.view(value.shape))

    for code, wanted in ours.items():
        put(task, stages.get(code, {}))
        assert torch.equal(all_logits(lm, IDS), wanted), code
    put(stages["en"])
    other = make(keep=10)
    other.attach(lm)
    assert train(other, ROWS, SETTINGS).curve[0]["loss"] == first, "trained on the source language's change"
    assert (ours["de"] - ours["sw"]).abs().max() > 0.05


def test_adamergex_moves_both_matrices(tiny_lm):
    lm = tiny_lm("llama")
    plain = all_logits(lm, IDS)
    stages = languages(lambda: Lora(Lora.Config(rank=3)), lm)
    method = AdaMergeX(AdaMergeX.Config(text="any", rank=3, strength=0.7))
    method.uses, method.weights = {"en": "en", "de": "de", "at": "de", "sw": None}, stages
    method.attach(lm, seed=1)
    with lm.adaptation.for_language("en"):
        assert torch.equal(all_logits(lm, IDS), plain), "identity at the start, in the source language"
        train(method, ROWS, SETTINGS)
        task = {name: x.clone() for name, x in method.state().items()}
        ours = {}
        with method.evaluating():
            for code in ("de", "sw", "at", "en"):
                with lm.adaptation.for_language(code):
                    ours[code] = all_logits(lm, IDS)
                    state = method.state()
                    assert all(torch.equal(state[name], x) for name, x in task.items()), "saved is the task's"
        assert torch.equal(all_logits(lm, IDS), ours["en"])
    assert torch.equal(ours["de"], ours["at"])
    with lm.adaptation.for_language("de"):  # as `predict` loads it
        method.load_state({name: x.clone() for name, x in task.items()})
        assert torch.equal(all_logits(lm, IDS), ours["de"])
    method.detach()
    assert torch.equal(all_logits(lm, IDS), plain)
    other = Lora(Lora.Config(rank=3))
    other.attach(lm)
    for code, wanted in ours.items():
        move = stages[code if code in stages else "de"]
        factor = 0.0 if code in ("en", "sw") else 0.7
        merged = {
            n: (x.double() + factor * (move[n].double() - stages["en"][n].double())) for n, x in task.items()
        }
        other.load_state({name: x.float() for name, x in merged.items()})
        near("adamergex = LoRA of the sum", all_logits(lm, IDS), wanted, 1e-6)
