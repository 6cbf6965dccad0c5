"""Tags: which pieces stand for which word, sentences that are too long, and a head's answers."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from crosstune.data.example import Example
from crosstune.methods.head import HeadShape, Probe, WithHead
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.heads.tags import Tags
from crosstune.outputs.registry import output_of
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.benchmarks.tagging import NAMES, Panx
from tiny_encoders import make_encoder
from tiny_models import make_lm, row

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁ab", "c", "d", "你", "好"]


def metaspace() -> PreTrainedTokenizerFast:
    """Pieces as SentencePiece has them: Latin words begin with their mark, Chinese ones behind it."""
    model = models.Unigram([(piece, -1.0 - i) for i, piece in enumerate(PIECES)], unk_id=3)
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), False, False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def example(words: str, tags: str, name: str = "0", language: str = "en") -> Example:
    return Example(name, language, words, (tags,), NAMES)


@pytest.mark.parametrize(
    ("piece", "places"),
    [
        # <s> ▁ab c d | ▁ 你 好 | ▁ab </s>
        ("first", [(1,), (5,), (7,)]),
        ("last", [(3,), (6,), (7,)]),
        ("mean", [(1, 2, 3), (5, 6), (7,)]),
        (None, [(1,), (5,), (7,)]),
    ],
)
def test_the_pieces_of_a_word(piece, places):
    lm = make_encoder("bert")
    lm.tokenizer = metaspace()
    ids, found = Tags(lm, EvaluateSettings(piece=piece))._read("abcd 你好 ab")
    assert lm.tokenizer.convert_ids_to_tokens(ids)[4] == "▁"
    assert found == places


def test_a_causal_model_reads_the_last_piece():
    lm = make_lm("llama")
    ids, places = Tags(lm, EvaluateSettings())._read("the yes w")
    ends = [at for (at,) in places]
    assert len(ends) == 3
    assert ends[-1] == len(ids) - 1
    assert [lm.tokenizer.decode(ids[a + 1 : b + 1]) for a, b in zip([0, *ends[:-1]], ends, strict=True)] == [
        "the",
        " yes",
        " w",
    ]


def test_rows_and_answers_of_sentences_short_and_too_long():
    """Of 64 tokens of room a sentence of 100 is read in parts; every word has its own tag."""
    lm = make_encoder("bert")
    task = Panx.__new__(Panx)
    task.metrics, task.options = ("xtreme_f1",), Panx.Options()
    long = example(" ".join(f"w{i}" for i in range(30)), " ".join(NAMES[i % 7] for i in range(30)), "long")
    short = example("ab c", "O B-LOC", "short")
    other = replace(long, language="de")
    output = Tags(lm, EvaluateSettings())
    rows = output.rows([long, short])
    assert len(rows) == 3
    assert [label for row_ in rows[:2] for _, label in row_.labels] == [i % 7 for i in range(30)]
    method = WithHead(Probe(), HeadShape(len(NAMES)))
    method.attach(lm, seed=1)
    with torch.no_grad():
        method.head.out.weight.normal_(generator=torch.Generator().manual_seed(3))
    table = evaluate(lm, task, {"en": [long, short], "de": [other]}, EvaluateSettings())
    told = table["prediction"].to_list()
    assert told[0] == told[2]
    assert [len(tags.split(" ")) for tags in told] == [30, 2, 30]
    with torch.no_grad():
        ids, places = output._read("ab c")
        states = lm.hidden(row(ids))[0][[at for (at,) in places]]
        best = [NAMES[c] for c in method.head(states).argmax(-1)]
    assert told[1].split(" ") == best
    right = [a == b for a, b in zip(told[0].split(" "), long.answers[0].split(" "), strict=True)]
    assert table["sum.0"][0] == sum(right)
    assert table["sum.1"][0] == 30
    method.detach()


def test_names_of_tags_word_by_word():
    """Without a head, each word's tag is the most probable name behind the sentence and what leads to it."""
    lm, settings = make_lm("llama"), EvaluateSettings(head=False)
    task = Panx.__new__(Panx)
    task.metrics, task.options = ("xtreme_f1",), Panx.Options()
    sentences = [example("the in yes", "O B-LOC I-LOC", "0"), example("w", "B-PER", "1")]
    table = evaluate(lm, task, {"en": sentences}, settings)
    labels = tuple(tuple(lm.tokens.answer(tag)) for tag in NAMES)
    for sentence, told in zip(sentences, table["prediction"], strict=True):
        words, best = sentence.prompt.split(" "), []
        for i in range(len(words)):
            (ids,) = lm.tokens.prompts([f"{sentence.prompt}\n{' '.join(words[: i + 1])}:"])
            (scores,) = score_choices(lm, [ChoiceItem(ids, labels)], settings)
            best.append(NAMES[scores.index(max(scores))])
        assert told == " ".join(best)
    rows = output_of("tags", lm, settings).rows(sentences)
    assert [lm.tokenizer.decode(r.ids[-r.answer :]).strip() for r in rows] == ["O", "B-LOC", "I-LOC", "B-PER"]
