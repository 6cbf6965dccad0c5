"""How probable given continuations are, each by itself; contexts that several share are read once."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from crosstune.models.attention.choose import lay_out, reading_form, turns
from crosstune.models.attention.trees import grow
from crosstune.models.fast.kernels import fused
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.choices import ROWS_AT_ONCE
from crosstune.outputs.stream import Group, in_a_pass, in_batches

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, one at least, and of what follows it."""


def likelihoods(
    lm: LanguageModel, pairs: Sequence[Pair], tokens_per_pass: int = 8192
) -> list[tuple[float, bool]]:
    """Of each continuation, its log-probability, and whether greedy decoding would write it.

    Raises:
        UserError: One is more than memory holds.
    """
    texts = [[*context, *continuation[:-1]] for context, continuation in pairs]
    longest = lm.adaptation.front + max(map(len, texts), default=0)
    together: dict[tuple[int, ...], list[int]] = {}
    for i, (context, _) in enumerate(pairs):
        key = (i,) if turns(lm, longest) else tuple(context)
        together.setdefault(key, []).append(i)
    form = reading_form(lm, longest)

    def measure(group: list[int]) -> tuple[int, int]:
        return 1, len(grow([texts[i] for i in group]).tokens)

    @torch.inference_mode()
    def answer(batch: list[Group]) -> list[tuple[float, bool]]:
        trees = [grow([texts[i] for i in group.items]) for group in batch]
        placed = lay_out(form, trees, lm.pad_id, lm.device)
        row_at: dict[int, int] = {}  # number of the answer row at a position
        rows: list[list[int]] = []  # of each continuation
        for start, group, tree in zip(placed.starts, batch, trees, strict=True):
            for i, path in zip(group.items, tree.paths, strict=True):
                places = path[len(pairs[i][0]) - 1 :]
                rows.append([row_at.setdefault(start + at, len(row_at)) for at in places])
        hidden = lm.hidden(placed.ids, placed.layout, rows=torch.tensor(list(row_at), device=lm.device))
        targets = [target for group in batch for i in group.items for target in pairs[i][1]]
        flat = [row for some in rows for row in some]
        logprobs, likeliest = _of_targets(lm, hidden, flat, targets)
        sizes = list(map(len, rows))
        return [
            (float(scores.sum()), bool(best.all()))
            for scores, best in zip(logprobs.split(sizes), likeliest.split(sizes), strict=True)
        ]

    passes = TokenLimit(tokens_per_pass, lm.device)
    fill = partial(in_a_pass, device=lm.device)
    with fused(lm):
        return in_batches(list(together.values()), measure, answer, passes, {}, fill, form.fills_up)


def _of_targets(
    lm: LanguageModel, hidden: Tensor, rows: list[int], targets: list[int]
) -> tuple[Tensor, Tensor]:
    """fp64 log-probability ``[len(rows)]`` of each target at its row, and whether it is the likeliest."""
    aim = torch.tensor(targets, device=hidden.device)
    index = torch.tensor(rows, device=hidden.device)
    logprobs, likeliest = [], []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        scores = lm.logits(hidden[index[part]])
        chosen = scores.gather(1, aim[part, None])[:, 0]
        logprobs.append((chosen - torch.logsumexp(scores, -1)).double().cpu())
        likeliest.append((scores.argmax(-1) == aim[part]).cpu())
    return torch.cat(logprobs), torch.cat(likeliest)
