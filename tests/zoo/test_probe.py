"""The probe catches what it is there for: each fault is planted, and nothing else is."""

import functools
from dataclasses import replace

import pytest
import torch
from architectures import config_of, eager_model
from checks import save
from transformers import DynamicCache, EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.adapters.lora import targets
from crosstune.models.attention import choose, hook
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.models.geometry import geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading import probe
from crosstune.models.loading.known import geometry_for
from crosstune.models.loading.load import load
from tiny_encoder_decoders import CONFIGS


def skip_the_hook(monkeypatch):
    def stock(module, query, key, value, mask, **kwargs):
        mask = mask if kwargs.get("is_causal", module.is_causal) is False else None
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)

    monkeypatch.setitem(hook.AttentionInterface._global_mapping, hook.IMPLEMENTATION, stock)


def drop_the_mask(monkeypatch):
    real = hook.attention

    def open_to_all(module, query, key, value, mask, **kwargs):
        return real(module, query, key, value, None, **kwargs | {"is_causal": False})

    monkeypatch.setitem(hook.AttentionInterface._global_mapping, hook.IMPLEMENTATION, open_to_all)


def shift_positions(monkeypatch):
    """Of a decoder's next token, of an encoder's text, and of what an encoder-decoder writes."""
    read_next, positions = LanguageModel.read_next, LanguageModel._positions
    monkeypatch.setattr(
        LanguageModel, "read_next", lambda self, ids, lengths, slots: read_next(self, ids, lengths + 1, slots)
    )
    monkeypatch.setattr(
        LanguageModel,
        "_positions",
        lambda self, *args: positions(self, *args) + bool(self.geometry.encoder),
    )

    class OneMore(DynamicCache):
        def get_seq_length(self, *args):
            return super().get_seq_length(*args) + 1

    monkeypatch.setattr(
        EncoderDecoder, "new_cache", lambda self: EncoderDecoderCache(OneMore(), DynamicCache())
    )


def leak_a_neighbour(monkeypatch):
    """A line is one text, and an encoder-decoder's row attends to the source of the row before it."""
    for name in ("PaddingFreeBatch", "TwoWayLine"):
        real = getattr(choose, name)
        monkeypatch.setattr(choose, name, lambda lengths, real=real, **more: real((sum(lengths),), **more))
    encode = EncoderDecoder.encode

    def of_the_row_before(self, source):
        encoded = encode(self, source)
        return replace(encoded, states=encoded.states.roll(1, 0))

    monkeypatch.setattr(EncoderDecoder, "encode", of_the_row_before)


def test_a_hook_that_is_skipped_costs_all_that_needs_it(monkeypatch):
    """One text a row is right without it; texts that share a row and learned keys are not, and not used."""
    skip_the_hook(monkeypatch)
    geometry = probe.examine(config_of("qwen3"))
    assert geometry.apart == "several texts and branches in one line are not what each text is alone"
    assert geometry.no_prompts.endswith("computes attention in 0 to 0 passes a layer")


KINDS = {
    "qwen3": (lambda: config_of("qwen3"), "model"),
    "bert": (lambda: config_of("bert (encoder)"), "encoder"),
    "mbart": (CONFIGS["mbart"], "encoder-decoder"),
    "t5": (CONFIGS["t5"], "encoder-decoder"),
}


@functools.cache
def unharmed(kind):
    """What the probe finds without a fault."""
    return probe.examine(KINDS[kind][0]())


