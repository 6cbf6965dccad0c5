"""Beam search of causal models, against transformers' own on a model that reads whole texts anew."""

import pytest
import torch
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from crosstune.models.attention.trees import grow
from crosstune.models.loading.load import load
from crosstune.outputs import generation
from crosstune.outputs.settings import Beams, EvaluateSettings
from reference_decoder import effect_of, reference_logits
from saved_model import byte_tokenizer
from tiny_models import SCORED, WINDOW, attach, random_ids

PASSAGE = random_ids(WINDOW, seed=40)
PROMPTS = [random_ids(3, seed=1), *([*PASSAGE, *random_ids(n, seed=n)] for n in (1, 4))]
TREES = [grow(PROMPTS[:1]), grow(PROMPTS[1:])]
TOKENS = 7
HOW = [Beams(2), Beams(4, 0.0), Beams(3, 2.0, "never"), Beams(3, 0.3, True), Beams(3, -1.0, "never")]


class Reader(PreTrainedModel, GenerationMixin):
    """Logits of whole texts by a function: what transformers' search is run on."""

    main_input_name = "input_ids"

    def __init__(self, logits_of, words):
        super().__init__(PretrainedConfig(vocab_size=words))
        self.logits_of, self.any = logits_of, torch.nn.Parameter(torch.zeros(1))

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}

    def forward(self, input_ids, attention_mask=None, **kwargs):
        return CausalLMOutput(logits=torch.stack([self.logits_of(ids)[-1:] for ids in input_ids.tolist()]))


def theirs(logits_of, words, prompt, how, ends, tokens=TOKENS, **more):
    settings = {"num_beams": how.count, "length_penalty": how.length_penalty, "use_cache": False}
    settings |= {"early_stopping": how.early_stopping, "eos_token_id": ends, "pad_token_id": 0}
    ids = torch.tensor([prompt])
    out = Reader(logits_of, words).generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, **settings, **more
    )
    written = out[0, len(prompt) :].tolist()
    return written[: next((i for i, token in enumerate(written) if token in ends), tokens)]


@pytest.mark.parametrize(
    ("family", "how"), [*zip(["llama", "gemma3", "mistral", "qwen3", "llama"], HOW, strict=True)]
)
@pytest.mark.parametrize("case", SCORED)
def test_beams_find_what_those_of_transformers_do(tiny_lm, case, family, how):
    lm = tiny_lm(family)
    method = attach(lm, case)
    effect = effect_of(method, lm)
    words = lm.geometry.vocabulary

    def logits_of(ids):
        return reference_logits(lm, ids, effect)

    with torch.no_grad():
        # Tokens that come often end answers: searches end at several lengths.
        likely = generation._generate(lm, TREES, TOKENS, (), 10_000)
        ends = sorted({2, *(answer[at] for answer in likely for at in (2, 4))})
        lm.model.generation_config.eos_token_id = ends
        wanted = [theirs(logits_of, words, prompt, how, ends) for prompt in PROMPTS]
        with method.evaluating():
            for few in (10_000, 1):  # all at once, and one after the other
                assert generation._search(how, lm, TREES, TOKENS, (), few) == wanted
    assert min(map(len, wanted)) < TOKENS or how.length_penalty > 0.5


def test_a_model_that_keeps_a_state_searches_too(tmp_path):
    pytest.importorskip("transformers.models.lfm2")
    from transformers import Lfm2Config, Lfm2ForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}
    model = Lfm2ForCausalLM(Lfm2Config(**sizes, initializer_range=0.4, eos_token_id=2, pad_token_id=0)).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    lm = load(str(tmp_path), device="cpu", dtype="float32")
    assert lm.geometry.apart
    how = Beams(3)
    with torch.no_grad():
        for prompt in PROMPTS:
            wanted = theirs(
                lambda ids: model(torch.tensor([ids])).logits[0], 264, prompt, how, sorted(lm.stop_ids)
            )
            assert generation._search(how, lm, [grow([prompt])], TOKENS, (), 10_000) == [wanted]


def test_a_stop_string_ends_an_answer_as_an_end_of_text_does(tiny_lm):
    """With transformers' ``stop_strings``; its prompt has none of them."""
    lm = tiny_lm("llama")
    likely = generation._generate(lm, TREES[:1], TOKENS, (), 10_000)[0]
    stop = lm.tokenizer.decode(likely[2:4])
    how = Beams(2)
    wanted = theirs(
        lambda ids: lm.logits(lm.hidden(torch.tensor([ids]))[0]),
        lm.geometry.vocabulary,
        PROMPTS[0],
        how,
        sorted(lm.stop_ids),
        stop_strings=[stop],
        tokenizer=lm.tokenizer,
    )
    assert generation._search(how, lm, TREES[:1], TOKENS, (stop,), 10_000) == [wanted]


@pytest.mark.parametrize("more", [{"length_penalty": 2.0}, {"early_stopping": True}])
def test_settings_of_a_search_need_beams(more):
    with pytest.raises(ValueError, match="set beams to 2 or more"):
        EvaluateSettings(**more)
    assert EvaluateSettings(beams=2, **more).search.count == 2
    assert EvaluateSettings().search is None
