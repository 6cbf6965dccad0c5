"""Unlabelled text, of which nothing is asked: every token behind the first is learnt, or masked ones.

An encoder learns tokens at masks: 15% of a text's, drawn by the text itself, of which 8 in 10 are a mask, one
any token and one itself (Devlin et al. 2019, arXiv 1810.04805). What an epoch masks the next one masks too.
"""

import random
from collections.abc import Sequence
from typing import Unpack

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.outputs.base import Answers, Output
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows, TrainingRow
from crosstune.tasks.base import Task

SHARE, MASKED, OTHER = 0.15, 0.8, 0.9


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


class MaskedText(Text):
    """Masked language modelling."""

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Rows of whole texts with masks, each with the tokens that were there."""
        mask, special = self.lm.tokenizer.mask_token_id, set(self.lm.tokenizer.all_special_ids)
        if mask is None:
            raise UserError(f"{self.lm.name}: its tokenizer has no mask token, and text is learnt at masks")

        def masked(text: str, ids: list[int]) -> TrainingRow:
            draw = random.Random(text)
            places = [place for place, token in enumerate(ids) if token not in special]
            chosen = sorted(draw.sample(places, max(1, round(SHARE * len(places))))) if places else []
            read = list(ids)
            for place in chosen:
                how = draw.random()
                if how < MASKED:
                    read[place] = mask
                elif how < OTHER:
                    read[place] = draw.randrange(self.lm.geometry.vocabulary)
            return TrainingRow(tuple(read), labels=tuple(((place,), ids[place]) for place in chosen))

        def tokenise(drawn: Sequence[Example]) -> list[TrainingRow]:
            texts = [example.prompt for example in drawn]
            return [masked(*pair) for pair in zip(texts, self.lm.tokens.prompts(texts), strict=True)]

        return Rows(examples, tokenise)