def refused(kind):
    make, another = KINDS[kind]
    with pytest.raises(UserError, match=f"choose another {another} or report it") as caught:
        probe.examine(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", [drop_the_mask, shift_positions, leak_a_neighbour])
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_refused(kind, fault, monkeypatch):
    unharmed(kind)
    fault(monkeypatch)
    refused(kind)


@pytest.mark.parametrize("kind", ["mbart", "t5"])
def test_a_hook_that_is_skipped_costs_an_encoder_decoder_learned_keys(kind, monkeypatch):
    assert not unharmed(kind).no_prompts
    skip_the_hook(monkeypatch)
    geometry = probe.examine(KINDS[kind][0]())
    assert geometry.no_prompts.endswith("computes attention in 0 to 0 passes a layer")


def test_a_hook_that_is_skipped_is_refused_in_an_encoder(monkeypatch):
    skip_the_hook(monkeypatch)
    refused("bert")


def test_a_dropped_key_bias_is_noticed_in_an_encoder_decoder(monkeypatch):
    """mBART's keys have a bias and no norm."""

    def without_bias(self, layer, states):
        module = self.attentions[layer]
        pair = (states @ module.k_proj.weight.T, module.v_proj(states))
        return tuple(x.unflatten(-1, (-1, module.head_dim)).transpose(0, 1) for x in pair)

    monkeypatch.setattr(LanguageModel, "keys_values", without_bias)
    assert probe.examine(CONFIGS["mbart"]()).no_prompts.endswith("makes keys in a way that is not known")


def test_a_dropped_key_norm_is_refused(monkeypatch):
    """Qwen 3 with prompt keys as the projection leaves them: the methods that need them are refused."""

    def without_norm(self, layer, states):
        module = self.attentions[layer]
        pair = (module.k_proj(states), module.v_proj(states))
        return tuple(x.unflatten(-1, (-1, module.head_dim)).transpose(0, 1) for x in pair)

    monkeypatch.setattr(LanguageModel, "keys_values", without_norm)
    assert probe.examine(config_of("embeddinggemma")).no_prompts.endswith("in a way that is not known")
    geometry = probe.examine(config_of("qwen3"))
    with pytest.raises(UserError, match="makes keys in a way that is not known; use lora"):
        METHODS["prefix"].count(METHODS["prefix"].Config(), geometry)
    assert not probe.examine(config_of("llama")).no_prompts, "Llama has no key norm to drop"


def test_a_weight_that_is_read_without_a_call_gets_no_update():
    """Jamba reads the weight of dt_proj itself: an update beside it would count only once it is merged."""
    geometry = probe.examine(config_of("jamba"))
    assert geometry.uncalled == ("dt_proj",)
    config = METHODS["lora"].Config
    for settings in ({"target_modules": "all-linear"}, {"target_modules": ["in_proj"]}):
        assert all("dt_proj" not in name for _, name, _ in targets(config(**settings), geometry))
    with pytest.raises(UserError, match='unknown target module "dt_proj"'):
        targets(config(target_modules=["dt_proj"]), geometry)


def test_plan_and_load_refuse_alike(tmp_path):
    folder = save(eager_model("bart"), tmp_path / "model")
    said = set()
    for ask in (lambda: geometry_for(str(folder)), lambda: load(str(folder), device="cpu")):
        with pytest.raises(UserError, match="BartForCausalLM computes in a way") as caught:
            ask()
        said.add(str(caught.value))
    assert len(said) == 1


def test_texts_beyond_which_the_rotation_follows_the_longest_are_refused(tmp_path):
    """Up to there the zoo finds dynamic NTK right; one token more, read or written, is one line."""
    lm = load(str(save(eager_model("llama-dynamic"), tmp_path / "model")), device="cpu", dtype="float32")
    assert lm.geometry.same_rotation == 40
    assert lm.hidden(torch.ones(1, 40, dtype=torch.long)).isfinite().all()
    with pytest.raises(UserError, match="a text of 41 tokens, and beyond 40"):
        lm.hidden(torch.ones(1, 41, dtype=torch.long))


def test_what_was_found_is_kept(tmp_path, monkeypatch):
    folder = save(eager_model("llama"), tmp_path / "model")
    found = geometry_for(str(folder))
    monkeypatch.setattr(probe, "examine", lambda config: pytest.fail("examined again"))
    assert geometry_for(str(folder)) == found == geometry_of(config_of("llama"))
