"""Overlap between training and test data, and duplicates within a split, counted over the datasets' texts.

Comparing prompts is not enough: the same paragraph with another question is a leak too. So every field of an
example (premise, context, question, ...) is compared separately, unchanged and normalised.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from crosstune.data.example import Example


def overlap(train: Sequence[Example], tested: Iterable[Example]) -> dict[str, Any]:
    """Count test examples that share a text with the training data.

    Returns:
        ``prompts``: number with a prompt of the training data; ``exact`` and ``normalised``: by field, number
        whose text is in the same field there (normalised: without case, punctuation, spaces and
        compatibility forms).
    """
    prompts = {example.prompt for example in train}
    exact, folded = defaultdict(set), defaultdict(set)
    for example in train:
        for name, text in example.fields:
            exact[name].add(text)
            folded[name].add(normalised(text))
    shared: dict[str, Counter[str]] = {"exact": Counter(), "normalised": Counter()}
    same_prompt = 0
    for example in tested:
        same_prompt += example.prompt in prompts
        for name, text in example.fields:
            # Fields without overlap are listed too, with a zero.
            shared["exact"][name] += text in exact[name]
            shared["normalised"][name] += normalised(text) in folded[name]
    return {"prompts": same_prompt, **{how: dict(counts) for how, counts in shared.items()}}


def repeats(examples: Iterable[Example]) -> dict[str, int]:
    """Count duplicate questions.

    Returns:
        ``repeated``: examples after the first with the same texts and choices; ``conflicting``: questions
        that occur more than once with different correct answers.
    """
    answers: dict[tuple[object, ...], list[tuple[str, ...]]] = defaultdict(list)
    for example in examples:
        question = example.fields or (("prompt", example.prompt),)
        answers[question, example.choices].append(example.answers)
    groups = [golds for golds in answers.values() if len(golds) > 1]
    return {
        "repeated": sum(len(golds) - 1 for golds in groups),
        "conflicting": sum(len(set(golds)) > 1 for golds in groups),
    }


def normalised(text: str) -> str:
    """Letters and digits only, case-folded, words separated by one space."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    # Marks stay: in many scripts they are the vowels.
    letters = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    return " ".join(letters.split())
