"""Losses, choices and written answers of encoder-decoders, against transformers, one at a time."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from crosstune.data.example import Example
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.registry import output_of
from crosstune.outputs.seq2seq.scoring import Question, score
from crosstune.outputs.seq2seq.writing import beam_search, greedy, write
from crosstune.outputs.settings import Beams, EvaluateSettings
from crosstune.training.batches import ready_parts
from crosstune.training.objectives import answer_loss
from eager_pairs import pair
from tiny_encoder_decoders import CONFIGS, SOURCES, make_seq2seq, seq2seq_model
from tiny_models import near

EXAMPLES = [
    Example(f"{i}", "en", prompt, (answer,), ("yes", "no", "maybe"))
    for i, (prompt, answer) in enumerate(
        [("Is it so? Answer:", "no"), ("Or?", "maybe"), ("A longer question, of many words:", "yes")]
    )
]


def eager_of(family):
    return seq2seq_model(family, torch.float32, "eager")


@pytest.mark.parametrize("kind", ["choice", "generation"])
@pytest.mark.parametrize("family", CONFIGS)
def test_loss_is_that_of_each_pair(family, kind):
    """A start token, the answer, and of written answers the end; padded as it comes, or one row at a time."""
    lm, eager = make_seq2seq(family), eager_of(family)
    rows = output_of(kind, lm, EvaluateSettings()).rows(EXAMPLES)[:]
    wanted = 0.0
    for example, row in zip(EXAMPLES, rows, strict=True):
        source = lm.tokenizer(example.prompt)["input_ids"]
        target = lm.tokenizer(example.answers[0], add_special_tokens=False)["input_ids"]
        target += [2] if kind == "generation" else []
        assert row.learned == len(target)
        logits = pair(eager, source, [lm.model.config.decoder_start_token_id, *target[:-1]])
        wanted += float(cross_entropy(logits, torch.tensor(target), reduction="sum"))
    for tokens in (8192, 40):
        parts = list(ready_parts(lm, rows, TokenLimit(tokens, lm.device)))
        assert (len(parts) == 1) == (tokens == 8192)
        ours = sum(answer_loss(lm, part) for part in parts)
        near(f"loss of {family}", ours, torch.tensor(wanted))


def test_answers_stand_behind_the_token_that_bart_puts_first():
    lm = make_seq2seq("mbart")
    lm.model.generation_config.forced_bos_token_id = 1
    row = output_of("choice", lm, EvaluateSettings()).rows(EXAMPLES)[0]
    assert (row.ids[:2], row.answer) == ((2, 1), len(row.ids) - 2)
    (mine,) = lm.model.generate(torch.tensor([SOURCES[0]]), max_new_tokens=2, num_beams=1)[:, :2].tolist()
    assert mine == [2, 1]


@pytest.mark.parametrize("choices", ["label", "label-per-token", "first-token"])
@pytest.mark.parametrize("family", CONFIGS)
def test_choices_are_scored_as_one_by_one(family, choices):
    lm, eager = make_seq2seq(family), eager_of(family)
    start = [lm.start_id, 7]
    labels = ((9, 30, 31), (40,), (9, 33)) if choices != "first-token" else ((9, 30, 31), (40,), (12, 33))
    questions = [Question(source, start, labels) for source in SOURCES]
    ours = score(lm, questions, EvaluateSettings(choices=choices))
    one_by_one = [score(lm, [question], EvaluateSettings(choices=choices))[0] for question in questions]
    for source, some, alone in zip(SOURCES, ours, one_by_one, strict=True):
        wanted = []
        for label in labels:
            read = label[:1] if choices == "first-token" else label
            logits = pair(eager, source, [*start, *read[:-1]])[len(start) - 1 :].double()
            logp = torch.log_softmax(logits, -1)[range(len(read)), list(read)].sum()
            wanted.append(logp / len(read) if choices == "label-per-token" else logp)
        expected = torch.log_softmax(torch.stack(wanted), 0)
        near(f"choices of {family}", torch.tensor(some), expected)
        near(f"choices of {family}, alone", torch.tensor(alone), expected)


def transformers_writes(eager, source, start, most, **how):
    ids, begun = torch.tensor([source]), torch.tensor([start])
    settings = {
        "do_sample": False,
        "use_cache": False,
        "max_new_tokens": most,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **how,
    }
    out = eager.generate(input_ids=ids, decoder_input_ids=begun, forced_eos_token_id=None, **settings)
    written = out[0, len(start) :].tolist()
    return written[: written.index(2)] if 2 in written else written


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_answers_are_those_of_transformers(family):
    lm, eager = make_seq2seq(family), eager_of(family)
    sources = [*SOURCES, *(source[::-1] for source in SOURCES), *(source[3:] for source in SOURCES)]
    start = [lm.start_id, 11]
    wanted = [transformers_writes(eager, source, start, 12) for source in sources]
    assert greedy(lm, sources, [start] * len(sources), 12) == wanted
    texts = write(lm, sources, [start] * len(sources), 12, stop=(), tokens_per_pass=60)
    assert texts == [lm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in wanted]


@pytest.mark.parametrize("beams", [Beams(2), Beams(4), Beams(3, 0.3, True), Beams(3, -0.5, "never")])
@pytest.mark.parametrize("family", CONFIGS)
def test_beams_find_what_those_of_transformers_do(family, beams):
    lm, eager = make_seq2seq(family), eager_of(family)
    start = [lm.start_id, 11]
    sources = [*SOURCES, *(source[::-1] for source in SOURCES)]
    likely = greedy(lm, sources, [start] * len(sources), 9)
    # Tokens that come often end answers: searches end at several lengths.
    ends = [2, likely[0][3], likely[4][5]]
    lm.model.generation_config.eos_token_id = ends
    ours = beam_search(beams, lm, sources, [start] * len(sources), 9)
    how = {"num_beams": beams.count, "eos_token_id": ends}
    how |= {"length_penalty": beams.length_penalty, "early_stopping": beams.early_stopping}
    wanted = [transformers_writes(eager, source, start, 9, **how) for source in sources]
    cut = [answer[: next((i for i, t in enumerate(answer) if t in ends), 9)] for answer in wanted]
    assert ours == cut
    texts = write(lm, sources, [start] * len(sources), 9, (), 100, beams)
    assert texts == [lm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in cut]


def test_answers_end_where_they_end():
    """Ends of text at several steps: rows leave the batch, the others go on as if alone."""
    lm = make_seq2seq("mt5")
    eager = eager_of("mt5")
    sources = [[3 + (11 * i * n + i) % 250 for i in range(5 + n % 4)] for n in range(12)]
    ends = [greedy(lm, [source], [[0]], 12)[0][4] for source in sources[:3]]
    lm.model.generation_config.eos_token_id = [2, *ends]
    ours = greedy(lm, sources, [[0]] * len(sources), 12)
    assert len({len(answer) for answer in ours}) > 2
    for source, answer in zip(sources, ours, strict=True):
        whole = transformers_writes(eager, source, [0], 12)
        stop = next((i for i, token in enumerate(whole) if token in ends), len(whole))
        assert answer == whole[:stop]
