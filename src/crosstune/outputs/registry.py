"""The computing half of each form of answer, by the name in `crosstune.data.forms.FORMS`."""

from collections.abc import Sequence

from crosstune.data.example import Example
from crosstune.data.forms import Kind, form_of
from crosstune.models.language_model import LanguageModel
from crosstune.outputs.base import Output
from crosstune.outputs.choices import Choice, NamedTags
from crosstune.outputs.fits import uses_head
from crosstune.outputs.generation import Generation
from crosstune.outputs.heads.classes import HeadChoice, MaskedChoice
from crosstune.outputs.heads.retrieval import Retrieval
from crosstune.outputs.heads.spans import Spans
from crosstune.outputs.heads.tags import Tags
from crosstune.outputs.rows import Rows
from crosstune.outputs.seq2seq.scoring import ScoredPairs
from crosstune.outputs.seq2seq.writing import WrittenPairs
from crosstune.outputs.settings import EvaluateSettings
from crosstune.outputs.text import MaskedText, Text

OUTPUTS: dict[Kind, type[Output]] = {
    "choice": Choice,
    "generation": Generation,
    "spans": Spans,
    "tags": Tags,
    "retrieval": Retrieval,
    "text": Text,
}
AT_MASKS: dict[Kind, type[Output]] = {"choice": MaskedChoice, "text": MaskedText}
"""Those of an encoder that predicts words."""

PAIRED: dict[Kind, type[Output]] = {"choice": ScoredPairs, "generation": WrittenPairs}
"""Those that an encoder-decoder computes otherwise; it computes no others."""


def output_of(kind: Kind, lm: LanguageModel, settings: EvaluateSettings) -> Output:
    """What computes a form of answer on a model: with a head or at a mask where the words are not written."""
    lm.tokens.as_chat(settings.chat_template, settings.system_prompt)
    if lm.geometry.encoder_layers:
        return PAIRED[kind](lm, settings)
    if form_of(kind).has_choices and uses_head(kind, lm.geometry, settings):
        return HeadChoice(lm, settings)
    if form_of(kind).tags and not uses_head(kind, lm.geometry, settings):
        return NamedTags(lm, settings)
    if lm.geometry.encoder and kind in AT_MASKS:
        return AT_MASKS[kind](lm, settings)
    return OUTPUTS[kind](lm, settings)


def tokenize(
    lm: LanguageModel,
    examples: Sequence[Example],
    kind: Kind,
    first_token: bool = False,
    among_choices: bool = False,
) -> Rows:
    """Training rows of examples (`Output.rows`), for scripts that have no study.

    With ``first_token`` only that of a choice is learned (``evaluate.choices: first-token``); with
    ``among_choices`` it is compared with the other choices' only (``train.loss: choices``).

    Raises:
        UserError: ``among_choices`` with choices that start alike.
    """
    settings = EvaluateSettings(choices="first-token" if first_token else "label")
    return OUTPUTS[kind](lm, settings).rows(examples, "choices" if among_choices else "answer")
