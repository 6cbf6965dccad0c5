"""Cross-entropy over a frozen vocabulary, loss and gradient in one pass over the table; the likeliest token.

    loss = log sum_v exp(h w_v) - h w_target        d loss / dh = sum_v softmax_v w_v - w_target

Both sums are accumulated chunk by chunk with a running maximum, as in FlashAttention (arXiv 2205.14135). Each
chunk of the table is read once while it is in the cache; the scores of the whole vocabulary, their softmax
and its gradient are never stored. The table itself gets no gradient.
"""

import math
from typing import Any

import torch
from torch import Tensor

# 8192 rows of 640 numbers in bf16 are 10 MB: inside a last-level cache.
COLUMNS_AT_ONCE = 8192


class VocabularyLoss(torch.autograd.Function):
    """Sum of cross-entropies in nats of ``[rows, hidden]`` against a table ``[vocabulary, hidden]``."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """The loss; its gradient is saved for the backward pass."""
        highest = torch.full((len(hidden), 1), -torch.inf, device=hidden.device)
        total = torch.zeros_like(highest)
        mixed = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        reached = torch.zeros_like(highest)
        for start in range(0, len(table), COLUMNS_AT_ONCE):
            part = table[start : start + COLUMNS_AT_ONCE]
            scores = (hidden @ part.T).float()
            place = targets - start
            target_scores = scores.gather(1, place.clamp(0, len(part) - 1)[:, None])
            reached = torch.where(((place >= 0) & (place < len(part)))[:, None], target_scores, reached)
            higher = torch.maximum(highest, scores.amax(1, keepdim=True))
            weights = scores.sub_(higher).exp_()
            shrink = (highest - higher).exp_()
            total = total * shrink + weights.sum(1, keepdim=True)
            mixed = mixed.mul_(shrink).add_(weights.to(part.dtype) @ part)
            highest = higher
        ctx.save_for_backward(mixed.div_(total).sub_(table[targets]).to(hidden.dtype))
        return (highest + total.log() - reached).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The saved gradient, scaled."""
        (gradient,) = ctx.saved_tensors
        return (gradient * grad).to(gradient.dtype), None, None


def likeliest(scores: Tensor) -> Tensor:
    """The largest of ``[n, vocabulary]``, ``[n]``, the first of those that are level: ``argmax(-1)``.

    On a CPU, block by block: maxima are vectorised, and PyTorch's bf16 ``argmax`` is not.
    """
    if scores.device.type != "cpu":
        return scores.argmax(-1)
    width = math.gcd(scores.shape[-1], 512)
    blocks: Tensor = scores.unflatten(-1, (scores.shape[-1] // width, width))
    block = blocks.amax(-1).float().argmax(-1, keepdim=True)
    inside: Tensor = blocks.take_along_dim(block[..., None], 1)[:, 0].float().argmax(-1, keepdim=True)
    return (block * width + inside)[:, 0]
