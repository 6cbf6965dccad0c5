"""What training and test data share, and what a set repeats: counted over the datasets' own texts.

Prompts alone do not tell: the same paragraph under another question is a leak too. So every field of an
example (premise, context, question, ...) is looked up on its own, as it stands and normalised.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from crosstune.data.example import Example


def overlap(train: Sequence[Example], tested: Iterable[Example]) -> dict[str, Any]:
    """Test examples that share a text with training data.

    Returns:
        ``prompts``: how many have a prompt of the training data; ``exact`` and ``normalised``: by field, how
        many have its text in the same field there (normalised: case, punctuation, spaces and compatibility
        forms aside).
    """
    prompts = {example.prompt for example in train}
    exact = {field for example in train for field in example.fields}
    folded = {(name, normalised(text)) for name, text in exact}
    same_exact, same_folded = Counter[str](), Counter[str]()
    same_prompt = 0
    for example in tested:
        same_prompt += example.prompt in prompts
        for name, text in example.fields:
            # Zeros are counted as well: a field that was looked at and shares nothing is a finding.
            same_exact[name] += (name, text) in exact
            same_folded[name] += (name, normalised(text)) in folded
    return {"prompts": same_prompt, "exact": dict(same_exact), "normalised": dict(same_folded)}


def repeats(examples: Iterable[Example]) -> dict[str, int]:
    """Examples that ask what another one has asked already.

    Returns:
        ``repeated``: examples beyond the first with the same texts and choices; ``conflicting``: questions
        that are asked more than once with different right answers.
    """
    answers: dict[tuple[object, ...], list[tuple[str, ...]]] = defaultdict(list)
    for example in examples:
        question = example.fields or (("prompt", example.prompt),)
        answers[question, example.choices].append(example.answers)
    return {
        "repeated": sum(len(some) - 1 for some in answers.values()),
        "conflicting": sum(len(set(some)) > 1 for some in answers.values()),
    }


def normalised(text: str) -> str:
    """Letters and digits only, in folded case, words parted by one space."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    # Marks are kept: in many scripts they are the vowels.
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    return " ".join(kept.split())
