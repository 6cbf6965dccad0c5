"""Retrieval on tiny models: nearest texts, rankings, and the in-batch softmax, against plain computations."""

import json
import random

import pytest
import torch

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.metrics.ranking import average_precision, reciprocal_rank
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.fits import check_fits
from crosstune.outputs.heads import retrieval
from crosstune.outputs.heads.retrieval import Retrieval, nearest
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from crosstune.training import pairs
from tiny_encoders import encoder_model, make_encoder
from tiny_models import make_lm, row

SENTENCES = ["the in", "yes es", "a b c d", "yes es", "w"]
ENGLISH = ["in the", "yes", "a b c", "other", "w w w"]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "tatoeba").mkdir()
    for language, texts in {"deu": SENTENCES, "swh": SENTENCES[::-1]}.items():
        for end, side in ((language, texts), ("eng", ENGLISH)):
            file = tmp_path / "tatoeba" / f"tatoeba.{language}-eng.{end}"
            file.write_text("\n".join(side) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("layer", "pooling", "direction"),
    [(None, None, "to-english"), (1, "mean", "to-english"), (2, "first", "from-english")],
)
def test_the_nearest_by_cosine(data, layer, pooling, direction):
    lm, eager = make_encoder("xlm-roberta"), encoder_model("xlm-roberta", torch.float32, "eager")
    options = {"data": str(data), "prefix": "q: ", "layer": layer, "direction": direction}
    task = make_task("tatoeba", options)
    assert task.languages() == ["de", "sw"]
    examples = {code: task.examples("test", code) for code in ("de", "sw")}
    table = evaluate(lm, task, examples, EvaluateSettings(pooling=pooling))

    def vector(text: str):
        (ids,) = lm.tokens.prompts([text])
        states = eager.base_model(row(ids), output_hidden_states=True).hidden_states[
            2 if layer is None else layer
        ][0]
        pooled = states[0] if pooling == "first" else states.mean(0)
        return torch.nn.functional.normalize(pooled, dim=0)

    for code, texts in {"de": SENTENCES, "sw": SENTENCES[::-1]}.items():
        sides = [torch.stack([vector(f"q: {text}") for text in side]) for side in (texts, ENGLISH)]
        asked, offered = sides if direction == "to-english" else sides[::-1]
        cosines = asked @ offered.T
        part = table.filter(language=code)
        for name, told, cosine, score in part.select("example", "prediction", "cosine", "score").iter_rows():
            mine = cosines[int(name) - 1]
            assert cosine == pytest.approx(float(mine.max()), abs=1e-5)
            assert float(mine[int(told) - 1]) == pytest.approx(cosine, abs=1e-5)
            assert score == (told == name)


def test_what_is_refused(data):
    lm = make_lm("llama")
    settings = EvaluateSettings()
    with pytest.raises(UserError, match="choose another method"):
        check_fits("tatoeba", "retrieval", METHODS["few-shot"](), lm.geometry, settings)
    for method in ("none", "lora"):
        check_fits("tatoeba", "retrieval", METHODS[method](), lm.geometry, settings)
    task = make_task("tatoeba", {"data": str(data), "layer": 4})
    with pytest.raises(UserError, match="has the layers 1 to 3"):
        evaluate(lm, task, {"de": task.examples("test", "de")}, settings)
    (data / "tatoeba" / "tatoeba.deu-eng.deu").write_text("one\n")
    with pytest.raises(UserError, match=r"tatoeba.deu-eng.deu: 1 lines, and tatoeba.deu-eng.eng has 5"):
        make_task("tatoeba", {"data": str(data)}).examples("test", "de")


def test_the_search_is_exact(monkeypatch):
    """In blocks of any size; of equal texts the first."""
    draw = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(50, 6, generator=draw), dim=1)
    texts[40] = texts[3]
    questions = torch.nn.functional.normalize(torch.randn(9, 6, generator=draw), dim=1)
    questions[0] = texts[3]
    expected = (questions @ texts.T).sort(dim=1, descending=True, stable=True)
    monkeypatch.setattr(retrieval, "QUESTIONS", 4)
    monkeypatch.setattr(retrieval, "TEXTS", 7)
    for depth in (1, 20, 60):
        values, places = nearest(questions, texts, depth, torch.device("cpu"))
        assert places.tolist() == expected.indices[:, :depth].tolist()
        torch.testing.assert_close(values, expected.values[:, :depth])


