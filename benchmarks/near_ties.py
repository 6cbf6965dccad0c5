"""Whether two sides chose the same, and where they did not, whether rounding alone explains it.

In bf16 two sides round differently, and where two choices are nearly level each may pick another. Such a
place counts as the same only when it is proven. A plain transformers model reads the question, one choice at
a time and without a cache, in fp32 and in the row's dtype. The two tell how much rounding moves the distance
of two choices, over questions of the same block; in fp32 neither pick may be further below the best choice
than that, and crosstune in fp32 must give the plain model's numbers. One difference that is not proven fails
the row.

A token of a written answer is a choice like any other: the question is the text before it, and the choices
are the tokens that the sides wrote there and the likeliest ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from crosstune.models.loading.load import load
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.settings import EvaluateSettings
from harness import Agreement

SAMPLE = 16
"""Questions, spread over the block, at which rounding is measured."""
EXACT = 1e-3
"""Nats that two orders of sums may differ by in fp32."""
LIKELIEST = 2


@dataclass(frozen=True)
class Truth:
    """One question in fp32: log-probability of each choice by a plain model, and by crosstune."""

    plain: list[float]
    ours: list[float]


class Judge:
    """A plain transformers model in fp32 and in a row's dtype, and crosstune in fp32; for all turns of a row.

    Args:
        folder: Of the model.
        dtype: Of the row.

    Attributes:
        noise: Nats that rounding moves the distance of two choices by, at most, where it was measured.
    """

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._models = [
            AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval() for kind in (torch.float32, dtype)
        ]
        self._ours = load(str(folder), device="cpu", dtype="float32")
        self._known: dict[tuple[int, ...], Truth] = {}
        self.noise = EXACT

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], rows: int) -> list[Tensor]:
        """Log-probabilities behind the last ``rows`` tokens of a text, in fp32 and rounded."""
        fed = torch.tensor([ids])
        read = [m(input_ids=fed, use_cache=False, logits_to_keep=rows).logits[0] for m in self._models]
        return [torch.log_softmax(logits.double(), -1) for logits in read]

    def scores(self, item: ChoiceItem) -> tuple[list[float], list[float]]:
        """Log-probability of each choice of a question, in fp32 and rounded."""
        both: list[list[float]] = [[], []]
        behind = {ending: self._read([*item.prompt, *ending], 1 + len(ending)) for ending in item.endings}
        for label in item.labels:
            for scores, logp in zip(both, behind[label[:-1]], strict=True):
                scores.append(float(logp[range(len(label)), list(label)].sum()))
        return both[0], both[1]

    def measure(self, items: Iterable[ChoiceItem]) -> None:
        """Take into account how far rounding moves the choices of some questions apart."""
        for item in items:
            errors = [a - b for a, b in zip(*self.scores(item), strict=True)]
            self.noise = max(self.noise, max(errors) - min(errors))

    def measure_text(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """The same for the two likeliest tokens at each place of a written answer."""
        exact, rounded = self._read([*prompt, *answer[:-1]], len(answer))
        pair = exact.topk(2).indices
        moved = (exact.gather(1, pair) - rounded.gather(1, pair)).diff()
        self.noise = max(self.noise, float(moved.abs().max()))

    def likeliest(self, ids: Sequence[int]) -> list[int]:
        """The likeliest tokens behind a text, in fp32."""
        likeliest: list[int] = self._read(ids, 1)[0][0].topk(LIKELIEST).indices.tolist()
        return likeliest

    def parting(self, before: Sequence[int], one: int, other: int) -> Truth:
        """The question which token follows a text: one, other, or the likeliest; kept for later turns."""
        key = (*before, one, other)
        if key not in self._known:
            tokens = dict.fromkeys((one, other, *self.likeliest(before)))
            item = ChoiceItem(list(before), tuple((token,) for token in tokens))
            (self._known[key],) = self.truths([item])
        return self._known[key]

    def truths(self, items: Sequence[ChoiceItem]) -> list[Truth]:
        """Questions in fp32, both ways."""
        ours = score_choices(self._ours, items, EvaluateSettings())
        return [Truth(self.scores(item)[0], scored) for item, scored in zip(items, ours, strict=True)]


@cache
def judge_for(folder: Path, dtype: torch.dtype) -> Judge:
    """The judge of a row's model."""
    return Judge(folder, dtype)


def spread(count: int) -> list[int]:
    """`SAMPLE` places spread over so many."""
    return list(range(0, count, max(1, count // SAMPLE)))[:SAMPLE]


def pick(scores: Sequence[float]) -> int:
    """The choice with the highest score, the first of those that are level."""
    return max(range(len(scores)), key=scores.__getitem__)


def compare(
    folder: Path,
    dtype: torch.dtype,
    items: Sequence[ChoiceItem],
    mine: Sequence[list[float]],
    other: Sequence[list[float]],
) -> Agreement:
    """Whether crosstune and the peer picked the same choice of every question.

    Args:
        folder: Of the model.
        dtype: Of both sides.
        items: The questions.
        mine: Log-probabilities of the choices, up to a number the choices of a question share.
        other: The peer's.
    """
    picks = [(pick(a), pick(b)) for a, b in zip(mine, other, strict=True)]
    apart = [i for i, (a, b) in enumerate(picks) if a != b]
    facts: dict[str, Any] = {"compared": len(picks), "same": len(picks) - len(apart)}
    text = f"{len(picks) - len(apart)} of {len(picks)} choices the same"
    if not apart:
        return Agreement(bool(picks), text, facts)
    judge = judge_for(folder, dtype)
    judge.measure(items[i] for i in spread(len(items)))
    truths = judge.truths([items[i] for i in apart])
    differences = [
        {"question": i} | near_tie(picks[i], truth, judge.noise)
        for i, truth in zip(apart, truths, strict=True)
    ]
    message, unproven = proofs(differences, judge.noise)
    return Agreement(not unproven, f"{text}; {message}", facts | {"apart": differences, "noise": judge.noise})


def near_tie(picks: tuple[int, int], truth: Truth, noise: float) -> dict[str, Any]:
    """Whether two picks are nearly level, and what tells.

    Args:
        picks: Crosstune's choice and the peer's.
        truth: Of the question.
        noise: Nats that rounding moves two choices apart by.
    """
    below = [max(truth.plain) - truth.plain[i] for i in picks]
    wrong = _difference(truth)
    return {
        "below_the_best": below,
        "fp32_difference": wrong,
        "near_tie": max(below) <= noise and wrong <= EXACT,
    }


def proofs(apart: Sequence[dict[str, Any]], noise: float) -> tuple[str, int]:
    """What is said of the differences, and how many are not proven near ties."""
    unproven = sum(not pair["near_tie"] for pair in apart)
    margins = sorted(max(entry["below_the_best"]) for entry in apart if "below_the_best" in entry)
    below = ", ".join(f"{m:.3f}" for m in margins)
    text = (
        f"{len(apart) - unproven} of {len(apart)} differences are near ties, {unproven} UNPROVEN (in fp32 at "
        f"most {below} nats below the best; rounding moves two choices by up to {noise:.3f})"
    )
    return text, unproven


def _difference(truth: Truth) -> float:
    """Most that crosstune's log-probabilities differ from the plain model's, their sum's level left out."""
    plain, ours = (
        torch.log_softmax(torch.tensor(x, dtype=torch.float64), 0) for x in (truth.plain, truth.ours)
    )
    return float((plain - ours).abs().max())
