"""Choices told from one state of a text: by a trained head, or by an encoder's words at a mask.

Either way the answer is one of the example's choices, with the log-probabilities of all, as where a causal
model's choices are compared (`crosstune.outputs.choices`).
"""

from collections.abc import Sequence
from itertools import chain
from typing import Unpack

import torch
from torch import Tensor, nn

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.outputs.base import Answers, Output, picked
from crosstune.outputs.heads.reading import answered, pool
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows, TrainingRow, reads_pairs
from crosstune.tasks.base import Task


class HeadChoice(Output):
    """A head's best class; classes are the choices, in the order in which all examples have them.

    Where they differ from example to example, the head gives one score, of a pair: the prompt and one choice.
    The scores of an example's choices are compared, as `XLMRobertaForMultipleChoice` does.
    """

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Whole texts, each with the number of its choice; or of each example a text for every choice."""

        def tokenise(drawn: Sequence[Example]) -> list[TrainingRow]:
            if reads_pairs(self.lm):
                return [self._compared(example) for example in drawn]
            texts = self.lm.tokens.prompts([example.prompt for example in drawn])
            return [
                TrainingRow(tuple(ids), labels=((self._place(ids), example.gold),))
                for ids, example in zip(texts, drawn, strict=True)
            ]

        return Rows(examples, tokenise)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The classes' log-probabilities."""
        head = self.lm.head
        assert head is not None, "trained with the method"
        if reads_pairs(self.lm):
            return self._best_pairs(head, examples, stream)
        classes = head.get_submodule("out").out_features
        if other := next((e for e in examples if len(e.choices) != classes), None):
            raise UserError(
                f"{other.language} {other.id}: {len(other.choices)} choices, and the head was trained with "
                f"{classes}; set evaluate.head: false on a model that predicts words"
            )
        texts = self.lm.tokens.prompts([example.prompt for example in examples])

        def answer(states: Tensor, numbers: Sequence[int]) -> list[list[float]]:
            logprobs: list[list[float]] = torch.log_softmax(head(states).double(), -1).tolist()
            return logprobs

        places = [[self._place(ids)] for ids in texts]
        return picked(examples, answered(self.lm, texts, places, answer, self.settings, **stream))

    def _pairs(self, example: Example) -> list[list[int]]:
        """The prompt with each choice, as two texts for an encoder and as one for a causal model."""
        if not self.lm.geometry.encoder:
            return self.lm.tokens.prompts([f"{example.prompt} {choice}" for choice in example.choices])
        return self.lm.tokens.pairs([(example.prompt, choice) for choice in example.choices])

    def _compared(self, example: Example) -> TrainingRow:
        pairs = tuple(
            TrainingRow(tuple(ids), labels=((self._place(ids), int(i == example.gold)),))
            for i, ids in enumerate(self._pairs(example))
        )
        return TrainingRow(tuple(chain.from_iterable(pair.ids for pair in pairs)), choice_rows=pairs)

    def _best_pairs(self, head: nn.Module, examples: Sequence[Example], stream: Stream) -> Answers:
        texts = [self._pairs(example) for example in examples]

        def answer(states: Tensor, numbers: Sequence[int]) -> list[float]:
            scores: list[float] = head(states)[:, 0].tolist()
            return scores

        stream["journal"] = None  # it keeps whole examples
        flat = list(chain.from_iterable(texts))
        places = [[self._place(ids)] for ids in flat]
        scores = iter(answered(self.lm, flat, places, answer, self.settings, **stream))
        compared = [torch.tensor([next(scores) for _ in some], dtype=torch.float64) for some in texts]
        return picked(examples, [torch.log_softmax(row, 0).tolist() for row in compared])

    def _place(self, ids: Sequence[int]) -> tuple[int, ...]:
        return pool(self.lm, len(ids), self.settings.pooling)


class MaskedChoice(Output):
    """The choice whose word is the likeliest at a mask behind the prompt; the model is an encoder.

    A choice is one token, or with ``choices: first-token`` its first.
    """

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Whole texts with a mask, each with the token of its choice."""

        def tokenise(drawn: Sequence[Example]) -> list[TrainingRow]:
            rows = []
            for ids, example in zip(self._texts(drawn), drawn, strict=True):
                words = self._words(example)
                choices = words if loss == "choices" else ()
                rows.append(TrainingRow(tuple(ids), 0, choices, ((self._mask(ids), words[example.gold]),)))
            return rows

        return Rows(examples, tokenise)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The words' log-probabilities among each other."""
        texts, words = self._texts(examples), [self._words(example) for example in examples]

        def answer(states: Tensor, numbers: Sequence[int]) -> list[list[float]]:
            scores = self.lm.logits(states.to(self.lm.dtype)).double()
            return [
                torch.log_softmax(row[list(words[i])], 0).tolist()
                for row, i in zip(scores, numbers, strict=True)
            ]

        places = [[self._mask(ids)] for ids in texts]
        return picked(examples, answered(self.lm, texts, places, answer, self.settings, **stream))

    def _texts(self, examples: Sequence[Example]) -> list[list[int]]:
        mask = self.lm.tokenizer.mask_token
        if mask is None:
            raise UserError(f"{self.lm.name}: its tokenizer has no mask token; take evaluate.head: false out")
        return self.lm.tokens.prompts([f"{example.prompt} {mask}" for example in examples])

    def _mask(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Place of the last mask: a text may have some of its own."""
        return (len(ids) - 1 - list(ids)[::-1].index(self.lm.tokenizer.mask_token_id),)

    def _words(self, example: Example) -> tuple[int, ...]:
        tokens = [self.lm.tokens.answer(choice) for choice in example.choices]
        first = self.settings.choices == "first-token"
        for choice, some in zip(example.choices, tokens, strict=True):
            if len(some) > 1 and not first:
                raise UserError(
                    f'the choice "{choice[:40]}" is {len(some)} tokens, and a mask stands for one; set '
                    "evaluate.choices: first-token, or take evaluate.head: false out"
                )
        words = tuple(some[0] for some in tokens)
        if len(set(words)) < len(words):
            raise UserError("two choices are the same token at the mask; take evaluate.head: false out")
        return words