def test_rankings_against_plain_counting():
    draw = random.Random(0)
    for _ in range(300):
        ids = [str(i) for i in range(draw.randint(1, 40))]
        relevant = set(draw.sample(ids, draw.randint(1, len(ids))))
        draw.shuffle(ids)
        top = ids[:20]
        hits = [i for i, name in enumerate(top) if name in relevant]
        precisions = [sum(name in relevant for name in top[: i + 1]) / (i + 1) for i in hits]
        assert average_precision(ids, relevant) == pytest.approx(sum(precisions) / min(20, len(relevant)))
        assert reciprocal_rank(ids, relevant) == (1 / (hits[0] + 1) if hits else 0)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_in_batch_softmax(family, symmetric):
    """Loss and gradients as plainly computed, in one pass and in several, with dropout too."""
    lm = make_encoder("bert") if family == "bert" else make_lm("llama")
    method = METHODS["lora"]()
    method.attach(lm, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(method.parameters().values()):
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(i))
    examples = [
        Example(str(i), "en", question, (text,))
        for i, (question, text) in enumerate(
            [("who", "a b c"), ("what in", "yes"), ("w", "the the in"), ("why", "yes")]
        )
    ]
    rows = Retrieval(lm, EvaluateSettings()).rows(examples, "symmetric" if symmetric else "answer")[:]

    def gradients(loss):
        found = torch.autograd.grad(loss, list(method.parameters().values()))
        return dict(zip(method.parameters(), found, strict=True))

    def vector(text: str):
        (ids,) = lm.tokens.prompts([text])
        return torch.nn.functional.normalize(lm.hidden(row(ids))[0].float().mean(0), dim=0)

    asked = torch.stack([vector(example.prompt) for example in examples])
    texts = torch.stack([vector(example.answers[0]) for example in examples])
    # One question's right text is no wrong one of another.
    odds = torch.exp((asked @ texts.T).double() / 0.01) * torch.tensor(
        [[a is b or a.answers != b.answers for b in examples] for a in examples]
    )
    loss = -(odds.diag() / odds.sum(1)).log().mean()
    if symmetric:
        loss = (loss - (odds.diag() / odds.sum(0)).log().mean()) / 2
    expected = gradients(loss)

    def backward(tokens: int):
        torch.manual_seed(5)
        told = pairs.backward(method, rows, TokenLimit(tokens))
        found = {name: p.grad.clone() for name, p in method.parameters().items()}
        for parameter in method.parameters().values():
            parameter.grad = None
        return told, found

    for tokens in (8192, 12):
        (told, total, _), found = backward(tokens)
        assert told() == pytest.approx(loss.item(), abs=1e-4)
        assert total == sum(len(row.ids) + len(row.pair.ids) for row in rows)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=2e-3, atol=1e-4)
    method.detach()


# As released, some paragraphs start with white space, which boundaries and answers count.
BREAKS = {"en": [[[0, 8], [9, 13]], [[0, 6]]], "de": [[[0, 6], [7, 15]], [[2, 12]]]}
CONTEXTS = {"en": ["A b c d. E f.", "Other."], "de": ["A b c. D e fgh.", "  Anderes x."]}
STARTS = {"en": (9, 0), "de": (2, 2)}


@pytest.fixture
def xquad_r(tmp_path):
    (tmp_path / "xquad").mkdir()
    (tmp_path / "xquad_r").mkdir()
    (tmp_path / "squad").mkdir()
    (tmp_path / "xquad_r" / "sentence_breaks.json").write_text(json.dumps(BREAKS))

    def squad(contexts, starts, file, name="q"):
        paragraphs = [
            {
                "context": context,
                "qas": [
                    {
                        "id": f"{name}{i}",
                        "question": f"what {i}?",
                        "answers": [{"text": context[start : start + 3], "answer_start": start}],
                    }
                ],
            }
            for i, (context, start) in enumerate(zip(contexts, starts, strict=True))
        ]
        articles = [{"title": str(i), "paragraphs": [p]} for i, p in enumerate(paragraphs)]
        file.write_text(json.dumps({"data": articles}))

    for code, contexts in CONTEXTS.items():
        squad(contexts, STARTS[code], tmp_path / "xquad" / f"xquad.{code}.json")
    trained = ["He met Dr. Who in 1999. It rained! So what?", "Only this.", "One. Two. Three."]
    squad(trained, (24, 0, 5), tmp_path / "squad" / "train-v1.1.json", "t")
    return tmp_path


