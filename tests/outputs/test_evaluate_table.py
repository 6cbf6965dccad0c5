"""The table of predictions: one row an example, scores from the task."""

import copy
import hashlib
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crosstune.analysis.answer_language import CORRECT, SOURCE, UNDECIDED, with_answer_language
from crosstune.data.example import Example
from crosstune.data.forms import FORMS
from crosstune.errors import UserError
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs import generation, lengths
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.registry import OUTPUTS
from crosstune.outputs.settings import EvaluateSettings
from crosstune.outputs.stream import Group, batches_by_length
from crosstune.tasks.base import Task
from tiny_models import DEVICE


class Toy(Task):
    name = "toy"
    version = 1
    kind = "choice"
    metrics = ("accuracy", "length")
    summary = "for tests"
    split_names = {}  # noqa: RUF012

    def languages(self):
        return ["en", "de"]

    def examples(self, split, language):
        return [
            Example(
                f"{i}", language, f"{language} the {'tin ' * i}hat:", ("yes",), ("yes", "no he is", "the tin")
            )
            for i in range(4)
        ]

    def score(self, example, answer):
        return {"accuracy": float(answer in example.answers), "length": float(len(answer))}


class Free(Toy):
    kind = "generation"
    max_answer_tokens = 3


@pytest.mark.parametrize("kind", [Toy, Free])
def test_one_row_an_example(tiny_lm, kind):
    lm, task = tiny_lm("gemma3"), kind()
    examples = {language: task.examples("test", language) for language in task.languages()}
    told: list[int] = []
    table = evaluate(lm, task, examples, EvaluateSettings(tokens_per_pass=100), tell=told.append)
    assert sum(told) == table.height == 8
    own = {Toy: {"choice_logprobs": pl.List(pl.Float64)}, Free: {"answer_language": pl.String}}[kind]
    names = ("language", "example", "prompt_hash", "prompt", "prediction", "gold")
    assert list(table.schema.items()) == [
        *((name, pl.String) for name in names),
        ("score", pl.Float64),
        *own.items(),
        ("metric.accuracy", pl.Float64),
        ("metric.length", pl.Float64),
    ]
    assert table["language"].to_list() == ["en"] * 4 + ["de"] * 4
    assert table["example"].to_list() == ["0", "1", "2", "3"] * 2
    assert table["gold"].to_list() == ["yes"] * 8
    flat = [e for language in examples for e in examples[language]]
    hashes = [hashlib.sha256(e.prompt.encode()).hexdigest()[:16] for e in flat]
    assert table["prompt_hash"].to_list() == hashes
    assert table["prompt"].to_list() == [e.prompt for e in flat]  # all of them are short
    assert table["score"].to_list() == table["metric.accuracy"].to_list()
    assert table["metric.length"].to_list() == [float(len(p)) for p in table["prediction"]]
    if kind is Toy:
        for e, picked, scores in zip(flat, table["prediction"], table["choice_logprobs"], strict=True):
            assert picked == e.choices[list(scores).index(max(scores))]
    else:
        assert all(len(lm.tokenizer.encode(p, add_special_tokens=False)) <= 3 for p in table["prediction"])
    # The same, whatever else is in the stream of batches.
    alone = evaluate(lm, task, {"de": examples["de"][:1]}, EvaluateSettings())
    assert alone["prediction"][0] == table["prediction"][4]


def test_predictions_hold_as_much_of_the_prompt_as_is_asked():
    long = "passage " * 100 + "And the question?"
    for setting, kept in (("end", f"…{long[-300:]}"), ("whole", long), ("none", None)):
        settings = EvaluateSettings(prompts=setting)
        assert settings.kept(long) == kept
        assert settings.model_dump().get("prompts", "end") == setting, "and no run id changes at the default"
    assert EvaluateSettings().kept("short") == "short"


@pytest.mark.parametrize("kind", ["choice", "generation"])
def test_a_form_lists_the_columns_that_evaluation_writes(tiny_lm, kind):
    """And what its score is a statistic of is among them, without nulls."""
    form, task = FORMS[kind], {"choice": Toy, "generation": Free}[kind]()
    table = evaluate(tiny_lm("gemma3"), task, {"en": task.examples("test", "en")}, EvaluateSettings())
    assert list(table.schema.items()) == list(form.schema(task.metrics).items())
    assert form.statistic.of(table) == table["score"].mean()
    assert sum(table.select(form.statistic.columns).null_count().row(0)) == 0


