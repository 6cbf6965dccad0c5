"""Families with attention of their own, or more than attention: what the zoo's short texts do not show."""

import pytest
import torch
from architectures import eager_model
from checks import apart, save

from crosstune.methods import METHODS
from crosstune.models.attention.choose import BatchForm, for_training, lay_out, training_form
from crosstune.models.attention.trees import grow
from crosstune.models.loading.load import load
from crosstune.outputs import generation
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.settings import EvaluateSettings
from tiny_models import DEVICE

PROMPTS = [[1, *range(5, 5 + n)] for n in (3, 17, 40, 41)] + [[1, *range(5, 20), 99, 100]]
ANSWER = 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["xglm", "bloom", "falcon", "gptj", "gpt-neo", "codegen", "lfm2", "falcon-h1"]
)
def test_written_answers_are_those_of_transformers(name, dtype, tmp_path, monkeypatch):
    """Prompts of many lengths, two with a shared beginning, read in one line or in padded rows.

    In 16 bits two tokens can be level: there transformers' own logits say that none was better by more.
    """
    eager = eager_model(name).to(dtype)
    lm = load(str(save(eager, tmp_path / "model")), device="cpu", dtype=str(dtype).removeprefix("torch."))
    monkeypatch.setattr(type(lm), "stop_ids", frozenset())
    kept = {"max_new_tokens": ANSWER, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    trees = [grow([prompt]) for prompt in PROMPTS[:3]] + [grow(PROMPTS[3:])]
    for form in (BatchForm.PADDING_FREE, BatchForm.PADDED):
        monkeypatch.setattr(generation, "reading_form", lambda *_, form=form: form)
        for prompt, answer in zip(PROMPTS, generation._generate(lm, trees, ANSWER, (), 8192), strict=True):
            ids = torch.tensor([prompt])
            if dtype == torch.float32:
                assert answer == eager.generate(ids, **kept)[0, len(prompt) :].tolist()
                continue
            logits = eager(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
            chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
            assert bool((chosen >= logits.amax(1) - 0.03 * logits.abs().amax()).all())


def test_xglm_goes_on_beyond_its_table_of_positions(tmp_path):
    """128 positions here: a text ends behind them, and one only behind its prefix."""
    eager = eager_model("xglm")
    lm = load(str(save(eager, tmp_path / "model")), device="cpu", dtype="float32")
    ids = torch.arange(140)[None] % 250
    with torch.no_grad():
        assert not apart(lm.logits(lm.hidden(ids)[0]), eager(ids, use_cache=False).logits[0])
        method = METHODS["prefix"](METHODS["prefix"].Config(length=20))
        method.attach(lm, seed=0)
        assert lm.hidden(ids[:, :120]).isfinite().all()
        method.detach()


@pytest.mark.parametrize("name", ["gpt2", "xglm"])
def test_attention_that_drops_is_trained_where_it_can_drop(name, tmp_path):
    lm = load(str(save(eager_model(name), tmp_path / "model")), device="cpu", dtype="float32")
    assert training_form(lm, 100) is BatchForm.PACKED


def test_models_with_a_state_read_texts_one_per_row_and_say_so(tmp_path):
    """Choices of one and of several tokens behind prompts with a shared beginning."""
    eager = eager_model("lfm2")
    lm = load(str(save(eager, tmp_path / "model")), device="cpu", dtype="float32")
    assert [line for line in lm.remarks if "texts are read one per row" in line]
    labels = ((30,), (30, 31), (40, 41, 42), (40, 50))
    items = [ChoiceItem(prompt, labels) for prompt in PROMPTS]
    for item, scores in zip(items, score_choices(lm, items, EvaluateSettings(choices="label")), strict=True):
        wanted = []
        for label in labels:
            logits = eager(torch.tensor([[*item.prompt, *label]])).logits[0, len(item.prompt) - 1 : -1]
            wanted.append(logits.log_softmax(-1).gather(1, torch.tensor(label)[:, None]).sum())
        assert not apart(torch.tensor(scores), torch.stack(wanted).log_softmax(0).detach())


@pytest.mark.parametrize("name", ["bloom", "gpt-neo", "gpt-oss"])
def test_a_checkpointed_layer_knows_who_sees_whom_when_it_runs_again(name, tmp_path):
    """Texts in one row by a mask, a soft prompt in front: only a layer's arguments are left by then."""
    lm = load(str(save(eager_model(name), tmp_path / "model")), device="cpu", dtype="float32")
    method = METHODS["soft-prompt"](METHODS["soft-prompt"].Config(length=3))
    method.attach(lm, seed=0)
    placed = lay_out(BatchForm.PACKED, PROMPTS, 0, "cpu", balance=1e9)
    assert len(placed.ids) < len(PROMPTS)
    grads = []
    for checkpointing in (False, True):
        lm.model.train(checkpointing)
        if checkpointing:
            lm.model.gradient_checkpointing_enable({"use_reentrant": False})
        states = lm.hidden(placed.ids, placed.layout)
        weights = torch.linspace(-1, 1, states.numel()).view_as(states)
        grads.append(torch.autograd.grad((states * weights).sum(), list(method.parameters().values()))[0])
    assert float(grads[0].abs().max()) > 0
    assert not apart(grads[1], grads[0])


@pytest.mark.parametrize("name", ["bloom", "xglm", "gemma2", "minicpm3", "lfm2"])
def test_a_training_batch_in_16_bits_is_right_on_this_device(name, tmp_path):
    """In the form that the device at hand takes; against transformers in fp32, one text at a time."""
    eager = eager_model(name)
    lm = load(str(save(eager, tmp_path / "model")), device=DEVICE, dtype="bfloat16")
    placed = for_training(lm, PROMPTS)
    with torch.no_grad():
        states = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
        for start, prompt in zip(placed.starts, PROMPTS, strict=True):
            logits = lm.logits(states[start : start + len(prompt)]).cpu()
            assert not apart(logits, eager(torch.tensor([prompt])).logits[0], near=0.06)
