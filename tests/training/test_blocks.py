"""Weights in blocks while training: the bits of plain products, and every weight back after."""

import pytest
import torch

from crosstune.models.fast import weights as weight_blocks
from crosstune.models.fast.weights import Blocks, can_pack, packed_weights
from crosstune.outputs.rows import TrainingRow
from crosstune.training import loop
from crosstune.training.loop import train
from crosstune.training.settings import TrainSettings
from tiny_models import DEVICE, TRAINED, attach, make_method, random_ids

pytestmark = pytest.mark.skipif(
    DEVICE != "cpu" or not can_pack(), reason="no bf16 products over blocks on this device"
)
ROWS = [TrainingRow(tuple(random_ids(4 + i % 9, seed=i)), 1 + i % 3) for i in range(22)]
SETTINGS = TrainSettings(steps=3, batch_size=8, warmup_steps=1, learning_rate=0.01, evaluate_every=2)


def weights(lm):
    return {name: x.clone() for name, x in lm.model.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(x, after[name]) for name, x in before.items())


def overlaid(lm):
    linears = ((n, m) for n, m in lm.model.named_modules() if isinstance(m, torch.nn.Linear))
    return [name for name, module in linears if "forward" in vars(module)]


def trained(lm, case, settings=SETTINGS, **changes):
    """Losses, development scores and weights of a short training; the score is the merged model's."""
    method = attach(lm, case, **changes)

    def score():
        assert not overlaid(lm)
        with method.evaluating(), packed_weights(lm), torch.inference_mode():
            ids = torch.tensor([random_ids(12)])
            return float(lm.logits(lm.hidden(ids)[0]).abs().sum())

    result = train(method, ROWS, settings, dev_score=score)
    state = {name: x.clone() for name, x in method.state().items()}
    method.detach()
    return result, state


@pytest.mark.parametrize(
    ("family", "case", "checkpointing"),
    [
        *(("gemma3", case, False) for case in TRAINED),
        *((family, case, False) for family in ("llama", "qwen3") for case in ("prefix-hidden", "lora-all")),
        *(("gemma3", case, True) for case in ("soft-prompt", "lora")),
    ],
)
def test_training_gives_the_same_bits(tiny_lm, family, case, checkpointing, monkeypatch):
    lm = tiny_lm(family, torch.bfloat16)
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": checkpointing})
    before = weights(lm)
    method = make_method(case)
    whole = method.trains_weights and not getattr(method.config, "only", None)  # no matrix is frozen
    laid = []
    backward = loop._backward
    monkeypatch.setattr(loop, "_backward", lambda *args: laid.append(overlaid(lm)) or backward(*args))
    outcome, state = trained(lm, case, settings)
    assert same(before, weights(lm))
    assert not overlaid(lm)
    assert all(bool(names) == (not whole) for names in laid)
    monkeypatch.setattr(weight_blocks, "SHARE", 0)
    plain, wanted = trained(lm, case, settings)
    assert laid[-1] == []
    assert [point["loss"] for point in outcome.curve] == [point["loss"] for point in plain.curve]
    assert outcome.dev == plain.dev
    assert same(wanted, state)


def test_gradients_of_one_layer_against_fp64(tiny_lm):
    lm = tiny_lm("llama", torch.bfloat16)
    layer = lm.decoder.layers[1].mlp.up_proj
    draw = torch.Generator().manual_seed(0)
    layer.bias = torch.nn.Parameter(torch.randn(96, generator=draw).bfloat16(), requires_grad=False)
    # In lines, and with an outer gradient that is expanded from one number a line.
    x = torch.randn(2, 9, 64, generator=draw).bfloat16().requires_grad_()
    outer = torch.randn(2, 9, 1, generator=draw).bfloat16().expand(2, 9, 96)
    weight, bias = layer.weight.double(), layer.bias.double()
    with packed_weights(lm, training=True):
        outputs = layer(x)
        outputs.backward(outer)
    for got, wanted in ((outputs, x.double() @ weight.T + bias), (x.grad, outer.double() @ weight)):
        assert float((got.double() - wanted).detach().norm()) < 2**-8 * float(wanted.detach().norm())


def test_only_layers_that_a_gradient_goes_through_have_transposes(tiny_lm):
    lm = tiny_lm("llama", torch.bfloat16)
    method = attach(lm, "lora", layers=[1])
    with packed_weights(lm, training=True) as blocks:
        lm.hidden(torch.tensor([random_ids(20)])).float().sum().backward()
        transposed = {id(layer.module) for layer in blocks._laid if "transposed" in vars(layer)}
    layers = lm.decoder.layers
    attention = layers[1].self_attn
    wanted = [attention.o_proj, *layers[1].mlp.children(), *layers[2].modules()]
    assert transposed == {id(m) for m in wanted if type(m) is torch.nn.Linear}
    method.detach()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("where", ["step", "evaluation"])
def test_weights_are_back_after_a_stop(tiny_lm, error, where):
    lm = tiny_lm("gemma3", torch.bfloat16)
    method = attach(lm, "lora")
    before = weights(lm)

    def stop(*_):
        raise error

    settings = SETTINGS.model_copy(update={"evaluate_every": 1})
    with pytest.raises(error):
        train(method, ROWS, settings, **({"tell": stop} if where == "step" else {"dev_score": stop}))
    after = weights(lm)
    assert all(torch.equal(x, after[name]) for name, x in before.items() if "lora_" not in name)
    assert not overlaid(lm)


def test_a_stop_while_blocks_are_made(tiny_lm, monkeypatch):
    lm = tiny_lm("llama", torch.bfloat16)
    before = weights(lm)
    reorder, reordered = weight_blocks.reorder, []

    def interrupted(weight):
        if len(reordered) == 5:
            raise KeyboardInterrupt
        reordered.append(weight)
        return reorder(weight)

    monkeypatch.setattr(weight_blocks, "reorder", interrupted)
    with pytest.raises(KeyboardInterrupt), packed_weights(lm, training=True):
        pass
    assert same(before, weights(lm))
    assert not overlaid(lm)


def test_what_is_not_frozen_bf16_is_left_alone(tiny_lm):
    lm = tiny_lm("llama", torch.bfloat16)
    lm.decoder.layers[0].mlp.float()
    lm.decoder.layers[1].mlp.up_proj.weight.requires_grad_(True)
    shared = lm.decoder.layers[2].mlp
    shared.gate_proj.weight = shared.up_proj.weight
    with packed_weights(lm, training=True):
        names = overlaid(lm)
        left = ("model.layers.0.mlp", "model.layers.1.mlp.up_proj", "lm_head")
        assert not any(name.startswith(left) for name in names)
        assert "model.layers.1.mlp.gate_proj" in names
        # Laid both, but neither lets go of what the other has as well.
        assert shared.up_proj.weight.numel()
    for skipped in (tiny_lm("llama", torch.float32), tiny_lm("llama", torch.bfloat16)):
        if skipped.dtype == torch.bfloat16:
            skipped.model.is_quantized = True
        with packed_weights(skipped, training=True):
            assert not overlaid(skipped)


def test_too_large_for_the_machine(tiny_lm, monkeypatch):
    lm = tiny_lm("llama", torch.bfloat16)
    nbytes = sum(m.weight.nbytes for m in lm.decoder.modules() if isinstance(m, torch.nn.Linear))
    for memory, fits in ((8 * nbytes, True), (8 * nbytes - 8, False)):
        monkeypatch.setattr(weight_blocks, "machine_memory", lambda memory=memory: memory)
        blocks = Blocks(lm, training=True)
        blocks.lay()
        assert bool(overlaid(lm)) == fits
        blocks.put_back()