def test_what_examples_share_is_a_column_where_they_say_so(tiny_lm):
    examples = {"en": [replace(e, cluster=f"{i // 2}") for i, e in enumerate(Toy().examples("test", "en"))]}
    table = evaluate(tiny_lm("gemma3"), Toy(), examples, EvaluateSettings())
    assert table.columns[:3] == ["language", "example", "cluster"]
    assert table["cluster"].to_list() == ["0", "0", "1", "1"]


def test_each_form_is_described_and_computed():
    assert {*FORMS, "text"} == set(OUTPUTS)


NUMBERS = ["шестьсот сорок два", "две тысячи пятнадцать", "девяносто девять", "триста один"]


@pytest.mark.parametrize("beside", [[], ["ce"], ["uk", "bg", "ce", "tet", "de"]])
def test_the_language_of_an_answer_does_not_depend_on_the_others_evaluated(tiny_lm, monkeypatch, beside):
    """Nine Russian answers and an English one: 0.9 in the right language and 0.1 in the source's."""
    answers = [NUMBERS[i % 4] for i in range(9)] + ["six hundred and forty-two"]
    texts = {"ru": answers, "en": ["one hundred and two"], **{code: ["a b c"] for code in beside}}
    examples = {
        code: [Example(str(i), code, "a hat", (text,)) for i, text in enumerate(lines)]
        for code, lines in texts.items()
    }
    flat = [text for lines in texts.values() for text in lines]
    monkeypatch.setattr(generation, "generate", lambda *args, **stream: flat)
    table = evaluate(tiny_lm("llama"), Free(), examples, EvaluateSettings())
    rated = with_answer_language(table.with_columns(run=pl.lit("r")), {"r": "en"})
    russian = rated.filter(pl.col("language") == "ru")
    assert russian[CORRECT].mean() == pytest.approx(0.9)
    assert russian[SOURCE].mean() == pytest.approx(0.1)
    assert russian[UNDECIDED].mean() == 0
    if "tet" in beside:  # Latin script, as English, and unknown to the identifier: no rate, and not 0
        tetum = rated.filter(pl.col("language") == "tet")
        assert (tetum[CORRECT].mean(), tetum[SOURCE].mean(), tetum[UNDECIDED].mean()) == (None, None, 1.0)


@pytest.mark.parametrize("kind", [Toy, Free])
def test_texts_longer_than_the_positions_are_counted_and_done_with_as_asked(tiny_lm, kind):
    lm, task, notes = tiny_lm("llama"), kind(), []
    examples = {"en": [Example(i, "en", "a " * n + "hat:", ("yes",), ("yes", "no")) for i, n in
                       (("short", 2), ("long", 80))]}  # fmt: skip
    if kind is Free:
        examples = {"en": [replace(e, choices=()) for e in examples["en"]]}
    positions = lm.decoder.config.max_position_embeddings
    ids = {e.id: lm.tokens.prompts([e.prompt])[0] for e in examples["en"]}
    small = copy.copy(lm.decoder.config)
    small.max_position_embeddings = len(ids["long"]) // 2
    assert small.max_position_embeddings < positions

    def answered(choice):
        passes = TokenLimit(1000, note=notes.append)
        settings = EvaluateSettings(on_too_long=choice)
        lm.decoder.config, before = small, lm.decoder.config
        try:
            return evaluate(lm, task, examples, settings, passes=passes), passes.too_long
        finally:
            lm.decoder.config = before

    whole = evaluate(lm, task, examples, EvaluateSettings())
    table, count = answered(None)
    assert count == 1
    assert_frame_equal(table, whole, check_exact=DEVICE == "cpu")  # as before
    assert "1 of 2 texts are longer than the model's" in notes.pop()
    table, count = answered("skip")
    assert (table["example"].to_list(), count) == (["short"], 1)
    table, count = answered("truncate-left")
    assert (table["example"].to_list(), count) == (["short", "long"], 1)
    # By hand: the longest end that fits.
    room = small.max_position_embeddings - (
        2 if kind is Free else max(len(lm.tokens.answer(c)) for c in ("yes", "no")) - 1
    )
    text = examples["en"][1].prompt
    ends = [text[i:] for i in range(len(text)) if len(lm.tokens.prompts([text[i:]])[0]) <= room]
    by_hand = evaluate(
        lm, task, {"en": [replace(examples["en"][1], prompt=max(ends, key=len))]}, EvaluateSettings()
    )
    assert table["prompt_hash"][1] == by_hand["prompt_hash"][0]
    assert table["prediction"][1] == by_hand["prediction"][0]
    with pytest.raises(UserError, match=r"en long: \d+ tokens .* set evaluate.on_too_long"):
        answered("error")
    examples["de"] = [replace(examples["en"][1], language="de")]
    notes.clear()
    table, count = answered("skip")
    assert (table["example"].to_list(), count) == (["short"], 2)
    assert notes[1:] == ["no scores for de: every text is too long and left out"]
    del examples["en"]
    with pytest.raises(UserError, match="every text is longer than the positions of"):
        answered("skip")


