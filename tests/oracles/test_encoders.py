"""Encoders through every way that a method reaches them, against transformers' eager attention, text by text.

Nothing of crosstune is on the other side: prompts stand in an attention written out in the tests, made with
the layers' own projections called by name; LoRA, adapters and trained weights are put into the weights or
computed with hooks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from transformers import (
    XLMRobertaForMultipleChoice,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
)

from crosstune.data.example import Example
from crosstune.methods.full import Full
from crosstune.methods.head import HeadShape, WithHead
from crosstune.models.attention.choose import BatchForm, for_training, lay_out
from crosstune.models.family import encoder_of
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.heads.classes import HeadChoice
from crosstune.outputs.rows import TrainingRow
from crosstune.outputs.settings import EvaluateSettings
from crosstune.training.batches import collate, ready_parts
from crosstune.training.objectives import answer_loss
from tiny_encoders import CONFIGS, encoder_model, make_encoder, planted
from tiny_models import attach, near, row

# Longer than the window to both sides, and lengths that have to be filled up.
TEXTS = [[3 + (7 * i * i + 5 * i + n) % 250 for i in range(n)] for n in (29, 26, 7)]
FORMS = [BatchForm.PADDED, BatchForm.PACKED, BatchForm.PADDING_FREE]
CASES = ["none", "soft-prompt", "prefix-hidden", "prefix-kv", "llama-adapter", "lora", "bottleneck", "full"]


class States(torch.nn.Module):
    """A model without its head, its weights by the whole model's names."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model.base_model(input_ids=ids).last_hidden_state[0]


def read(lm, form: BatchForm) -> list[Tensor]:
    """States of the texts in a form; with a soft prompt, in the one that suits it."""
    if lm.adaptation.front:
        form = BatchForm.PADDED
    placed = lay_out(form, TEXTS, lm.pad_id, lm.device, balance=1e9, two_way=True)
    states = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
    return [states[start : start + len(text)] for start, text in zip(placed.starts, TEXTS, strict=True)]


