"""Batches of tokenised examples: seeded order, little padding, a limit on tokens at once."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crosstune.models.attention.choose import Placed, Source, for_training
from crosstune.models.attention.cpu_line import PaddingFreeBatch
from crosstune.models.attention.layout import Layout, TwoWayLayout
from crosstune.models.fast.layers import EntryStates
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import Rows, TrainingRow
from crosstune.training.reuse import Reuse

# Batches drawn together before sorting by length: enough to pair like with like, few enough that
# an epoch's order stays random.
POOL = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward reads."""

    ids: Tensor  # ``[lines, width]``, padded on the right
    rows: Tensor  # ``[answers]`` flat indices (lines * width) of the positions that predict an answer token
    targets: Tensor  # ``[answers]`` what to predict there: token ids, or with ``columns`` places among them
    # Who sees whom, when a line holds several examples.
    layout: Layout | TwoWayLayout | PaddingFreeBatch | None = None
    # ``[columns]`` the only tokens that are compared; None for the whole vocabulary.
    columns: Tensor | None = None
    offered: Tensor | None = None  # ``[answers, columns]`` which of them each answer is chosen from
    # What the frozen layers below the lowest adapted one hand to it; None to run them.
    entry: EntryStates | None = None
    tokens: tuple[range, ...] = ()  # places of each text's tokens, counted through lines and width
    pools: Tensor | None = None  # ``[rows]``: the target that each is averaged for; None for one each
    spans: bool = False  # whether targets are marks of a text's tokens, of which two are chosen
    source: Source | None = None  # what an encoder reads before; a text for each line
    # ``[answers]``: the example whose choice each is, and 1 in ``targets`` for the right one; None for none.
    examples: Tensor | None = None
    last: bool = True  # of the parts of an optimiser step

    @property
    def computed(self) -> int:
        """Tokens that go through the model, padding included."""
        return self.ids.numel() + (0 if self.source is None else self.source.ids.numel())


def order(
    rows: Sequence[TrainingRow], batch_size: int, seed: int, by_length: bool = True
) -> Iterator[list[TrainingRow]]:
    """Endless batches: every epoch a new seeded shuffle, with ``by_length`` rows of like length together.

    The last batch of an epoch may be smaller; no row is dropped or repeated within an epoch.
    """
    for epoch in itertools.count():
        shuffler = random.Random(f"{seed}:{epoch}")
        shuffled = list(range(len(rows)))
        shuffler.shuffle(shuffled)
        pool = POOL * batch_size if by_length else batch_size
        batches = [
            (start, i)
            for start in range(0, len(shuffled), pool)
            for i in range(0, len(shuffled[start : start + pool]), batch_size)
        ]
        shuffler.shuffle(batches)
        sorted_pools: dict[int, list[TrainingRow]] = {}
        for start, i in batches:
            if start not in sorted_pools:
                places = shuffled[start : start + pool]
                part = rows.take(places) if isinstance(rows, Rows) else [rows[place] for place in places]
                sorted_pools[start] = sorted(part, key=lambda row: row.size)
            yield sorted_pools[start][i : i + batch_size]


def split(batch: Sequence[TrainingRow], tokens: int) -> list[list[TrainingRow]]:
    """Parts of a batch to run one after the other, each of at most ``tokens`` even if padded (or one row)."""
    parts: list[list[TrainingRow]] = []
    for row in sorted(batch, key=lambda r: r.size):
        if parts and padded_size([*parts[-1], row]) <= tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def padded_size(rows: Sequence[TrainingRow]) -> int:
    """Tokens of some rows, padded to the longest."""
    return len(rows) * (max(len(row.ids) for row in rows) + max(len(row.source) for row in rows))


def ready_parts(
    lm: LanguageModel, batch: Sequence[TrainingRow], passes: TokenLimit, reuse: Reuse | None = None
) -> Iterator[Batch]:
    """Parts of an optimiser step's batch as tensors, each made when the one before it is done.

    ``passes`` limits the tokens of a part, and is told of each before it is made.
    """
    parts = split(batch, passes.limit)
    for i, part in enumerate(parts):
        passes.begin(len(part), padded_size(part))
        read = [row for example in part for row in example.texts]
        texts = [row.text for row in read]
        below = None if reuse is None else reuse.below(texts)
        sources = [row.source for row in read]
        source = Source.of(sources, lm.pad_id, lm.device) if any(sources) else None
        examples = (
            [n for n, example in enumerate(part) for _ in example.texts] if part[0].choice_rows else None
        )
        tensors = collate(read, for_training(lm, texts, passes.say), below, source, examples)
        yield replace(tensors, last=i == len(parts) - 1)


def collate(
    rows: Sequence[TrainingRow],
    placed: Placed,
    below: tuple[int, Sequence[Tensor]] | None = None,
    source: Source | None = None,
    examples: Sequence[int] | None = None,
) -> Batch:
    """Rows of training examples, the text of each placed, as the tensors of one forward.

    ``below`` is the lowest layer that has to run, and what it receives of each row, ``[tokens, hidden]``;
    ``source`` what an encoder reads for each; ``examples`` the number of each row's example, where several
    rows of one are compared.
    """
    device = placed.ids.device
    entry = None
    if below is not None:
        layer, states = below
        blank = torch.zeros(placed.ids.numel(), states[0].shape[-1], dtype=states[0].dtype, device=device)
        for start, text in zip(placed.starts, states, strict=True):
            blank[start : start + len(text)] = text
        entry = EntryStates(layer, blank.view(*placed.ids.shape, -1))
    where: list[int] = []
    targets: list[int] = []
    pools: list[int] = []
    for i in placed.order:
        row, end = rows[i], placed.starts[i] + len(rows[i].ids) - 1
        if row.span is not None:
            # All tokens meet the head; a target is 1 where the answer starts, 2 where it ends.
            where += range(placed.starts[i], end + 1)
            targets += [(at == row.span[0]) + 2 * (at == row.span[1]) for at in range(len(row.ids))]
        for places, target in row.labels:
            where += [placed.starts[i] + place for place in places]
            pools += [len(targets)] * len(places)
            targets.append(target)
        where += range(end - row.answer, end)
        targets += row.ids[len(row.ids) - row.answer :]
    columns = offered = None
    if any(row.choices for row in rows):
        tokens = sorted({token for row in rows for token in row.choices})
        choices = [rows[i].choices for i in placed.order]
        offered = torch.tensor([[token in some for token in tokens] for some in choices]).to(device)
        targets = [tokens.index(target) for target in targets]
        columns = torch.tensor(tokens, device=device)
    return Batch(
        placed.ids,
        torch.tensor(where, device=device),
        torch.tensor(targets, device=device),
        placed.layout,
        columns,
        offered,
        entry,
        tuple(range(placed.starts[i], placed.starts[i] + len(rows[i].text)) for i in placed.order),
        torch.tensor(pools, device=device) if len(pools) > len(targets) else None,
        any(row.span is not None for row in rows),
        source,
        None if examples is None else torch.tensor([examples[i] for i in placed.order], device=device),
    )
