"""Families with attention of their own, or more than attention: what the zoo's short texts do not show."""

import peft
import pytest
import torch
from architectures import eager_model
from checks import apart, save, shake
from transformers import AutoModelForCausalLM

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
    "name", ["xglm", "bloom", "falcon", "falcon-alibi", "gptj", "gpt-neo", "codegen", "lfm2", "falcon-h1"]
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


@pytest.mark.parametrize("name", ["cohere2", "opt"])
@pytest.mark.parametrize("form", [BatchForm.PADDED, BatchForm.PADDING_FREE])
def test_gradients_in_16_bits_are_as_near_to_those_in_32_as_pefts(name, form, tmp_path):
    """LoRA on all linear layers, of texts of one length: PEFT computes them in rows, in bf16 and in fp32."""
    folder = save(eager_model(name).bfloat16(), tmp_path / "model")
    lm = load(str(folder), device="cpu", dtype="bfloat16")
    kind = METHODS["lora"]
    method = kind(kind.Config(rank=2, alpha=4, target_modules="all-linear"))
    method.attach(lm, seed=3)
    shake(method)
    ids = torch.tensor([[(7 * i * i + 5 * i + n) % 250 + 3 for i in range(24)] for n in (3, 8)])

    def gradients(logits, parameters):
        targets = torch.arange(len(logits)) % logits.shape[-1]
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, parameters)])

    def pefts(dtype):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(model, settings)
        theirs = []
        for name, parameter in method.parameters().items():
            module, _, letter = name.rpartition(".")
            theirs.append(wrapped.get_parameter(f"base_model.model.{module}.lora_{letter}.default.weight"))
            theirs[-1].data.copy_(parameter.data)
        return gradients(wrapped(input_ids=ids).logits.flatten(0, 1), theirs)

    placed = lay_out(form, ids.tolist(), 0, lm.device)
    logits = lm.logits(lm.hidden(placed.ids, placed.layout).flatten(0, 1))
    ours = gradients(logits, list(method.parameters().values()))
    exact, half = pefts(torch.float32), pefts(torch.bfloat16)
    error = float((ours - exact).norm())
    assert 0 < error < 1.2 * float((half - exact).norm()) < 0.04 * float(exact.norm())


# Of both sides of LongRoPE's boundary, 40 tokens here; two with a shared beginning that part before it.
SIDES = [[1, *range(5, 5 + n)] for n in (3, 38, 60)]
SIDES += [[1, *range(5, 34), *range(70, 70 + n)] for n in (4, 30)]


@pytest.fixture(scope="module", params=["phi3-longrope", "phimoe-longrope"])
def longrope(request, tmp_path_factory):
    eager = eager_model(request.param)
    folder = save(eager, tmp_path_factory.mktemp("longrope") / "model")
    return eager, load(str(folder), device="cpu", dtype="float32")


def test_longrope_answers_and_choices_of_both_sides(longrope, monkeypatch):
    """Some answers cross the boundary while they are written: transformers reads the text anew there.

    Before 5.20 it dropped its cache there and read the last token alone, so it is asked without a cache.
    """
    eager, lm = longrope
    monkeypatch.setattr(type(lm), "stop_ids", frozenset())
    kept = {"max_new_tokens": ANSWER, "do_sample": False, "use_cache": False}
    kept |= {"eos_token_id": None, "pad_token_id": 0}
    trees = [grow([prompt]) for prompt in SIDES[:3]] + [grow(SIDES[3:])]
    for prompt, answer in zip(SIDES, generation._generate(lm, trees, ANSWER, (), 8192), strict=True):
        assert answer == eager.generate(torch.tensor([prompt]), **kept)[0, len(prompt) :].tolist()
    labels = ((30,), (30, 31, 32, 33), (40, 41))
    items = [ChoiceItem(prompt, labels) for prompt in SIDES]
    for item, scores in zip(items, score_choices(lm, items, EvaluateSettings(choices="label")), strict=True):
        wanted = []
        for label in labels:
            # All labels of a question have the rotation of the longest, which is all that padding changes.
            padded = [*item.prompt, *label[:-1], *[0] * (4 - len(label))]
            logits = eager(torch.tensor([padded])).logits[0, len(item.prompt) - 1 :]
            wanted.append(logits.log_softmax(-1)[: len(label)].gather(1, torch.tensor(label)[:, None]).sum())
        assert not apart(torch.tensor(scores), torch.stack(wanted).log_softmax(0).detach())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("soft-prompt", {"length": 3}),
        ("prefix", {"length": 3}),
        ("llama-adapter", {"length": 3}),
        ("lora", {"rank": 2, "target_modules": "all-linear"}),
    ],
)
def test_longrope_with_methods_of_both_sides(name, settings, longrope, monkeypatch):
    """Each text, its gradients and its answer as by itself: a method's own prompt decides the side too."""
    _, lm = longrope
    monkeypatch.setattr(type(lm), "stop_ids", frozenset())
    method = METHODS[name](METHODS[name].Config(**settings))
    method.attach(lm, seed=0)
    try:
        shake(method)
        parameters = list(method.parameters().values())
        placed = for_training(lm, SIDES)
        states = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
        together = torch.cat(
            [states[start : start + len(text)] for start, text in zip(placed.starts, SIDES, strict=True)]
        )
        alone = torch.cat([lm.hidden(torch.tensor([text]))[0] for text in SIDES])
        assert not apart(together, alone)
        weights = torch.linspace(-1, 1, alone.numel()).view_as(alone)
        for ours, theirs in zip(
            *(torch.autograd.grad((x * weights).sum(), parameters) for x in (together, alone)), strict=True
        ):
            assert not apart(ours, theirs, near=1e-3)
        with torch.no_grad(), method.evaluating():
            crossing = SIDES[1][:-1]
            text = list(crossing)
            for _ in range(5):
                text.append(int(lm.best(lm.hidden(torch.tensor([text]))[0, -1:])))
            answers = generation._generate(lm, [grow([crossing])], 5, (), 8192)
        assert answers == [text[len(crossing) :]]
    finally:
        method.detach()


def test_falcons_alibi_is_added_once_as_it_was_trained(tmp_path):
    """falcon-rw's own code: ``softmax((Q K' + alibi) / sqrt(d))``, alibi in bf16; here by hand in float64.

    transformers' eager attention adds it once more with the mask, its default attention does not.
    """
    eager = eager_model("falcon-alibi")
    lm = load(str(save(eager, tmp_path / "model")), device="cpu", dtype="float32")
    module, seen = lm.attentions[0], {}
    for end in ("query_key_value", "dense"):
        layer = module.get_submodule(end)
        layer.register_forward_hook(lambda _, x, y, end=end: seen.update({end: (x[0], y)}))
    lm.hidden(torch.arange(100)[None])
    heads, size = 4, 8
    q, k, v = seen["query_key_value"][1][0].double().view(-1, heads, 3, size).unbind(2)
    slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
    alibi = (slopes.bfloat16()[:, None] * torch.arange(100).bfloat16()).double()
    scores = (torch.einsum("ihd,jhd->hij", q, k) + alibi[:, None]) / size**0.5
    scores = scores.masked_fill(torch.ones(100, 100, dtype=torch.bool).triu(1), -torch.inf)
    wanted = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)
    assert not apart(seen["dense"][0][0].double(), wanted, near=1e-5)
