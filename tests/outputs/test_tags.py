"""Tags: which pieces stand for which word, sentences that are too long, and a head's answers."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AttentionInterface, PreTrainedTokenizerFast

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.head import HeadShape, Probe, WithHead
from crosstune.models.attention.choose import for_training
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.fits import check_fits, head_shape
from crosstune.outputs.heads.reading import answered
from crosstune.outputs.heads.tags import Tags
from crosstune.outputs.registry import output_of
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.benchmarks.tagging import NAMES, Panx
from tiny_encoders import make_encoder
from tiny_models import make_lm, row, tiny_model

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


def _by_layer(module, query, key, value, mask, scaling=None, **_):
    """Plain attention over one text, two-way in some layers; a window is counted to both sides."""
    length = query.shape[2]
    apart = torch.arange(length)[:, None] - torch.arange(length)
    seen = torch.ones(length, length, dtype=torch.bool)
    if module.layer_idx not in module.config.test_two_way:
        seen &= apart >= 0
    if getattr(module, "sliding_window", None):
        seen &= apart.abs() < module.sliding_window
    times = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(times, 1).transpose(2, 3) * scaling
    out = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value.repeat_interleave(times, 1)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("test-by-layer", _by_layer)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("layers", [(1, 2), (0,)])
def test_chosen_layers_of_a_decoder_see_both_ways(family, layers):
    """Against attention written out for each layer, with and without padding, in training and reading."""
    lm, model = make_lm(family), tiny_model(family, torch.float32, 0, "test-by-layer")
    model.config.test_two_way = layers
    settings = EvaluateSettings(two_way=layers)
    task = Panx.__new__(Panx)
    shape = head_shape(task, lm.geometry, settings, [example("a", "O")])
    assert shape == HeadShape(7, two_way=layers)
    method = WithHead(Probe(), shape)
    method.attach(lm, seed=1)
    texts = [[1, 40, 50, 60, 70, 80], [1, 45, 55], [1, 41, 42, 43, 44, 45]]
    expected = [model.base_model(row(text)).last_hidden_state[0] for text in texts]

    def read(numbers):
        some = [texts[i] for i in numbers]
        places = [[(i,) for i in range(len(text))] for text in some]

        def split(states, members):
            return list(states.clone().split([len(some[i]) for i in members]))

        return answered(lm, some, places, split, settings)

    for numbers in ([0, 2], [0, 1, 2]):
        for i, states in zip(numbers, read(numbers), strict=True):
            torch.testing.assert_close(states, expected[i], rtol=1e-4, atol=1e-4)
    placed = for_training(lm, texts)
    hidden = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
    for i, start in enumerate(placed.starts):
        found = hidden[start : start + len(texts[i])]
        torch.testing.assert_close(found, expected[i], rtol=1e-4, atol=1e-4)
    method.detach()
    assert (lm.hidden(row(texts[0]))[0] - expected[0]).abs().max() > 0.01
    with pytest.raises(UserError, match="counted from 0 to 2 here"):
        head_shape(task, lm.geometry, EvaluateSettings(two_way=(3,)), [example("a", "O")])
    with pytest.raises(UserError, match="two_way is for tags told by a head"):
        check_fits("own", "choice", METHODS["lora"](), lm.geometry, EvaluateSettings(two_way=(0,)))
