"""Encoder-decoders are loaded after a probe, or refused in one line; their logits are transformers'."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BartConfig, LEDConfig, MT5Config

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.models.attention.choose import Source
from crosstune.models.geometry import geometry_of
from crosstune.models.loading.load import load
from crosstune.models.loading.probe import examine
from eager_pairs import pair
from tiny_encoder_decoders import (
    CONFIGS,
    SOURCES,
    TARGETS,
    VOCABULARY,
    make_seq2seq,
    save_seq2seq,
    seq2seq_model,
)
from tiny_models import near


def batch(lm, sources=SOURCES, targets=TARGETS):
    """Logits of the targets, in one padded batch."""
    width = max(map(len, targets))
    ids = torch.tensor([[*target, *[lm.pad_id] * (width - len(target))] for target in targets])
    states = lm.hidden(ids.to(lm.device), source=Source.of(sources, lm.pad_id, lm.device))
    return [lm.logits(row[: len(target)]) for row, target in zip(states, targets, strict=True)]


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_are_those_of_each_pair_alone(family):
    lm, eager = make_seq2seq(family), seq2seq_model(family, torch.float32, "eager")
    lm.check()
    wanted = [pair(eager, *texts) for texts in zip(SOURCES, TARGETS, strict=True)]
    for ours, expected in zip(batch(lm), wanted, strict=True):
        near(f"logits of {family}", ours, expected)
    columns = torch.tensor([5, 9])
    states = lm.hidden(torch.tensor([TARGETS[0]]), source=Source.of(SOURCES[:1], 0, "cpu"))[0]
    near("some columns", lm.logits(states, columns), lm.logits(states)[:, columns])
    half, twin = make_seq2seq(family, torch.bfloat16), seq2seq_model(family, torch.bfloat16, "eager")
    for ours, (source, target) in zip(batch(half), zip(SOURCES, TARGETS, strict=True), strict=True):
        near(f"logits of {family}, bf16", ours, pair(twin, source, target).float(), 0.06)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_probe_takes_it_and_counts_are_those_of_its_modules(family, tmp_path):
    lm = load(str(save_seq2seq(tmp_path, family)), device="cpu", dtype="float32")
    shape = lm.geometry
    assert (shape.encoder_layers, shape.layers, len(lm.attentions)) == (2, 5, 8)
    assert (shape.no_prompts, shape.no_soft_prompt) == ("", "")
    learned = [
        p.numel()
        for name, p in lm.model.named_parameters()
        if "embed_positions" not in name or family == "mbart"
    ]
    assert shape.parameters == sum(learned) == sum(count for count, _, _ in shape.counts)
    assert shape.hidden == 32
    assert shape.kv_size == (48 if "t5" in family else 32)


def test_shapes_of_published_models():
    """MT5-base by hand: 12 + 12 layers of 768, twelve heads of 64, a gated MLP of 2048, two tables."""
    sizes = {"vocab_size": 250112, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
    shape = geometry_of(MT5Config(**sizes))
    attention, mlp = 4 * 768 * 768, 3 * 768 * 2048
    encoder, decoder = attention + mlp + 2 * 768, 2 * attention + mlp + 3 * 768
    assert (
        shape.parameters == 2 * 250112 * 768 + 12 * (encoder + decoder) + 2 * 768 + 2 * 32 * 12 == 582_401_280
    )
    assert sum(count for count, _, _ in shape.counts) == shape.parameters
    assert [count[0] for count in shape.counts[:24:12]] == [encoder + 32 * 12, decoder + 32 * 12]
    assert METHODS["lora"].count(METHODS["lora"].Config(rank=4), shape) == 36 * 2 * 4 * (768 + 768)


def test_an_output_table_of_its_own_is_loaded_and_counted(tmp_path):
    """As in the published mT5, though transformers' config says that it is tied."""
    save_seq2seq(tmp_path, "mt5")
    tensors = load_file(tmp_path / "model.safetensors")
    table = torch.randn(VOCABULARY, 32)
    save_file(tensors | {"lm_head.weight": table}, tmp_path / "model.safetensors", {"format": "pt"})
    lm = load(str(tmp_path), device="cpu", dtype="float32")
    assert torch.equal(lm.model.lm_head.weight, table)
    assert not lm.geometry.tied
    assert lm.geometry.parameters == geometry_of(lm.model.config).parameters


def test_what_is_computed_otherwise_is_refused_in_a_line():
    with pytest.raises(UserError) as caught:
        examine(LEDConfig(vocab_size=90, d_model=32))
    assert "\n" not in str(caught.value)


def test_bart_itself_is_taken():
    assert examine(BartConfig(vocab_size=90, d_model=32)).unknown == ("norm before the MLP",)
