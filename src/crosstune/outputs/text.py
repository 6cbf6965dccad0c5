"""Unlabelled text: every token behind the first is learnt, and nothing is answered."""

from collections.abc import Sequence
from typing import Unpack

from crosstune.data.example import Example
from crosstune.outputs.base import Answers, Output
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows, TrainingRow
from crosstune.tasks.base import Task


class Text(Output):
    """Next-token prediction."""

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Rows of whole texts; one of a single token has nothing to learn and is not among them."""

        def tokenise(drawn: Sequence[Example]) -> list[TrainingRow]:
            ids = self.lm.tokens.prompts([example.prompt for example in drawn])
            return [TrainingRow(tuple(text), len(text) - 1) for text in ids]

        return Rows(examples, tokenise)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """None."""
        raise NotImplementedError("unlabelled text asks nothing")
