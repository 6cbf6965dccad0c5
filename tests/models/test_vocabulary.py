"""One pass over the vocabulary: the loss and gradient of PyTorch's cross-entropy."""

import pytest
import torch

from crosstune.models.fast import vocabulary
from crosstune.models.fast.vocabulary import VocabularyLoss, likeliest


@pytest.mark.parametrize("columns", [7, 50, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_cross_entropy(monkeypatch, dtype, columns):
    monkeypatch.setattr(vocabulary, "COLUMNS_AT_ONCE", columns)
    torch.manual_seed(0)
    # Scores up to +-60: sums that overflow without a running maximum would not survive bf16's or fp32's exp.
    table = torch.randn(211, 24).to(dtype) * 4
    targets = torch.tensor([0, 6, 7, 49, 50, 210, 13])
    hidden = (torch.randn(7, 24) * 3).to(dtype).requires_grad_()
    (VocabularyLoss.apply(hidden, table, targets) * 0.5).backward()
    exact = hidden.detach().double().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(exact @ table.double().T, targets, reduction="sum")
    (wanted * 0.5).backward()
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    loss = VocabularyLoss.apply(hidden, table, targets)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=tolerance)
    error = (hidden.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert float(error) < tolerance


@pytest.mark.parametrize("columns", [7, 96, 1024, 1536])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_likeliest_is_the_first_of_the_largest(dtype, columns):
    # Few different scores: most rows have ties, in one block and across blocks.
    scores = torch.randint(-3, 4, (40, columns), generator=torch.Generator().manual_seed(columns)).to(dtype)
    scores[0], scores[1, columns // 2 :] = -torch.inf, torch.nan
    assert torch.equal(likeliest(scores), scores.argmax(-1))
    assert likeliest(scores[:0]).shape == (0,)
