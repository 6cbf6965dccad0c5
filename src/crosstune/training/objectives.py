"""Cross-entropy of answer tokens or of labels, with only their rows ever meeting the vocabulary or a head."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crosstune.models.fast.top_rows import means
from crosstune.models.fast.vocabulary import VocabularyLoss
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import TrainingRow
from crosstune.training.batches import Batch, ready_parts

# fp32 scores of a 262k vocabulary: 256 rows take 268 MB.
ROWS_AT_ONCE = 256


def read_states(lm: LanguageModel, batch: Batch) -> Tensor:
    """One state a target of a batch, ``[targets, hidden]``: the mean of its places where it has several."""
    hidden = lm.hidden(batch.ids, batch.layout, rows=batch.rows, entry=batch.entry, source=batch.source)
    return hidden if batch.pools is None else means(hidden, batch.pools, len(batch.targets))


def answer_loss(lm: LanguageModel, batch: Batch) -> Tensor:
    """Sum (not mean) of the cross-entropy over a batch's answer tokens, a scalar in nats.

    Of spans, the mean of the start's and the end's over all tokens of a text (Devlin et al. 2019). With
    ``batch.columns`` each answer is one token, and only those it is chosen from meet it. A head that is
    on the model (`LanguageModel.head`) makes the scores instead of the vocabulary.
    """
    hidden = read_states(lm, batch)
    if lm.head is not None:
        return _head_loss(lm.head(hidden.float()), batch)
    assert not batch.spans, "a head is trained with the method"
    if batch.columns is not None and batch.offered is not None:
        scores = lm.logits(hidden, batch.columns).masked_fill(~batch.offered, -torch.inf)
        return torch.nn.functional.cross_entropy(scores, batch.targets, reduction="sum")

    table = lm.plain_table
    # On one device with what meets it: a spread model may keep its head elsewhere than its input.
    here = table is not None and table.device == hidden.device and table.device.type == "cpu"
    if table is not None and here and not table.requires_grad:
        run: Any = VocabularyLoss.apply
        loss: Tensor = run(hidden, table, batch.targets)
        return loss

    def part(rows: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(lm.logits(rows), targets, reduction="sum")

    pieces = list(zip(hidden.split(ROWS_AT_ONCE), batch.targets.split(ROWS_AT_ONCE), strict=True))
    if len(pieces) == 1:
        return part(*pieces[0])
    # Long answers: scores of one piece at a time, made again in the backward pass.
    losses = [checkpoint(part, rows, targets, use_reentrant=False) for rows, targets in pieces]
    return torch.stack(losses).sum()


@torch.no_grad()
def mean_loss(lm: LanguageModel, rows: Sequence[TrainingRow], passes: TokenLimit) -> float:
    """Mean nats an answer token of rows that nothing is learnt from."""
    summed = sum(float(answer_loss(lm, part)) for part in ready_parts(lm, rows, passes))
    return summed / sum(row.learned for row in rows)


def _head_loss(scores: Tensor, batch: Batch) -> Tensor:
    if batch.spans:
        return _span_loss(scores, batch)
    if batch.examples is not None:
        return _among_choices(scores[:, 0], batch.targets, batch.examples)
    return torch.nn.functional.cross_entropy(scores, batch.targets, reduction="sum")


def _among_choices(scores: Tensor, right: Tensor, examples: Tensor) -> Tensor:
    """Sum over examples of the cross-entropy of the right choice's score among those of the example."""
    most = scores.new_full((int(examples.max()) + 1,), -torch.inf)
    most = most.scatter_reduce(0, examples, scores.detach(), "amax")
    sums = torch.zeros_like(most).index_add(0, examples, (scores - most[examples]).exp())
    return (sums.log() + most).sum() - (scores * right).sum()


def _span_loss(scores: Tensor, batch: Batch) -> Tensor:
    """Of scores ``[tokens, 2]``, the texts one after the other."""
    loss = scores.new_zeros(())
    sizes = [len(tokens) for tokens in batch.tokens]
    for text, marks in zip(scores.split(sizes), batch.targets.split(sizes), strict=True):
        ends = torch.stack([(marks & 1).argmax(), (marks >> 1).argmax()])
        loss = loss + torch.nn.functional.cross_entropy(text.T, ends)
    return loss
