"""Blocks of weights: the same bits as the plain products, and nothing left behind."""

import pytest
import torch

from crosstune.models.fast.weights import can_pack, packed_weights
from tiny_models import attach, random_ids

pytestmark = pytest.mark.skipif(not can_pack(), reason="no bf16 products over blocks on this CPU")


def weights(lm):
    return {name: x.clone() for name, x in lm.model.state_dict().items()}


@pytest.fixture
def lm(tiny_lm, family):
    lm = tiny_lm(family)
    if lm.device.type != "cpu":
        pytest.skip("blocks are for a CPU")
    lm.model.to(torch.bfloat16)
    return lm


@pytest.mark.parametrize("case", ["none", "lora"])
def test_same_bits_and_weights_come_back(lm, case):
    method = attach(lm, case)
    with method.evaluating():
        before = weights(lm)
        shapes = ((1, 1), (3, 5), (8, 40))
        texts = [torch.tensor([random_ids(n, seed=b * n + i) for i in range(b)]) for b, n in shapes]
        with torch.inference_mode():
            wanted = [lm.logits(lm.hidden(ids).flatten(0, 1)) for ids in texts]
            with packed_weights(lm):
                assert not any(layer.mlp.up_proj.weight.numel() for layer in lm.decoder.layers)
                outputs = [lm.logits(lm.hidden(ids).flatten(0, 1)) for ids in texts]
        assert all(torch.equal(a, b) for a, b in zip(wanted, outputs, strict=True))
        after = weights(lm)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("forward" in vars(module) for module in lm.model.modules())


def test_an_error_inside_leaves_nothing_behind(lm):
    before = weights(lm)
    with pytest.raises(KeyError), packed_weights(lm):
        raise KeyError
    after = weights(lm)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("forward" in vars(module) for module in lm.model.modules())


def test_fp32_is_left_alone(tiny_lm, family):
    lm = tiny_lm(family)
    with packed_weights(lm):
        assert not any("forward" in vars(module) for module in lm.model.modules())
