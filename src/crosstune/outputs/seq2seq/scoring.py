"""Choices scored on the decoder: a question is read once, whatever the number of its choices.

The decoder first reads what every answer starts with, one row a question; the last of these tokens predicts
the first token of each choice. Longer choices are read behind it as rows of their own, over copies of the
question's keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor

from crosstune.data.example import Example
from crosstune.models.attention.choose import Source
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.base import Answers, picked
from crosstune.outputs.choices import ROWS_AT_ONCE, Labels, first_tokens, learned_choice
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows
from crosstune.outputs.seq2seq.pairs import Paired
from crosstune.outputs.settings import EvaluateSettings
from crosstune.outputs.stream import Group, in_a_pass, in_batches
from crosstune.tasks.base import Task


@dataclass(frozen=True, slots=True)
class Question:
    """Token ids: what the encoder reads, what answers start with, and each choice."""

    source: list[int]
    start: list[int]
    choices: Labels

    @property
    def width(self) -> int:
        """Tokens that go through the model, choices one by one."""
        return len(self.source) + len(self.start) + sum(len(choice) - 1 for choice in self.choices)


class ScoredPairs(Paired):
    """The most probable of an example's choices."""

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Rows of the right choice, as of `crosstune.outputs.choices.Choice.rows`.

        Raises:
            UserError: ``loss: choices`` with choices that start alike.
        """
        return self.pair_rows(examples, learned_choice(examples, self.target, self.settings, loss))

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The choices picked, and the log-probabilities of all."""
        questions = [
            Question(
                source,
                self.languages.start(example.language),
                tuple(tuple(self.target(choice)) for choice in example.choices),
            )
            for source, example in zip(self.sources(examples), examples, strict=True)
        ]
        for question, example in zip(questions, examples, strict=True):
            longest = max(map(len, question.choices))
            self.fits(len(question.start) + longest - 1, f"{example.language} {example.id}")
        return picked(examples, score(self.model, questions, self.settings, **stream))


def score(
    lm: EncoderDecoder, questions: Sequence[Question], settings: EvaluateSettings, **stream: Unpack[Stream]
) -> list[list[float]]:
    """Log-probability of each choice, normalised over the choices of its question.

    Raises:
        UserError: ``first-token`` with choices that start alike; one question is more than memory holds.
    """
    if settings.choices == "first-token":
        questions = [replace(q, choices=first_tokens(q.choices)) for q in questions]
    passes = stream.get("passes") or TokenLimit(settings.tokens_per_pass, lm.device)

    def answer(batch: list[Group]) -> list[list[float]]:
        some = [questions[i] for group in batch for i in group.items]
        passes.tokens += sum(question.width for question in some)
        scores = _score(lm, some, settings.choices == "label-per-token")
        return [torch.log_softmax(numbers, dim=0).tolist() for numbers in scores]

    def measure(items: list[int]) -> tuple[int, int]:
        return len(items), max(questions[i].width for i in items)

    groups = [[i] for i in range(len(questions))]
    return in_batches(groups, measure, answer, passes, stream, lambda limit: in_a_pass(limit, lm.device))


@torch.inference_mode()
def _score(lm: EncoderDecoder, questions: Sequence[Question], per_token: bool) -> list[Tensor]:
    """One ``[choices]`` fp64 vector of log-probabilities a question."""
    encoded = lm.encode(Source.of([q.source for q in questions], lm.pad_id, lm.device))
    cache = lm.new_cache()
    starts = torch.tensor([q.start for q in questions], device=lm.device)
    firsts = _logprobs(lm, lm.decode(starts, encoded, cache)[:, -1], [q.choices for q in questions])
    sums = [first.clone() for first in firsts]
    longer = [
        (i, c, choice)
        for i, question in enumerate(questions)
        for c, choice in enumerate(question.choices)
        if len(choice) > 1
    ]
    if longer:
        rows = torch.tensor([i for i, _, _ in longer], device=lm.device)
        cache.batch_select_indices(rows)
        width = max(len(choice) for _, _, choice in longer) - 1
        ids = [[*choice[:-1], *[lm.pad_id] * (width + 1 - len(choice))] for _, _, choice in longer]
        states = lm.decode(torch.tensor(ids, device=lm.device), encoded.take(rows), cache)
        for (i, c, choice), row in zip(longer, states, strict=True):
            scores = lm.logits(row[: len(choice) - 1])
            targets = torch.tensor(choice[1:], device=scores.device)
            logp = scores.gather(1, targets[:, None])[:, 0] - torch.logsumexp(scores, -1)
            sums[i][c] += logp.double().sum().cpu()
    if per_token:
        return [
            total / torch.tensor([len(choice) for choice in question.choices])
            for total, question in zip(sums, questions, strict=True)
        ]
    return sums


def _logprobs(lm: EncoderDecoder, states: Tensor, choices: Sequence[Labels]) -> list[Tensor]:
    """Of each question's state ``[questions, hidden]``: log-probability of the first token of its choices."""
    pieces = [torch.log_softmax(lm.logits(part), -1).cpu() for part in states.split(ROWS_AT_ONCE)]
    return [
        row[[choice[0] for choice in some]].double()
        for row, some in zip(torch.cat(pieces), choices, strict=True)
    ]
