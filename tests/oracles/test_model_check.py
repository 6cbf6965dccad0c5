"""`LanguageModel.check` and the hook refuse models they would compute differently."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPT2Config, GraniteConfig

from crosstune.errors import UserError
from crosstune.models.attention.hook import IMPLEMENTATION, attention
from crosstune.models.geometry import geometry_of
from crosstune.models.language_model import LanguageModel
from tiny_models import CONFIGS, SIZES, tokenizer


def wrap(config) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=IMPLEMENTATION).eval()
    return LanguageModel(model, tokenizer(), "odd", "0", geometry_of(config))


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_four_families_pass(tiny_lm, kind, dtype):
    tiny_lm(kind, dtype).check()


def test_final_softcap_is_known(tiny_lm):
    lm = tiny_lm("gemma3", final_logit_softcapping=0.5)
    lm.check()
    assert lm.logits(torch.ones(1, 64)).abs().max() <= 0.5


@pytest.mark.parametrize("config", [CohereConfig, GraniteConfig])
def test_scaled_logits_are_refused(config):
    scale = {"logit_scale": 0.25} if config is CohereConfig else {"logits_scaling": 4.0}
    with pytest.raises(UserError, match="computes its logits in a way"):
        wrap(config(**SIZES | {"tie_word_embeddings": True} | scale)).check()


def test_another_head_is_refused(tiny_lm):
    lm = tiny_lm("llama")
    other = torch.nn.Linear(64, 200, bias=False)
    lm.model.get_output_embeddings = lambda: other
    with pytest.raises(UserError, match="computes its logits in a way"):
        lm.check()


def test_decoder_of_another_shape_is_refused():
    with pytest.raises(UserError, match="is not a decoder with layers"):
        wrap(GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4))


def test_capped_attention_scores_are_refused():
    lm = wrap(Gemma2Config(**SIZES | {"head_dim": 16}, attn_logit_softcapping=50.0))
    with pytest.raises(UserError, match="softcap"):
        lm.check()


def test_attention_sinks_are_refused():
    x = torch.zeros(1, 4, 3, 8)
    with pytest.raises(UserError, match="s_aux"):
        attention(SimpleNamespace(is_causal=True), x, x, x, None, s_aux=torch.zeros(4))
