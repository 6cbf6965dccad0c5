"""Whether two sides chose the same, and where they did not, whether rounding alone explains it.

In bf16 two sides round differently, and where two choices are nearly level each may pick another. Such a
place counts as the same only when it is proven. A plain transformers model in fp32 scores the question, one
choice at a time, and says how far the two picks are apart; how much bf16 moves such a distance is measured on
the peer alone, over questions of the same block. The picks must be no further apart than that, and crosstune
in fp32 must give the plain model's numbers. One difference that is not proven fails the row.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from crosstune.evaluation.choices import ChoiceItem, score_choices
from crosstune.evaluation.settings import EvaluateSettings
from crosstune.models.load import load
from harness import Agreement

SAMPLE = 12
"""Questions, spread over the block, on which the peer's rounding is measured."""
EXACT = 1e-3
"""Nats that two orders of sums may differ by in fp32."""


@dataclass(frozen=True)
class Truth:
    """One question in fp32: log-probability of each choice by a plain model, and by crosstune."""

    plain: list[float]
    ours: list[float]


def truths(folder: Path, items: Sequence[ChoiceItem]) -> list[Truth]:
    """Questions scored in fp32 with the weights in ``folder``, both ways."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    alone = [_one_at_a_time(plain, item) for item in items]
    del plain
    gc.collect()
    lm = load(str(folder), device="cpu", dtype="float32")
    fast = score_choices(lm, items, EvaluateSettings())
    return [Truth(a, b) for a, b in zip(alone, fast, strict=True)]


@torch.inference_mode()
def _one_at_a_time(model: Any, item: ChoiceItem) -> list[float]:
    found = []
    for label in item.labels:
        ids = torch.tensor([[*item.prompt, *label]])
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(label) + 1).logits[0, :-1]
        logp = torch.log_softmax(logits.double(), -1)
        found.append(float(logp[range(len(label)), list(label)].sum()))
    return found


def pick(scores: Sequence[float]) -> int:
    """The choice with the highest score, the first of those that are level."""
    return max(range(len(scores)), key=scores.__getitem__)


def compare(
    folder: Path, items: Sequence[ChoiceItem], mine: Sequence[list[float]], other: Sequence[list[float]]
) -> Agreement:
    """Whether crosstune and the peer picked the same choice of every question.

    Args:
        folder: Of the model.
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
    sample = list(range(0, len(items), max(1, len(items) // SAMPLE)))[:SAMPLE]
    some = sorted({*apart, *sample})
    truth = dict(zip(some, truths(folder, [items[i] for i in some]), strict=True))
    return judge(picks, {i: other[i] for i in some}, truth, sample)


def judge(
    picks: Sequence[tuple[int, int]],
    other: dict[int, list[float]],
    truth: dict[int, Truth],
    sample: Sequence[int],
) -> Agreement:
    """Which differences are near ties.

    Args:
        picks: Of each question, crosstune's choice and the peer's.
        other: The peer's log-probabilities, of the questions in ``truth``.
        truth: Of every question with different picks, and of the sample.
        sample: Where the peer's rounding is measured.
    """
    moved = []
    for i in sample:
        exact, rounded = truth[i].plain, other[i]
        errors = [a - b for a, b in zip(rounded, exact, strict=True)]
        moved.append(max(errors) - min(errors))  # the most that a distance of two choices moves
    noise = max(moved)
    ties, unproven = [], []
    for i, (a, b) in enumerate(picks):
        if a == b:
            continue
        margin = abs(truth[i].plain[a] - truth[i].plain[b])
        wrong = _difference(truth[i])
        proven = margin <= noise and wrong <= EXACT
        (ties if proven else unproven).append({"question": i, "margin": margin, "fp32_difference": wrong})
    n = len(picks)
    margins = ", ".join(f"{each['margin']:.3f}" for each in (*ties, *unproven))
    text = (
        f"{n - len(ties) - len(unproven)} of {n} choices the same, {len(ties)} near ties, "
        f"{len(unproven)} UNPROVEN; fp32 margins {margins} nats, bf16 moves the peer's by up to {noise:.3f}"
    )
    facts = {
        "compared": n,
        "same": n - len(ties) - len(unproven),
        "near_ties": ties,
        "unproven": unproven,
        "noise_of_peer": noise,
        "noise_measured_on": len(sample),
    }
    return Agreement(not unproven, text, facts)


def _difference(truth: Truth) -> float:
    """Most that crosstune's log-probabilities differ from the plain model's, their sum's level left out."""
    plain, ours = (
        torch.log_softmax(torch.tensor(x, dtype=torch.float64), 0) for x in (truth.plain, truth.ours)
    )
    return float((plain - ours).abs().max())
