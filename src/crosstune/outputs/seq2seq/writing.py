"""Written answers of an encoder-decoder: a source is read once, and its keys and values are kept.

Rows of a batch start together and have as many tokens at every step: nothing of what a decoder writes is
padded. Rows that have ended are dropped from the cache.
"""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from crosstune.data.example import Example
from crosstune.models.attention.choose import Source
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.base import Answers, refuse_nan, written
from crosstune.outputs.decoding.beams import search
from crosstune.outputs.decoding.ends import stopped, texts
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows
from crosstune.outputs.seq2seq.pairs import Paired
from crosstune.outputs.settings import Beams
from crosstune.outputs.stream import Group, in_batches
from crosstune.tasks.base import Task

Start = Sequence[int]


class WrittenPairs(Paired):
    """A written answer."""

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Rows of answers that end in the end-of-text token, so that the model learns to stop."""
        last = self.lm.tokenizer.eos_token_id
        end = [] if last is None else [last]
        return self.pair_rows(examples, lambda example: (self.target(example.answers[0]) + end, ()))

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """The texts written, and the language that each was identified as (`identify`)."""
        sources, starts = self.sources(examples), [self.languages.start(e.language) for e in examples]
        longest = self.settings.max_answer_tokens or task.max_answer_tokens
        self.fits(max(map(len, starts), default=0) + longest - 1, f"task {task.name}")
        tokens, beams = self.settings.tokens_per_pass, self.settings.search
        answers = write(self.model, sources, starts, longest, task.stop, tokens, beams, **stream)
        return written(task, examples, answers)


def write(
    lm: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[Start],
    max_tokens: int,
    stop: Sequence[str] = ("\n",),
    tokens_per_pass: int = 8192,
    beams: Beams | None = None,
    **stream: Unpack[Stream],
) -> list[str]:
    """Answers to sources of token ids, up to ``max_tokens`` or an end-of-text token, or before a stop string.

    Args:
        lm: The model.
        sources: What the encoder reads.
        starts: Token ids that each answer starts with, equally many; not part of it.
        max_tokens: Of an answer.
        stop: Strings that end one.
        tokens_per_pass: Most tokens at once, unless the stream's ``passes`` say so.
        beams: Of a search; None for the likeliest token at every step.
        **stream: See `Stream`.

    Returns:
        One string a source, without surrounding white space.

    Raises:
        UserError: One source is more than memory holds.
    """
    passes = stream.get("passes") or TokenLimit(tokens_per_pass, lm.device)

    def answer(batch: list[Group]) -> list[str]:
        items = [i for group in batch for i in group.items]
        some = [sources[i] for i in items]
        begun = [starts[i] for i in items]
        decode = greedy if beams is None else partial(beam_search, beams)
        ids = decode(lm, some, begun, max_tokens, stop)
        passes.tokens += sum(map(len, some)) + sum(map(len, ids))
        return texts(lm, ids, stop)

    rows = 1 if beams is None else beams.count

    def measure(items: list[int]) -> tuple[int, int]:
        return rows * len(items), max(len(sources[i]) for i in items) + max_tokens

    return in_batches(
        [[i] for i in range(len(sources))], measure, answer, passes, stream, lambda limit: limit
    )


@torch.inference_mode()
def greedy(
    lm: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[Start],
    max_tokens: int,
    stop: Sequence[str] = (),
) -> list[list[int]]:
    """The likeliest token at every step: token ids of each answer, the ending token left out."""
    answers: list[list[int]] = [[] for _ in sources]
    encoded, cache = lm.encode(Source.of(sources, lm.pad_id, lm.device)), lm.new_cache()
    ids, rows = torch.tensor([list(start) for start in starts], device=lm.device), list(range(len(sources)))
    while rows:
        chosen = next_scores(lm, lm.decode(ids, encoded, cache)[:, -1]).argmax(-1)
        live = []
        for place, token in enumerate(chosen.tolist()):
            answer = answers[rows[place]]
            if token not in lm.stop_ids:
                answer.append(token)
                if len(answer) < max_tokens and not stopped(lm, answer, stop):
                    live.append(place)
        if len(live) < len(rows):
            kept = torch.tensor(live, dtype=torch.long, device=lm.device)
            rows, chosen = [rows[place] for place in live], chosen[kept]
            if rows:
                cache.batch_select_indices(kept)
                encoded = encoded.take(kept)
        ids = chosen[:, None]
    return answers


@torch.inference_mode()
def beam_search(
    beams: Beams,
    lm: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[Start],
    max_tokens: int,
    stop: Sequence[str] = (),
) -> list[list[int]]:
    """As `greedy`, by beam search."""
    encoded, cache = lm.encode(Source.of(sources, lm.pad_id, lm.device)), lm.new_cache()
    ids = torch.tensor([list(start) for start in starts], device=lm.device)
    first = next_scores(lm, lm.decode(ids, encoded, cache)[:, -1])

    def step(rows: Tensor, newest: Tensor) -> Tensor:
        nonlocal encoded
        cache.batch_select_indices(rows)
        encoded = encoded.take(rows)
        return next_scores(lm, lm.decode(newest[:, None], encoded, cache)[:, -1])

    return search(first, step, max_tokens, beams, lm.stop_ids, partial(stopped, lm, stop=stop))


def next_scores(lm: EncoderDecoder, states: Tensor) -> Tensor:
    """Scores ``[rows, vocabulary]`` of the next token; of those that the model never writes, the lowest."""
    refuse_nan(bool(states.isnan().any()))
    scores = lm.logits(states)
    if lm.never:
        scores[:, list(lm.never)] = -torch.inf
    return scores
