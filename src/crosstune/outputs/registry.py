"""The computing half of each form of answer, by the name in `crosstune.data.forms.FORMS`."""

from collections.abc import Sequence

from crosstune.data.example import Example
from crosstune.data.forms import Kind
from crosstune.models.language_model import LanguageModel
from crosstune.outputs.base import Output
from crosstune.outputs.choices import Choice
from crosstune.outputs.generation import Generation
from crosstune.outputs.rows import Rows
from crosstune.outputs.settings import EvaluateSettings
from crosstune.outputs.text import Text

OUTPUTS: dict[Kind, type[Output]] = {
    "choice": Choice,
    "generation": Generation,
    "text": Text,
}


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
