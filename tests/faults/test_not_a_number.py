"""A model that computes NaN answers nothing, in whatever form; the first of all choices would win."""

from collections.abc import Callable

import pytest
import torch

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.models.attention.trees import grow
from crosstune.outputs import generation
from crosstune.outputs.base import picked
from crosstune.outputs.heads.reading import answered
from crosstune.outputs.seq2seq.writing import greedy
from crosstune.outputs.settings import EvaluateSettings
from tiny_encoder_decoders import make_seq2seq
from tiny_models import make_lm

TEXT = [5, 9, 12]


def chosen() -> None:
    example = Example("1", "en", "Is it?", ("yes",), ("yes", "no"))
    picked([example], [[float("nan"), float("nan")]])


def written() -> None:
    lm = make_lm("llama")
    with torch.no_grad():
        lm.decoder.norm.weight.fill_(float("nan"))
    generation._generate(lm, [grow([TEXT])], 3, (), 8192)


def told_by_a_head() -> None:
    lm = make_lm("llama")
    with torch.no_grad():
        lm.decoder.norm.weight.fill_(float("nan"))
    answered(lm, [TEXT], [[(2,)]], lambda states, numbers: [0], EvaluateSettings())


def written_from_a_source() -> None:
    lm = make_seq2seq("t5")
    with torch.no_grad():
        lm.decoder.final_layer_norm.weight.fill_(float("nan"))
    greedy(lm, [TEXT], [[0]], 3)


@pytest.mark.parametrize("answer", [chosen, written, told_by_a_head, written_from_a_source])
def test_no_answer_is_taken_of_nan(answer: Callable[[], None]) -> None:
    with pytest.raises(UserError, match=r"is no number \(NaN\).*lower the learning rate"):
        answer()
