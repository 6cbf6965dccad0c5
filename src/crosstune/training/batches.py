"""Batches of tokenised examples: seeded order, like lengths together, a limit on tokens at once."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.models.language_model import LanguageModel
from crosstune.tasks.base import Example, Kind

# Batches drawn together before sorting by length: enough to pair like with like, few enough that
# an epoch's order stays random.
POOL = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One training example as token ids: prompt, then answer."""

    ids: tuple[int, ...]
    answer: int  # how many of the last ids are the answer


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded rows.

    Attributes:
        ids: ``[batch, length]``.
        rows: ``[answers]`` flat indices (batch * length) of the positions that predict an answer token.
        targets: ``[answers]`` token ids to predict there.
    """

    ids: Tensor
    rows: Tensor
    targets: Tensor


def tokenize(
    lm: LanguageModel, examples: Sequence[Example], kind: Kind, first_token: bool = False
) -> list[Row]:
    """Token ids of training examples.

    A free answer ends in the end-of-text token, so that the model learns to stop.

    Args:
        lm: The model, for its tokenizer.
        examples: Training examples.
        kind: Of their task.
        first_token: Keep only the first token of each answer, when that is what evaluation compares.
    """
    end = [] if kind == "choice" or lm.tokenizer.eos_token_id is None else [lm.tokenizer.eos_token_id]
    prompts = lm.encode_prompts([e.prompt for e in examples])
    made = []
    for prompt, example in zip(prompts, examples, strict=True):
        answer = lm.encode_answer(example.answers[0]) + end
        if first_token:
            answer = answer[:1]
        made.append(Row((*prompt, *answer), len(answer)))
    return made


def order(rows: Sequence[Row], batch_size: int, seed: int, by_length: bool = True) -> Iterator[list[Row]]:
    """Endless batches: every epoch a new seeded shuffle, with ``by_length`` rows of like length together.

    The last batch of an epoch may be smaller; no row is dropped or repeated within an epoch.
    """
    epoch = 0
    while True:
        shuffler = random.Random(f"{seed}:{epoch}")
        shuffled = list(rows)
        shuffler.shuffle(shuffled)
        pool = POOL * batch_size if by_length else batch_size
        batches = []
        for start in range(0, len(shuffled), pool):
            part = sorted(shuffled[start : start + pool], key=lambda row: len(row.ids))
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        shuffler.shuffle(batches)
        yield from batches
        epoch += 1


def split(batch: list[Row], tokens: int, pass_cost: int = 0) -> list[list[Row]]:
    """Parts of a batch to run one after the other, with the least padding worth having.

    Of all ways to cut the rows, sorted by length, the one with the smallest sum of padded tokens plus
    ``pass_cost`` a part (what one more pass through the model costs, in tokens).

    Args:
        batch: Rows.
        tokens: Most tokens a part may hold, padding included (one row always may).
        pass_cost: See above.
    """
    rows = sorted(batch, key=lambda r: len(r.ids))
    # best[i]: cheapest way to run the first i rows, and where its last part starts.
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(rows) + 1):
        width = len(rows[end - 1].ids)
        options = [
            (best[start][0] + (end - start) * width + pass_cost, start)
            for start in range(end)
            if (end - start) * width <= tokens or end - start == 1
        ]
        best.append(min(options))
    parts: list[list[Row]] = []
    end = len(rows)
    while end:
        start = best[end][1]
        parts.append(rows[start:end])
        end = start
    return parts[::-1]


def collate(rows: Sequence[Row], pad: int, device: torch.device) -> Batch:
    """Pad rows on the right and note where the answers are predicted."""
    length = max(len(row.ids) for row in rows)
    # The last token of a row predicts nothing that is scored: leave it out of the forward.
    width = length - 1
    ids = torch.full((len(rows), width), pad)
    where: list[int] = []
    targets: list[int] = []
    for i, row in enumerate(rows):
        known = min(len(row.ids), width)
        ids[i, :known] = torch.tensor(row.ids[:known])
        first = len(row.ids) - row.answer
        where += range(i * width + first - 1, i * width + len(row.ids) - 1)
        targets += row.ids[first:]
    return Batch(ids.to(device), torch.tensor(where, device=device), torch.tensor(targets, device=device))