def test_lareqa(xquad_r):
    """All sentences of all languages are searched; one of each language is relevant."""
    task = make_task("lareqa", {"data": str(xquad_r), "question_prefix": "q: "})
    examples = {code: task.examples("test", code) for code in task.languages()}
    assert {e.id: e.answers for e in examples["en"]} == {"q0": ("E f.",), "q1": ("Other.",)}
    assert {e.prompt for e in examples["de"]} == {"q: what 0?", "q: what 1?"}
    assert {e.answers for e in examples["de"]} == {("A b c.",), ("Anderes x.",)}
    (search,) = task.searches([*examples["en"], *examples["de"]])
    assert {text.id: text.text for text in search.texts} == {
        "en:0:0": "A b c d.",
        "en:0:1": "E f.",
        "en:1:0": "Other.",
        "de:0:0": "A b c.",
        "de:0:1": "D e fgh.",
        "de:1:0": "Anderes x.",
    }
    (asked,) = (e for e in examples["de"] if e.id == "q0")
    assert task.score(asked, "en:0:1 en:1:0 de:0:0") == {
        "map_at_20": pytest.approx((1 + 2 / 3) / 2),
        "same_language": 0.0,
    }
    lm = make_encoder("bert")
    table = evaluate(lm, task, examples, EvaluateSettings())
    assert [len(told.split(" ")) for told in table["prediction"]] == [6] * 4
    assert set(table["metric.same_language"]) <= {0.0, 1.0}
    fewer = make_task(
        "lareqa", {"data": str(xquad_r), "paragraphs": 1, "context": True, "text_prefix": "p: "}
    )
    assert [e.id for e in fewer.examples("test", "de")] == ["q0"]
    assert [text.text for text in fewer._candidates if text.id == "en:0:1"] == ["p: E f. A b c d. E f."]
    train = {e.id: e.answers[0] for split in ("train", "dev") for e in task.examples(split, "en")}
    assert train == {"t0": "It rained!", "t1": "Only this.", "t2": "Two."}
    dev = task.examples("dev", "en")
    (search,) = task.searches(dev)
    assert task.score(dev[0], search.texts[0].id)["map_at_20"] == 1.0


def test_each_text_of_tatoebas_development_split_answers_one_question(tmp_path):
    def article(name, context, answers):
        qas = [
            {
                "id": f"{name}{i}",
                "question": f"{name} {i}?",
                "answers": [{"text": a, "answer_start": context.index(a)}],
            }
            for i, a in enumerate(answers)
        ]
        return {"title": name, "paragraphs": [{"context": context, "qas": qas}]}

    (tmp_path / "squad").mkdir()
    data = [
        article("a", "One two. Three.", ["One", "two", "Three"]),
        article("b", "A b. C d.", ["A", "b", "C", "d"]),
    ]
    (tmp_path / "squad" / "train-v1.1.json").write_text(json.dumps({"data": data}))
    dev = make_task("tatoeba", {"data": str(tmp_path)}).examples("dev", "en")
    assert sorted(example.answers[0] for example in dev) == ["One two.", "Three."]


def test_mewsli_x(tmp_path):
    folder = tmp_path / "mewsli_x"
    folder.mkdir()
    spans = [{"start": 0, "end": 10}, {"start": 11, "end": 32}]
    context = {"language": "de", "text": "Ein Satz.  Das {war}\nRom gestern.", "sentence_spans": spans}
    mention = {"example_id": "m1", "entity_id": "Q2", "mention_span": {"start": 21, "end": 24, "text": "Rom"}}
    (folder / "wikinews_mentions-dev.jsonl").write_text(
        json.dumps({"context": context, "mentions": [mention]})
    )

    def entity(name, text):
        return {
            "entity_id": name,
            "description": text,
            "description_language": "sw",
            "sentence_spans": [{"start": 0, "end": len(text)}],
        }

    lines = [json.dumps(entity(name, text)) for name, text in (("Q1", "Mji A."), ("Q2", "Mji\nB."))]
    (folder / "candidate_set_entities.jsonl").write_text("\n".join(lines))
    task = make_task("mewsli-x", {"data": str(tmp_path)})
    assert task.languages() == ["de"]
    (example,) = task.examples("test", "de")
    assert example.prompt == "Rom: Das (war) { Rom } gestern"
    (search,) = task.searches([example])
    assert [(text.id, text.language, text.text) for text in search.texts] == [
        ("Q1", "sw", "Mji A."),
        ("Q2", "sw", "Mji B."),
    ]
    assert task.score(example, "Q1 Q2") == {"mrr_at_20": 0.5}
    pair = {"contextual_mention": {"context": context, "mention": mention}, "entity": entity("Q9", "C d.")}
    context["language"] = "en"
    pairs_of = [
        pair | {"contextual_mention": {"context": context, "mention": replace_id(mention, f"p{i}")}}
        for i in range(30)
    ]
    (folder / "wikipedia_pairs-train.jsonl").write_text("\n".join(map(json.dumps, pairs_of)))
    assert {e.answers for e in make_task("mewsli-x", {"data": str(tmp_path)}).examples("train", "en")} == {
        ("C d.",)
    }


def replace_id(mention, name):
    return mention | {"example_id": name}