def projected(attention, states: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values ``[heads, n, size]`` by the projections' names; nothing is rotated at position 0."""
    if hasattr(attention, "Wqkv"):
        _, keys, values = attention.Wqkv(states).chunk(3, -1)
    else:
        pair = ("k_proj", "v_proj"), ("key", "value"), ("k_lin", "v_lin")
        names = next(names for names in pair if hasattr(attention, names[0]))
        keys, values = (getattr(attention, name)(states) for name in names)
    size = getattr(attention, "head_dim", None) or attention.attention_head_size
    keys, values = (x.unflatten(-1, (-1, size)).transpose(0, 1) for x in (keys, values))
    return (attention.k_norm(keys) if hasattr(attention, "k_norm") else keys), values


@contextmanager
def wanted(case: str, method, lm, eager) -> Iterator[Callable[[list[int]], Tensor]]:
    """The states of a text as the case has to give them."""
    p = method.parameters()
    base = eager.base_model
    names = {id(module): name for name, module in lm.model.named_modules()}
    attentions = [eager.get_submodule(names[id(module)]) for module in lm.attentions]

    def plain(text: list[int]) -> Tensor:
        return base(input_ids=row(text)).last_hidden_state[0]

    def with_prompt(text: list[int]) -> Tensor:
        embeds = torch.cat([p["prompt"][None], base.get_input_embeddings()(row(text))], 1)
        return base(inputs_embeds=embeds).last_hidden_state[0, len(p["prompt"]) :]

    def with_weights(changes: dict[str, Tensor]) -> Callable[[list[int]], Tensor]:
        named = {f"model.{name}": x for name, x in changes.items()}
        return lambda text: functional_call(States(eager), named, (row(text),))

    with ExitStack() as inside:
        if case == "soft-prompt":
            yield with_prompt
        elif case == "lora":
            scale = method.config.alpha / method.config.rank
            names_of = {key.removesuffix(".A") for key in p if key.endswith(".A")}
            updates = {name: scale * p[f"{name}.B"] @ p[f"{name}.A"] for name in names_of}
            weights = {f"{n}.weight": eager.get_submodule(n).weight + x for n, x in updates.items()}
            yield with_weights(weights)
        elif case == "full":
            yield with_weights(dict(p))
        elif case == "bottleneck":
            last = {
                "bert": ("attention.output.dense", "output.dense"),
                "xlm-roberta": ("attention.output.dense", "output.dense"),
                "distilbert": ("attention.out_lin", "ffn.lin2"),
                "modernbert": ("attn.Wo", "mlp.Wo"),
            }.get(lm.name.removeprefix("tiny-"), ("self_attn.o_proj", "mlp.down_proj"))
            for i, layer in enumerate(eager.get_submodule(names[id(module)]) for module in lm.layers):
                for place, name in zip(("attention", "mlp"), last, strict=True):
                    t = [p[f"layers.{i}.{place}.{end}"] for end in ("down.weight", "down.bias")]
                    u = [p[f"layers.{i}.{place}.{end}"] for end in ("up.weight", "up.bias")]

                    def add(_, args, out, t=t, u=u):
                        return out + torch.relu(out @ t[0].T + t[1]) @ u[0].T + u[1]

                    inside.callback(layer.get_submodule(name).register_forward_hook(add).remove)
            yield plain
        elif case == "none":
            yield plain
        else:
            prompts = []
            for i, attention in enumerate(attentions):
                if case == "prefix-kv" and i == 1:
                    continue  # in layers 0 and 2 of three; of two, in the first
                gate = torch.tanh(p[f"layers.{i}.gate"]) if case == "llama-adapter" else None
                value = p[f"layers.{i}.prompt" if gate is not None else f"layers.{i}"]
                if case == "prefix-kv":
                    pair = tuple(x.unflatten(-1, (lm.geometry.kv_heads, -1)).transpose(0, 1) for x in value)
                else:
                    pair = projected(attention, value)
                prompts.append((attention, *pair, gate))
            if case == "prefix-kv":
                empty = torch.zeros(lm.geometry.kv_heads, 0, lm.geometry.head_dim)
                prompts.append((attentions[1], empty, empty, None))
            inside.enter_context(planted(eager, prompts))
            yield plain


def settings(case: str) -> dict:
    return {"layers": [0]} if case == "prefix-kv" else {}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("case", CASES)
def test_states_and_gradients_are_those_of_each_text_alone(family, case):
    lm, eager = make_encoder(family), encoder_model(family, torch.float32, "eager")
    assert lm.geometry.encoder == encoder_of(eager.config) != ""
    method = attach(lm, case, **settings(case))
    weights = [*method.parameters().values()]
    with wanted(case, method, lm, eager) as states:
        theirs = [states(text) for text in TEXTS]
        for form in FORMS:
            for ours, expected in zip(read(lm, form), theirs, strict=True):
                near(f"encoder {case}", ours, expected)
        if weights and not isinstance(method, Full):
            draws = [torch.randn(x.shape, generator=torch.Generator().manual_seed(5)) for x in theirs]
            grads = [
                torch.autograd.grad(sum((x * d).sum() for x, d in zip(some, draws, strict=True)), weights)
                for some in (read(lm, BatchForm.PADDING_FREE), theirs)
            ]
            for ours, expected in zip(*grads, strict=True):
                near(f"encoder gradients {case}", ours, expected, 1e-4)
    with torch.no_grad(), method.evaluating():
        for ours, expected in zip(read(lm, BatchForm.PADDING_FREE), theirs, strict=True):
            near(f"encoder evaluated {case}", ours, expected)
    method.detach()
    with torch.no_grad():
        clean = encoder_model(family, torch.float32, "crosstune")
        assert torch.equal(lm.hidden(row(TEXTS[0])), clean.base_model(row(TEXTS[0])).last_hidden_state)


@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
def test_sixteen_bits_and_words_at_a_mask(family):
    """In bf16 with a prefix; words predicted of states are those predicted of texts."""
    lm, eager = make_encoder(family, torch.bfloat16), encoder_model(family, torch.bfloat16, "eager")
    with torch.no_grad():
        expected = eager(input_ids=row(TEXTS[1])).logits[0].float()
        near("words of an encoder, bf16", lm.logits(read(lm, BatchForm.PADDING_FREE)[1]), expected, 0.05)
        columns = torch.tensor([5, 9])
        states = lm.hidden(row(TEXTS[1]))[0]
        assert torch.equal(lm.logits(states, columns), lm.logits(states)[:, columns])
        method = attach(lm, "prefix-hidden")
        full = make_encoder(family)
        twin = attach(full, "prefix-hidden")
        twin.set_parameters(method.parameters())
        for ours, theirs in zip(read(lm, BatchForm.PACKED), read(full, BatchForm.PADDED), strict=True):
            near("prefix on an encoder, bf16", ours, theirs, 0.1)


@pytest.mark.parametrize("dense", [True, False])
def test_loss_and_gradients_of_a_head_are_those_of_transformers(dense):
    """Classes as RoBERTa's own classifier has them, tags as its token classifier."""
    lm, kind = make_encoder("xlm-roberta"), XLMRobertaForSequenceClassification
    eager = (kind if dense else XLMRobertaForTokenClassification)(CONFIGS["xlm-roberta"]()).eval()
    eager.base_model.load_state_dict(lm.decoder.state_dict())
    eager.config.num_labels = 5
    if not dense:
        eager.classifier = torch.nn.Linear(64, 5)
    else:
        eager.classifier.out_proj = torch.nn.Linear(64, 5)
    method = WithHead(Full(), HeadShape(5, dense))
    method.attach(lm, seed=1)
    own = {"dense.": "dense.", "out_proj.": "out."} if dense else {"": "out."}
    with torch.no_grad():
        for theirs, ours in own.items():
            for end in ("weight", "bias"):
                value = torch.randn(eager.classifier.get_parameter(theirs + end).shape)
                eager.classifier.get_parameter(theirs + end).copy_(value)
                method.head.get_parameter(ours + end).copy_(value)
    places = [[(0,)], [(0,)], [(0,)]] if dense else [[(i,) for i in range(len(text))] for text in TEXTS]
    rows = [
        TrainingRow(
            tuple(text), labels=tuple((place, (3 * i + len(text)) % 5) for i, place in enumerate(some))
        )
        for text, some in zip(TEXTS, places, strict=True)
    ]
    ours = answer_loss(lm, collate(rows, for_training(lm, TEXTS)))
    theirs = torch.zeros(())
    for text, item in zip(TEXTS, rows, strict=True):
        logits = eager(input_ids=row(text)).logits[0]
        targets = torch.tensor([label for _, label in item.labels])
        theirs = theirs + torch.nn.functional.cross_entropy(logits.view(-1, 5), targets, reduction="sum")
    near("loss of a head", ours, theirs)
    ours.backward()
    theirs.backward()
    method.after_backward()
    inner = "encoder.layer.0.intermediate.dense.weight"
    near(
        "gradient under a head",
        method.parameters()[f"roberta.{inner}"].grad,
        eager.roberta.get_parameter(inner).grad,
        1e-4,
    )
    near(
        "gradient of a head",
        method.head.out.weight.grad,
        eager.classifier.get_parameter("out_proj.weight" if dense else "weight").grad,
        1e-4,
    )
    method.detach()
    assert lm.head is None


def test_choices_of_their_own_are_compared_as_transformers_compares_them():
    """Loss, gradients and answers of `XLMRobertaForMultipleChoice`, with two and three choices an example."""
    lm = make_encoder("xlm-roberta")
    eager = XLMRobertaForMultipleChoice(CONFIGS["xlm-roberta"]()).eval()
    eager.roberta.load_state_dict(lm.decoder.state_dict(), strict=False)
    method = WithHead(Full(), HeadShape(1, dense=True))
    method.attach(lm, seed=1)
    pairs = {"dense": eager.roberta.pooler.dense, "out": eager.classifier}
    with torch.no_grad():
        for name, module in pairs.items():
            for end in ("weight", "bias"):
                value = torch.randn(getattr(module, end).shape)
                getattr(module, end).copy_(value)
                method.head.get_parameter(f"{name}.{end}").copy_(value)
    examples = [
        Example("a", "en", "The lamp went out because", ("it rained",), ("the bulb broke", "it rained")),
        Example("b", "en", "He sang so", ("birds flew",), ("birds flew", "we all left at once", "no")),
    ]
    output = HeadChoice(lm, EvaluateSettings())
    rows = output.rows(examples)[:]
    assert [row.learned for row in rows] == [1, 1]

    def theirs(example: Example) -> Tensor:
        scores = [
            eager(input_ids=row(ids)[None]).logits[0]
            for ids in lm.tokens.pairs([(example.prompt, choice) for choice in example.choices])
        ]
        return torch.cat(scores).log_softmax(-1)

    for tokens in (4096, 1):  # in one part, and each example in its own
        losses = [answer_loss(lm, part) for part in ready_parts(lm, rows, TokenLimit(tokens))]
        assert len(losses) == (1 if tokens > 1 else 2)
        expected = -sum(theirs(example)[example.gold] for example in examples)
        near("loss among choices", sum(losses), expected)
    sum(losses).backward()
    expected.backward()
    inner = "encoder.layer.0.intermediate.dense.weight"
    method.after_backward()
    ours = method.parameters()[f"roberta.{inner}"].grad
    near("gradient among choices", ours, eager.roberta.get_parameter(inner).grad, 1e-4)
    near("gradient of the head", method.head.out.weight.grad, eager.classifier.weight.grad, 1e-4)
    with torch.no_grad(), method.evaluating():
        answers = output.answers(None, examples)
    for example, scores in zip(examples, answers.columns["choice_logprobs"], strict=True):
        near("choices", torch.tensor(scores), theirs(example).double().detach(), 1e-4)
    method.detach()


def test_a_mean_of_places_is_compared_as_one():
    """Several places of a label are averaged before the head, whatever shares the row."""
    lm = make_encoder("bert")
    method = WithHead(Full(), HeadShape(4))
    method.attach(lm, seed=1)
    rows = [TrainingRow(tuple(text), labels=(((0, 2, 3), 1), ((4, 5), 2))) for text in TEXTS]
    ours = answer_loss(lm, collate(rows, for_training(lm, TEXTS)))
    theirs = torch.zeros(())
    for text in TEXTS:
        states = lm.hidden(row(text))[0]
        scores = method.head(torch.stack([states[[0, 2, 3]].mean(0), states[[4, 5]].mean(0)]))
        theirs = theirs + torch.nn.functional.cross_entropy(scores, torch.tensor([1, 2]), reduction="sum")
    near("loss of means", ours, theirs)
    method.detach()
