"""The probe catches what it is there for: each fault is planted, and nothing else is."""

import pytest
import torch
from architectures import config_of, eager_model
from checks import save
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.adapters.lora import targets
from crosstune.models.attention import choose, hook
from crosstune.models.geometry import geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading import probe
from crosstune.models.loading.known import geometry_for
from crosstune.models.loading.load import load


def skip_the_hook(monkeypatch):
    def stock(module, query, key, value, mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)

    monkeypatch.setitem(hook.AttentionInterface._global_mapping, hook.IMPLEMENTATION, stock)


def drop_the_mask(monkeypatch):
    real = hook.attention

    def open_to_all(module, query, key, value, mask, **kwargs):
        return real(module, query, key, value, None, **kwargs | {"is_causal": False})

    monkeypatch.setitem(hook.AttentionInterface._global_mapping, hook.IMPLEMENTATION, open_to_all)


def shift_positions(monkeypatch):
    real = LanguageModel.read_next
    monkeypatch.setattr(
        LanguageModel, "read_next", lambda self, ids, lengths, slots: real(self, ids, lengths + 1, slots)
    )


def leak_a_neighbour(monkeypatch):
    real = choose.PaddingFreeBatch

    def one_text(lengths, **kwargs):
        return real((sum(lengths),), **kwargs)

    monkeypatch.setattr(choose, "PaddingFreeBatch", one_text)


def test_a_hook_that_is_skipped_costs_all_that_needs_it(monkeypatch):
    """One text a row is right without it; texts that share a row and learned keys are not, and not used."""
    skip_the_hook(monkeypatch)
    geometry = probe.examine(config_of("qwen3"))
    assert geometry.apart == "several texts and branches in one line are not what each text is alone"
    assert geometry.no_prompts.endswith("computes attention in 0 to 0 passes a layer")


@pytest.mark.parametrize("fault", [drop_the_mask, shift_positions, leak_a_neighbour])
def test_a_planted_fault_is_refused(fault, monkeypatch):
    config = config_of("qwen3")
    probe.examine(config)
    fault(monkeypatch)
    with pytest.raises(UserError, match="choose another model or report it") as caught:
        probe.examine(config)
    assert "\n" not in str(caught.value)


def test_a_dropped_key_norm_is_refused(monkeypatch):
    """Qwen 3 with prompt keys as the projection leaves them: the methods that need them are refused."""

    def without_norm(self, layer, states):
        module = self.attentions[layer]
        pair = (module.k_proj(states), module.v_proj(states))
        return tuple(x.unflatten(-1, (-1, module.head_dim)).transpose(0, 1) for x in pair)

    monkeypatch.setattr(LanguageModel, "keys_values", without_norm)
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
