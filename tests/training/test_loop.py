"""The loop: learning rates by hand, what is kept, when it stops, and the same bits for the same seed."""

import math

import pytest
import torch
from pydantic import ValidationError

from crosstune.errors import UserError
from crosstune.outputs.rows import TrainingRow
from crosstune.training import batches
from crosstune.training.batches import collate
from crosstune.training.loop import rate, train
from crosstune.training.objectives import answer_loss
from crosstune.training.settings import TrainSettings
from tiny_models import DEVICE, TRAINED, collated, make_method, near, random_ids

ROWS = [TrainingRow(tuple(random_ids(4 + i % 9, seed=i)), 1 + i % 3) for i in range(22)]
SHORT = TrainSettings(steps=3, batch_size=8, warmup_steps=1, learning_rate=0.01)


def weights(method):
    return {name: p.detach().clone() for name, p in method.parameters().items()}


def trained(lm, case, settings=SHORT, seed=0, **more):
    method = make_method(case)
    method.attach(lm, seed=1)
    result = train(method, ROWS, settings, seed=seed, **more)
    return method, result


def schedule(decay, warm, total):
    settings = TrainSettings(warmup_steps=warm, decay=decay)
    return [rate(settings, 2.0, step, total) for step in range(total)]


def test_schedules_by_hand():
    assert schedule("linear", 2, 6) == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5])
    assert schedule("constant", 2, 4) == pytest.approx([1.0, 2.0, 2.0, 2.0])
    cosine = [1 + math.cos(math.pi * x) for x in (0, 0.25, 0.5, 0.75)]
    assert schedule("cosine", 2, 6) == pytest.approx([1.0, 2.0, *cosine])
    assert schedule("linear", 0, 2) == pytest.approx([2.0, 1.0])
    # A warm-up as long as the run still reaches the peak, at the last step.
    assert schedule("linear", 10, 3) == pytest.approx([1.0, 2.0, 2.0])
    assert schedule("linear", 10, 1) == pytest.approx([2.0])


def test_steps_from_epochs():
    assert TrainSettings(epochs=2, batch_size=8).total_steps(22) == 6
    assert TrainSettings(batch_size=8).total_steps(22) == 3
    assert TrainSettings(epochs=0.1, batch_size=8).total_steps(8) == 1
    assert TrainSettings(steps=7).total_steps(3) == 7
    with pytest.raises(ValidationError, match="not both"):
        TrainSettings(steps=1, epochs=1)
    with pytest.raises(ValidationError, match="evaluate_every"):
        TrainSettings(patience=1)


@pytest.mark.parametrize("case", [case for case in TRAINED if case != "sparse"])  # rounding chooses weights
def test_split_batches_give_the_same_weights(tiny_lm, case, monkeypatch):
    lm = tiny_lm("gemma3")
    parts_read = []
    monkeypatch.setattr(batches, "collate", lambda *args: parts_read.append(args[0]) or collate(*args))
    whole, full_result = trained(lm, case, SHORT.model_copy(update={"clip": 0.1}))
    one = weights(whole)
    whole.detach()
    parts, result = trained(lm, case, SHORT.model_copy(update={"clip": 0.1, "tokens_per_pass": 30}))
    assert len(parts_read) > 2 * SHORT.steps
    assert result.tokens == full_result.tokens
    for name, weight in weights(parts).items():
        # Adam divides by the gradient's own size, so an entry near zero moves by rounding; never far.
        near("weights after split batches", weight, one[name], 2e-4 if DEVICE == "cpu" else 1e-3)
    assert [c["loss"] for c in result.curve] == pytest.approx(
        [c["loss"] for c in full_result.curve], rel=1e-5
    )


@pytest.mark.parametrize("case", [*TRAINED, "lora-dropout"])
def test_same_seed_same_bits(tiny_lm, case):
    found = []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)  # global randomness left in different states
        method, _ = trained(tiny_lm("qwen3"), case, seed=seed)
        found.append(weights(method))
    first, second, other = found
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_global_randomness_alone(tiny_lm):
    lm = tiny_lm("llama")
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    trained(lm, "lora-dropout")
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("case", TRAINED)
def test_loss_falls(tiny_lm, family, case):
    lm = tiny_lm(family)
    peak = {"full": 1e-3, "lora": 0.02, "lora-all": 0.02, "stack": 0.005, "sparse": 1e-3}.get(case, 0.1)
    settings = TrainSettings(steps=12, batch_size=22, warmup_steps=2, learning_rate=peak)
    _, result = trained(lm, case, settings)
    assert result.curve[-1]["loss"] < 0.97 * result.curve[0]["loss"]
    assert [c["step"] for c in result.curve] == list(range(1, 13))
    assert result.tokens == 12 * sum(len(r.ids) - 1 for r in ROWS)


def test_first_loss_is_the_mean_over_answer_tokens(tiny_lm):
    lm = tiny_lm("llama")
    with torch.no_grad():
        summed = answer_loss(lm, collated(ROWS, torch.device(DEVICE)))
    settings = SHORT.model_copy(update={"batch_size": 22, "tokens_per_pass": 40})
    _, result = trained(lm, "lora", settings)
    assert result.curve[0]["loss"] == pytest.approx(float(summed) / sum(r.answer for r in ROWS), rel=1e-5)


