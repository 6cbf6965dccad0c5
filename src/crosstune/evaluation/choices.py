"""Scoring choices with one forward an example.

Every label's first token is predicted by the prompt's last token, so labels of one token need the
prompt alone, and only their own columns of the vocabulary. Longer labels are laid out as branches
behind the shared prompt: each branch sees the prompt and itself, and its tokens are scored in the
same forward. Equal to running every prompt-plus-label on its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.errors import UserError
from crosstune.evaluation.batching import in_batches
from crosstune.evaluation.journal import Journal
from crosstune.evaluation.settings import EvaluateSettings
from crosstune.models.attention import Layout
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory import Passes

# fp32 scores of a 262k vocabulary: 256 rows take 268 MB.
ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """One question: token ids of its prompt and of each label."""

    prompt: list[int]
    labels: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """Tokens in the forward: the prompt, and of each label all but the last."""
        return len(self.prompt) + sum(len(label) - 1 for label in self.labels)


def score_choices(
    lm: LanguageModel,
    items: Sequence[ChoiceItem],
    settings: EvaluateSettings,
    tell: Callable[[int], None] | None = None,
    passes: Passes | None = None,
    journal: Journal[list[float]] | None = None,
) -> list[list[float]]:
    """Log-probability of each choice, normalised over the choices of its question.

    Args:
        lm: The model, with whatever a method left on it.
        items: Questions.
        settings: ``choices`` says how labels are compared.
        tell: Called with the number of questions done since the last call.
        passes: Says how many tokens go at once, and is lowered when memory runs out; made from the settings.
        journal: Keeps what is done, and knows what was done before.

    Raises:
        UserError: ``first-token`` with labels that start alike; an empty prompt; one question is more than
            memory holds.
    """
    if not all(item.prompt for item in items):
        raise UserError(
            "an empty prompt, and the model's tokenizer puts nothing in front: no label can be scored"
        )
    if settings.choices == "first-token":
        items = [ChoiceItem(i.prompt, tuple(label[:1] for label in i.labels)) for i in items]
        for item in items:
            if len(set(item.labels)) < len(item.labels):
                raise UserError(
                    "choices: first-token, but two labels start with the same token; use choices: label"
                )
    passes = Passes(settings.tokens_per_pass, lm.device) if passes is None else passes

    def answer(batch: list[int]) -> list[list[float]]:
        scores = _score_batch(lm, [items[i] for i in batch], settings.choices == "label-per-token")
        passes.tokens += sum(items[i].width for i in batch)
        return [torch.log_softmax(score, dim=0).tolist() for score in scores]

    return in_batches([item.width for item in items], answer, passes, tell, journal)


@torch.inference_mode()
def _score_batch(lm: LanguageModel, items: Sequence[ChoiceItem], per_token: bool) -> list[Tensor]:
    """One ``[choices]`` fp64 vector an item, comparable within it."""
    width = max(item.width for item in items)
    ids = torch.full((len(items), width), lm.pad_id)
    segments = torch.full((len(items), width), -1)
    positions = torch.zeros((len(items), width), dtype=torch.long)
    lasts = []  # flat index of each prompt's last token
    branch_rows: list[int] = []
    branch_targets: list[int] = []
    for b, item in enumerate(items):
        n = len(item.prompt)
        ids[b, :n] = torch.tensor(item.prompt)
        segments[b, :n], positions[b, :n] = 0, torch.arange(n)
        lasts.append(b * width + n - 1)
        at = n
        for branch, label in enumerate(item.labels, start=1):
            k = len(label) - 1
            if k:
                ids[b, at : at + k] = torch.tensor(label[:-1])
                segments[b, at : at + k], positions[b, at : at + k] = branch, n + torch.arange(k)
                branch_rows += range(b * width + at, b * width + at + k)
                branch_targets += label[1:]
            at += k
    device = lm.device
    layout = Layout(segments.to(device), positions.to(device)) if branch_rows else None
    hidden = lm.hidden(ids.to(device), layout).flatten(0, 1)
    firsts = _first_scores(lm, hidden[torch.tensor(lasts, device=device)], items, whole=per_token)
    rest = _log_probabilities(lm, hidden, branch_rows, branch_targets)
    out, at = [], 0
    for item, first in zip(items, firsts, strict=True):
        score = first.clone()
        for c, label in enumerate(item.labels):
            score[c] += rest[at : at + len(label) - 1].sum()
            at += len(label) - 1
        if per_token:
            score /= torch.tensor([len(label) for label in item.labels])
        out.append(score)
    return out


def _first_scores(lm: LanguageModel, rows: Tensor, items: Sequence[ChoiceItem], whole: bool) -> list[Tensor]:
    """Score of each label's first token: logits, or log-probabilities when lengths are divided by.

    Without that division the vocabulary's normaliser is the same for all labels of a question and
    falls out of the comparison, so only the labels' own columns are computed.
    """
    columns = sorted({label[0] for item in items for label in item.labels})
    place = {token: i for i, token in enumerate(columns)}
    index = torch.tensor(columns, device=rows.device)
    if whole:
        pieces = [torch.log_softmax(lm.logits(part), -1)[:, index] for part in rows.split(ROWS_AT_ONCE)]
    else:
        pieces = [lm.logits(rows, index)]
    scores = torch.cat(pieces).double().cpu()
    return [scores[b, [place[label[0]] for label in item.labels]] for b, item in enumerate(items)]


def _log_probabilities(lm: LanguageModel, hidden: Tensor, rows: list[int], targets: list[int]) -> Tensor:
    """Log-probability of each target at its row, fp64 ``[len(rows)]``."""
    out = [torch.zeros(0, dtype=torch.float64)]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        at = torch.tensor(rows[start : start + ROWS_AT_ONCE], device=hidden.device)
        want = torch.tensor(targets[start : start + ROWS_AT_ONCE], device=hidden.device)
        out.append(torch.log_softmax(lm.logits(hidden[at]), -1).gather(1, want[:, None])[:, 0].double().cpu())
    return torch.cat(out)
