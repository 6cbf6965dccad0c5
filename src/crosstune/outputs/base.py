"""What a form of answer asks of a model: the rows it is trained on, and how its answers are computed.

One subclass for each entry of `crosstune.data.forms.FORMS`, which has the part that needs no model: names,
columns of predictions, and what the score of many of them is. `crosstune.outputs.registry` lists them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

from crosstune.data.example import Example
from crosstune.models.language_model import LanguageModel
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task


@dataclass(frozen=True)
class Answers:
    """Answers to some examples, in their order.

    Attributes:
        texts: What each is as text: column ``prediction``, and what `Task.score` is given.
        columns: The form's own columns (`Form.columns`), one value an example.
    """

    texts: list[str]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Output(ABC):
    """One form of answer. Subclasses hold no state."""

    @abstractmethod
    def rows(
        self, lm: LanguageModel, examples: Sequence[Example], settings: EvaluateSettings, loss: str = "answer"
    ) -> Rows:
        """Training rows, tokenised when they are drawn: which ids are learned, and what the loss compares.

        Training learns no more than what ``settings`` will compare. The loss is one of the form's
        `Form.losses`.

        Raises:
            UserError: The examples do not suit the loss.
        """

    @abstractmethod
    def answers(
        self,
        lm: LanguageModel,
        task: Task,
        examples: Sequence[Example],
        settings: EvaluateSettings,
        **stream: Unpack[Stream],
    ) -> Answers:
        """The model's answers to examples of any languages, all in one call, so that they share batches.

        Raises:
            UserError: An example cannot be answered, or is more than memory holds.
        """