@pytest.mark.parametrize("case", ["prefix-kv", "lora", "full"])
def test_one_step_is_adamw_by_hand(tiny_lm, case):
    """First step of AdamW on the clipped gradient: lr * sign-like g / (|g| + eps), decay apart."""
    lm = tiny_lm("mistral")
    method = make_method(case)
    method.attach(lm)
    before = weights(method)
    answer_loss(lm, collated(ROWS, torch.device(DEVICE))).backward()
    method.after_backward()
    grads = {n: p.grad / sum(r.answer for r in ROWS) for n, p in method.parameters().items()}
    norm = torch.stack([g.norm() for g in grads.values()]).norm()
    for p in method.parameters().values():
        p.grad = None
    settings = TrainSettings(
        steps=1, batch_size=22, warmup_steps=0, learning_rate=0.01, clip=1e-6, weight_decay=0.1
    )
    train(method, ROWS, settings)
    for name, weight in weights(method).items():
        g = grads[name] * 1e-6 / (norm + 1e-6)
        wanted = before[name] * (1 - 0.01 * 0.1) - 0.01 * g / (g.abs() + 1e-8)
        near("one step = AdamW by hand", weight, wanted, 1e-4)


def run_with_scores(lm, scores, case="prefix-hidden", **settings):
    """Train with made-up dev scores; what the weights were at each of them, and the result."""
    seen, left = [], list(scores)
    method = make_method(case)
    method.attach(lm)

    def dev_score():
        assert not lm.model.training
        torch.rand(5)  # evaluation may draw
        seen.append(weights(method))
        return left.pop(0)

    result = train(
        method, ROWS, SHORT.model_copy(update={"steps": 7, "evaluate_every": 2} | settings), 0, dev_score
    )
    return method, seen, result


@pytest.mark.parametrize("case", ["prefix-hidden", "lora", "full", "prefix-kv-mlp"])
def test_best_dev_score_is_kept_the_earlier_on_ties(tiny_lm, case):
    lm = tiny_lm("llama")
    method, seen, result = run_with_scores(lm, [0.1, 0.5, 0.5, 0.4], case)
    assert [d["step"] for d in result.dev] == [2, 4, 6, 7]
    assert result.chosen_step == 4
    assert result.steps == 7
    assert all(torch.equal(p, seen[1][name]) for name, p in method.parameters().items())
    if method.trains_weights:
        for name, weight in lm.model.named_parameters():
            assert torch.equal(weight, seen[1][name])


def test_patience_stops(tiny_lm):
    _, seen, result = run_with_scores(tiny_lm("llama"), [0.5, 0.4, 0.3, 0.9], patience=2)
    assert (result.steps, result.chosen_step, len(seen)) == (6, 2, 3)


def test_looking_at_dev_data_changes_no_bit(tiny_lm):
    """Dropout draws the same numbers whether or not an evaluation came between two steps."""
    runs = []
    for every in (None, 1):
        method = make_method("lora-dropout")
        lm = tiny_lm("llama")
        method.attach(lm)

        def dev_score(lm=lm):
            torch.rand(11)
            lm.hidden(torch.tensor([ROWS[0].ids], device=DEVICE))
            return float(len(runs))

        steps: list[dict] = []
        train(
            method,
            ROWS,
            SHORT.model_copy(update={"evaluate_every": every}),
            0,
            dev_score if every else None,
            lambda p, m=method, s=steps: s.append(weights(m)),
        )
        runs.append(steps)
    for a, b in zip(*runs, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("case", TRAINED)
def test_parameters_stay_fp32_over_bf16(tiny_lm, case):
    lm = tiny_lm("llama", torch.bfloat16)
    method, last = make_method(case), {}
    method.attach(lm, seed=1)
    train(method, ROWS, SHORT, tell=lambda progress: last.update(weights(method)))
    assert all(p.dtype == torch.float32 for p in last.values())
    assert lm.dtype == torch.bfloat16
    if method.trains_weights and method.state().keys() == method.parameters().keys():  # no changes, weights
        rounded = dict(lm.model.named_parameters())  # fp32 copies are gone by now
        assert all(torch.equal(rounded[name], master.bfloat16()) for name, master in last.items())
    with method.evaluating(), torch.no_grad():
        assert lm.hidden(torch.tensor([ROWS[0].ids], device=DEVICE)).dtype == torch.bfloat16


def test_every_bias_moves(tiny_lm):
    """Those of frozen weights among them, whose products are computed in another way where that is faster."""
    lm = tiny_lm("llama", torch.bfloat16, attention_bias=True, mlp_bias=True)
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    method = make_method("full", only="biases")
    method.attach(lm)
    train(method, ROWS, SHORT)
    moved = {name for name, p in lm.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(method.parameters()) == {name for name in before if name.endswith("bias")}


def test_small_steps_are_not_lost_in_bf16(tiny_lm):
    """Full fine-tuning over bf16 weights: steps far below their rounding still add up in the masters."""
    lm = tiny_lm("llama", torch.bfloat16)
    method = make_method("full")
    method.attach(lm)
    steps = []
    settings = SHORT.model_copy(update={"learning_rate": 1e-5})
    train(method, ROWS, settings, tell=lambda progress: steps.append(weights(method)))
    assert all(not torch.equal(p, steps[0][name]) for name, p in steps[-1].items() if "embed" not in name)


def test_loss_that_is_no_number_stops_with_advice(tiny_lm):
    lm = tiny_lm("llama")
    method = make_method("prefix-hidden")
    method.attach(lm)
    with torch.no_grad():
        method.prompts[0].fill_(torch.nan)
    with pytest.raises(UserError, match=r"the loss became nan at step 1; try a learning rate below 0\.01"):
        train(method, ROWS, SHORT)
    assert not lm.model.training


def test_nothing_to_train_on(tiny_lm):
    method = make_method("lora")
    method.attach(tiny_lm("llama"))
    with pytest.raises(UserError, match="no training examples"):
        train(method, [], SHORT)
