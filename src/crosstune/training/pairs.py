"""In-batch softmax: each question is to find its text among the texts of its batch.

    -log exp(q_i . t_i / T) / sum_j exp(q_i . t_j / T),    q and t of length 1, T = 0.01

The mean over a batch's questions; ``symmetric`` adds the same for texts that are to find their questions, and
halves the sum. A text that several questions share is no wrong one of theirs. LAReQA's baseline (Roy et al.
2020, arXiv 2004.05484, as XTREME-R trains it) learns 1/T from 100 on; here it stays. A batch is one softmax
whatever memory holds: where it takes several passes, vectors are computed first, and once more with gradients
(Gao et al. 2021, arXiv 2101.06983), with the same dropout.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from crosstune.methods.base import Method, Pass
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import TrainingRow
from crosstune.training.batches import Batch, ready_parts, split
from crosstune.training.objectives import read_states
from crosstune.training.reuse import Reuse
from crosstune.training.state import random_state, set_random_state

TEMPERATURE = 0.01


def in_batch_loss(vectors: Tensor, symmetric: bool, shared: Tensor) -> Tensor:
    """Mean loss of states ``[2 n, hidden]``, n questions and then the text of each; a scalar in nats.

    ``shared``, bool ``[n, n]``, is true for two questions with one text.
    """
    questions, texts = normalize(vectors, dim=1).chunk(2)
    scores = (questions @ texts.T / TEMPERATURE).masked_fill(shared, -torch.inf)
    targets = torch.arange(len(scores), device=scores.device)
    loss = cross_entropy(scores, targets)
    return (loss + cross_entropy(scores.T, targets)) / 2 if symmetric else loss


def backward(
    method: Method,
    batch: Sequence[TrainingRow],
    passes: TokenLimit,
    reuse: Reuse | None = None,
    step: int = 1,
) -> tuple[Callable[[], float], int, int]:
    """Gradients of a batch of pairs.

    Returns what gives the loss, and the tokens read, without and with padding.
    """
    lm = method.attached()
    sides = [(row.ids, row.labels[0][0]) for row in batch]
    sides += [(row.pair.ids, row.pair.places) for row in batch if row.pair is not None]
    symmetric = batch[0].pair is not None and batch[0].pair.symmetric
    texts = [TrainingRow(ids, labels=((places, i),)) for i, (ids, places) in enumerate(sides)]
    total = sum(len(text.ids) for text in texts)
    among = [ids for ids, _ in sides[len(batch) :]]
    same = [[i != j and one == other for j, other in enumerate(among)] for i, one in enumerate(among)]
    shared = torch.tensor(same, device=lm.device)

    def parts() -> Iterator[tuple[Batch, Pass]]:
        for part in ready_parts(lm, texts, passes, reuse):
            tokens = torch.tensor(list(itertools.chain(*part.tokens)), device=part.ids.device)
            yield part, Pass(step, len(tokens) / total, tokens, *part.ids.shape)

    if len(split(texts, passes.limit)) == 1:
        [(part, read)] = parts()
        loss = in_batch_loss(read_states(lm, part).float()[part.targets.argsort()], symmetric, shared)
        method.objective(loss, read).backward()
        method.after_backward()
        return loss.detach().item, total, part.ids.numel()

    before = random_state()
    vectors = torch.empty(len(texts), lm.geometry.hidden, device=lm.device)
    with torch.no_grad():
        for part, _ in parts():
            vectors[part.targets] = read_states(lm, part).float()
    vectors.requires_grad_()
    loss = in_batch_loss(vectors, symmetric, shared)
    (slopes,) = torch.autograd.grad(loss, vectors)
    set_random_state(before)
    padded = 0
    for part, read in parts():
        # Its gradient is the loss's.
        linear = (read_states(lm, part).float() * slopes[part.targets]).sum()
        method.objective(linear, read).backward()
        method.after_backward()
        padded += part.ids.numel()
    return loss.detach().item, total, padded
