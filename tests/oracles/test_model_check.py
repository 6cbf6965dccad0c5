"""`LanguageModel.check` and the hook refuse models they would compute differently."""

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CTRLConfig,
    DynamicCache,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    Phi3Config,
)

from crosstune.errors import UserError
from crosstune.methods.prompts.start import attention_inputs
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.geometry import geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.known import geometry_for
from crosstune.models.loading.load import load
from crosstune.study.spec import Study
from tiny_models import CONFIGS, SIZES, near, tokenizer


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
def test_scaled_logits_are_known(config):
    scale = {"logit_scale": 0.25} if config is CohereConfig else {"logits_scaling": 4.0}
    lm = wrap(config(**SIZES | {"tie_word_embeddings": True} | scale))
    lm.check()
    lm.parts.scale *= 2
    with pytest.raises(UserError, match="computes its logits in a way"):
        lm.check()


def test_another_head_is_refused(tiny_lm):
    lm = tiny_lm("llama")
    other = torch.nn.Linear(64, 200, bias=False)
    lm.model.get_output_embeddings = lambda: other
    with pytest.raises(UserError, match="computes its logits in a way"):
        lm.check()


FUSED = {
    "gpt2": lambda: GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4),
    "gpt-neox": lambda: GPTNeoXConfig(**SIZES),
    "phi3": lambda: Phi3Config(**SIZES),
}


@pytest.mark.parametrize("kind", FUSED)
def test_fused_projections_are_those_of_the_model(kind):
    """Of attention's own inputs, each a text of its own: what the attention hands to the cache."""
    lm = wrap(FUSED[kind]())
    lm.check()
    assert lm.geometry.heads == 4
    key, value = lm.parts.layers[1].key_and_value()
    assert len(key.columns) == len(value.columns) == lm.geometry.kv_size
    ids, read = torch.arange(5)[:, None], DynamicCache()
    lm.learn_calls()
    with torch.no_grad():
        inputs = [torch.cat(states) for states in zip(*(attention_inputs(lm, i) for i in ids), strict=True)]
        lm.hidden(ids, read=read)
        for i, states in enumerate(inputs):
            keys, values = lm.keys_values(i, states)
            near("keys of hidden vectors", keys, read.layers[i].keys[:, :, 0].transpose(0, 1))
            near("values of hidden vectors", values, read.layers[i].values[:, :, 0].transpose(0, 1))


def test_decoder_of_another_shape_is_refused_alike_by_plan_and_run(tmp_path):
    """CTRL, from config.json alone and with weights: the same line."""
    config = CTRLConfig(vocab_size=200, n_embd=64, dff=96, n_layer=2, n_head=4)
    config.save_pretrained(tmp_path / "config")
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "whole")
    tokenizer().save_pretrained(tmp_path / "whole")
    messages = set()
    for ask in (lambda: geometry_for(str(tmp_path / "config")), lambda: load(str(tmp_path / "whole"))):
        with pytest.raises(UserError, match="CTRLLMHeadModel has no layers with their attention") as caught:
            ask()
        messages.add(str(caught.value))
    with pytest.raises(ValidationError) as refused:
        Study(name="x", model=str(tmp_path / "whole"), tasks=["cldr-names"], methods=["none"])
    (message,) = messages
    assert "\n" not in message
    assert message in str(refused.value)
