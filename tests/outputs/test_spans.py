"""Span heads against transformers' BertForQuestionAnswering and a plain search of the best span; windows."""

import unicodedata
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import normalizers, processors
from transformers import BertForQuestionAnswering

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.head import HeadShape, Probe, WithHead
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.fits import check_fits, head_shape, kind_on
from crosstune.outputs.heads import spans
from crosstune.outputs.heads.spans import Spans, Window
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.benchmarks.mgsm import Mgsm
from crosstune.tasks.benchmarks.qa import Xquad
from crosstune.training.batches import ready_parts
from crosstune.training.objectives import answer_loss
from tiny_encoders import encoder_model, make_encoder
from tiny_models import make_lm, row

CONTEXT = " ".join(f"w{i} in the" for i in range(14))  # 124 bytes


@pytest.fixture
def lm(monkeypatch):
    """BERT with 66 positions, so that the context takes several windows, and a head of random weights."""
    monkeypatch.setattr(spans, "STRIDE", 20)
    lm = make_encoder("bert")
    pair: Any = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    lm.tokenizer.backend_tokenizer.post_processor = pair
    method = WithHead(Probe(), HeadShape(2))
    method.attach(lm, seed=1)
    with torch.no_grad():
        method.head.out.weight.normal_(generator=torch.Generator().manual_seed(3))
    yield lm
    method.detach()


def question(text: str, answer: str, context: str = CONTEXT) -> Example:
    start = context.index(answer)
    fields = (("context", context), ("question", text))
    return Example(text, "de", "unused", (answer,), fields=fields, span=(start, start + len(answer)))


EXAMPLES = [
    question("which?", "w9 in"),
    question("a longer one, who is it?", "w0"),
    question("w", "b", "a b c"),
]


def test_windows(lm):
    """Every token of a context is in a window, starts 20 apart, and in one with most context around it."""
    for example, windows in zip(EXAMPLES, Spans(lm, EvaluateSettings())._windows(EXAMPLES), strict=True):
        context, asked = dict(example.fields)["context"], dict(example.fields)["question"]
        assert len(windows) == (1 if context == "a b c" else len(windows))
        seen, owners = set(), []
        for i, window in enumerate(windows):
            assert len(window.ids) <= 66
            assert window.ids[0] == 1
            assert lm.tokenizer.decode(window.ids[1 : window.first - 1]).strip() == asked
            assert window.offsets[0] == (20 * i, 20 * i + 1)
            seen |= set(window.offsets)
            owners += [place for place, best in zip(window.offsets, window.best, strict=True) if best]
            decoded = lm.tokenizer.decode(window.ids[window.first : -1])
            assert decoded.strip() == context[window.offsets[0][0] : window.offsets[-1][1]].strip()
        assert sorted(seen) == sorted(owners) == [(i, i + 1) for i in range(len(context))]
        with_answer = [window.span(example.span) for window in windows]
        for window, (first, last) in zip(windows, with_answer, strict=True):
            text = lm.tokenizer.decode(window.ids[first : last + 1]).strip()
            whole = window.offsets[0][0] <= example.span[0] and example.span[1] <= window.offsets[-1][1]
            assert (text == example.answers[0]) if whole else ((first, last) == (0, 0))
        assert any(span != (0, 0) for span in with_answer)


def test_a_token_keeps_the_marks_that_its_tokenizer_composes(lm):
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    context = unicodedata.normalize("NFD", "la gã o tiếng")
    assert len(context) == 16
    ((window,),) = Spans(lm, EvaluateSettings())._windows([question("w", context[3:6], context)])
    first, last = window.span((3, 6))
    ends = window.offsets[first - window.first][0], window.offsets[last - window.first][1]
    assert context[slice(*ends)] == context[3:6]


def reference(lm) -> BertForQuestionAnswering:
    base = encoder_model("bert", torch.float32, "eager")
    model = BertForQuestionAnswering(base.config).eval()
    model.bert.load_state_dict(base.bert.state_dict())
    model.qa_outputs.load_state_dict(lm.head.out.state_dict())
    return model


def test_loss_and_answers_are_those_of_transformers(lm):
    model, output = reference(lm), Spans(lm, EvaluateSettings(max_answer_tokens=7))
    rows = output.rows(EXAMPLES)[:]
    told = sum(float(answer_loss(lm, part)) for part in ready_parts(lm, rows, TokenLimit(8192)))
    expected = 0.0
    for r in rows:
        (start, end) = (torch.tensor([place]) for place in r.span)
        expected += float(model(row(r.ids), start_positions=start, end_positions=end).loss)
    assert told == pytest.approx(expected, rel=1e-5)
    assert len(rows) > len(EXAMPLES)

    task = Xquad.__new__(Xquad)
    table = evaluate(lm, task, {"de": EXAMPLES}, EvaluateSettings(max_answer_tokens=7))
    for example, windows, answer in zip(
        EXAMPLES, output._windows(EXAMPLES), table["prediction"], strict=True
    ):
        context, found = dict(example.fields)["context"], []
        for window in windows:
            out = model(row(window.ids))
            starts, ends = out.start_logits[0].tolist(), out.end_logits[0].tolist()
            best = [sorted(range(len(x)), key=lambda i, x=x: -x[i])[:20] for x in (starts, ends)]
            for i in best[0]:
                for j in best[1]:
                    a, b = i - window.first, j - window.first
                    if 0 <= a <= b < len(window.offsets) and b - a < 7 and window.best[a]:
                        found.append((starts[i] + ends[j], window.offsets[a][0], window.offsets[b][1]))
        _, first, last = max(found)
        assert answer == context[first:last].strip()
    score = task.score(EXAMPLES[0], table["prediction"][0])
    assert table["score"][0] == score["squad_f1"]


def test_a_span_that_ends_before_it_starts_is_none():
    window = Window([1, 5, 6, 7, 2], 1, [(0, 1), (1, 2), (2, 3)], [True, True, False])
    scores = torch.tensor([[9.0, 9.0], [1.0, 8.0], [3.0, 1.0], [7.0, 2.0], [9.0, 9.0]])
    assert window.answer(scores, 30) == (9.0, 0, 1)
    # Of two tokens with 30 allowed: from the second (3) to the third (2), and not to the first (8).
    assert window.answer(replace_best(scores), 30) == (5.0, 1, 3)
    assert window.answer(replace_best(scores), 1) == (4.0, 1, 2)


def replace_best(scores):
    scores = scores.clone()
    scores[1, 0] = -10.0
    return scores


def test_which_models_point(lm):
    settings = EvaluateSettings()
    assert kind_on(Xquad, lm.geometry) == "spans"
    assert kind_on(Xquad, make_lm("llama").geometry) == "generation"
    task = Xquad.__new__(Xquad)
    assert head_shape(task, lm.geometry, settings, EXAMPLES) == HeadShape(2)
    check_fits("xquad", "spans", METHODS["lora"](), lm.geometry, settings)
    with pytest.raises(UserError, match="choose probe"):
        check_fits("xquad", "spans", METHODS["none"](), lm.geometry, settings)
    with pytest.raises(UserError, match="an encoder writes no answers"):
        check_fits("mgsm", kind_on(Mgsm, lm.geometry), METHODS["lora"](), lm.geometry, settings)
    with pytest.raises(UserError, match="no room for its context"):
        Spans(lm, settings).rows([replace(EXAMPLES[0], fields=(("context", ""), ("question", "q")))])