def test_texts_whose_rotation_follows_the_longest_are_refused_unless_shortened(tiny_lm):
    """Dynamic NTK: not read all the same, as other texts beyond the positions are."""
    lm = copy.copy(tiny_lm("llama"))
    lm.geometry = replace(lm.geometry, same_rotation=20)
    examples = {"en": [Example("long", "en", "a " * 80 + "hat:", ("yes",), ("yes", "no"))]}
    with pytest.raises(UserError, match=r"en long: \d+ tokens .* has room for 20; set evaluate.on_too_long"):
        evaluate(lm, Toy(), examples, EvaluateSettings())
    assert len(evaluate(lm, Toy(), examples, EvaluateSettings(on_too_long="truncate-left"))) == 1
    lm.geometry = replace(lm.geometry, long_rotation=True)
    assert len(evaluate(lm, Toy(), examples, EvaluateSettings())) == 1


@pytest.mark.parametrize("kind", [Toy, Free])
def test_training_texts_are_held_to_the_positions_too(tiny_lm, kind):
    """Of a size at which byte counts alone say nothing: each is tokenised, with its answer."""
    lm, notes = tiny_lm("llama"), []
    choices = ("yes", "no") if kind is Toy else ()
    examples = [Example(str(n), "en", "a " * n + "hat:", ("yes",), choices) for n in (1, 20, 40)]
    sizes = [
        len(lm.tokens.prompts([e.prompt])[0]) + len(lm.tokens.answer("yes")) + (kind is Free)
        for e in examples
    ]
    small = copy.copy(lm.decoder.config)
    small.max_position_embeddings = sizes[1]
    lm.decoder.config, before = small, lm.decoder.config
    try:
        found = {}
        for choice in (None, "skip", "truncate-left"):
            passes = TokenLimit(1000, doing="training", note=notes.append)
            rows = lengths.fitted_rows(lm, examples, EvaluateSettings(on_too_long=choice), passes)
            found[choice] = [(e.id, len(lm.tokens.prompts([e.prompt])[0])) for e in rows]
            assert passes.too_long == 1
        assert "1 of 3 training texts are longer than the model's" in notes[0]
        with pytest.raises(UserError, match=r"en 40: \d+ tokens"):
            lengths.fitted_rows(lm, examples, EvaluateSettings(on_too_long="error"), passes)
        with pytest.raises(UserError, match="all 1 training texts are longer"):
            lengths.fitted_rows(lm, examples[2:], EvaluateSettings(on_too_long="skip"), passes)
    finally:
        lm.decoder.config = before
    assert [name for name, _ in found[None]] == ["1", "20", "40"]
    assert [name for name, _ in found["skip"]] == ["1", "20"]
    assert [name for name, _ in found["truncate-left"]] == ["1", "20", "40"]
    assert found["truncate-left"][2][1] <= sizes[1] - (sizes[0] - found[None][0][1])


def test_a_table_of_positions_that_ends_is_an_error_by_default():
    computed = SimpleNamespace(same_rotation=0, long_rotation=False)
    for name, refuses in (("embed_positions", True), ("embed", False)):
        decoder = torch.nn.ModuleDict({name: torch.nn.Embedding(4, 2)})
        lm = SimpleNamespace(decoder=decoder, geometry=computed)
        assert lengths.refuses(lm, EvaluateSettings()) is refuses


def test_a_setting_that_older_records_lack_enters_nothing_at_its_default():
    assert set(EvaluateSettings().model_dump()) == {
        "limit",
        "choices",
        "tokens_per_pass",
        "max_answer_tokens",
    }
    assert EvaluateSettings(on_too_long="skip").model_dump()["on_too_long"] == "skip"


def test_nothing_to_evaluate(tiny_lm):
    assert evaluate(tiny_lm("llama"), Toy(), {}, EvaluateSettings()).height == 0


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 7)), max_size=60), st.integers(1, 2000))
def test_batches_hold_every_group_once_within_the_budget(shapes, tokens):
    groups = [Group([i], lines, width) for i, (width, lines) in enumerate(shapes)]
    batches = list(batches_by_length(groups, tokens))
    assert sorted(g.items for b in batches for g in b) == [g.items for g in groups]
    widths = [max(g.width for g in b) for b in batches]
    for batch, width in zip(batches, widths, strict=True):
        assert len(batch) == 1 or sum(g.lines for g in batch) * width <= tokens
    assert widths == sorted(widths, reverse=True)
