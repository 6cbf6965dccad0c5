"""Overlap between training and test data, and duplicates within a split, counted over the datasets' texts.

Comparing prompts is not enough: the same paragraph with another question is a leak too. So every field of an
example (premise, context, question, ...) is compared separately, unchanged and normalised.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from crosstune.data.example import Example

LONG = 20
"""Characters of a text that cannot stand in another by chance."""


def overlap(train: Sequence[Example], tested: Iterable[Example]) -> dict[str, Any]:
    """Count test examples that share a text with the training data.

    Returns:
        ``prompts``: number with a prompt of the training data; ``exact`` and ``normalised``: by field, number
        whose text is in the same field there (normalised: without case, punctuation, spaces and
        compatibility forms).
    """
    prompts = {example.prompt for example in train}
    exact = {field for example in train for field in example.fields}
    folded = {(name, normalised(text)) for name, text in exact}
    same_exact, same_folded = Counter[str](), Counter[str]()
    same_prompt = 0
    for example in tested:
        same_prompt += example.prompt in prompts
        for name, text in example.fields:
            # Fields without overlap are listed too, with a zero.
            same_exact[name] += (name, text) in exact
            same_folded[name] += (name, normalised(text)) in folded
    return {"prompts": same_prompt, "exact": dict(same_exact), "normalised": dict(same_folded)}


def in_text(lines: Iterable[str], tested: Iterable[Example]) -> tuple[int, int]:
    """Count test examples of which a text of `LONG` characters or more stands in unlabelled text.

    Both normalised. Shorter texts, such as a name or a number, say nothing wherever they stand.

    Returns:
        How many do, and how many have a text of that length.
    """
    whole = f" {' '.join(map(normalised, lines))} "
    count = compared = 0
    for example in tested:
        texts = [text for _, field in example.fields if len(text := normalised(field)) >= LONG]
        compared += bool(texts)
        count += any(f" {text} " in whole for text in texts)
    return count, compared


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
    return {
        "repeated": sum(len(golds) - 1 for golds in answers.values()),
        "conflicting": sum(len(set(golds)) > 1 for golds in answers.values()),
    }


def normalised(text: str) -> str:
    """Letters and digits only, case-folded, words separated by one space."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.translate(_LETTERS).split())


class _Letters(dict[int, int]):
    """Of each character the letter, mark or digit that it is, or a space; filled as characters are met.

    Marks stay: in many scripts they are the vowels.
    """

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else ord(" ")
        return self[code]


_LETTERS = _Letters()
