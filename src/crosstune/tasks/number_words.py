"""number-words: write a number in words, in the language the prompt is written in (text from num2words).

A generation task that needs no download. Tuned on English alone, models tend to write the right number in
English whatever the prompt's language; the metric ``in_english`` measures exactly that.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, ClassVar

from num2words import num2words  # type: ignore[import-untyped]
from pydantic import Field

from crosstune.data.example import Example, Split, fair_order
from crosstune.metrics.text import normalise_number_words
from crosstune.tasks.base import Task, TaskOptions
from crosstune.tasks.prompts import load_prompts, render

# Numbers of each length (digits) in test, dev and train; there are only 10 and 90 of the short ones.
SIZES: dict[int, tuple[int, int, int]] = {1: (4, 2, 4), 2: (26, 13, 51), 3: (70, 35, 600), 4: (100, 50, 1345)}


class NumberWordsOptions(TaskOptions):
    """Options of `number-words`.

    Attributes:
        largest: Leave out numbers above it, in training and testing; splits stay as they are.
    """

    largest: int = Field(default=9999, ge=99, le=9999)


class NumberWords(Task):
    """A number from 0 to 9999 in words. A number is in one split only, the same one in every language.

    Metrics:
        exact: Equal to an accepted form, spelling conventions aside (`normalise_number_words`).
        in_english: The right number written in English instead, where that is not also right in the
            prompt's language ("zero" is Polish too). Always 0 for English itself.
    """

    name = "number-words"
    version = 1
    kind = "generation"
    metrics = ("exact", "in_english")
    summary = "a number in words, in the prompt's language"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "up to 2000 numbers",
        "dev": "up to 100 other numbers",
        "test": "up to 200 other numbers",
    }
    Options = NumberWordsOptions
    options: NumberWordsOptions
    max_answer_tokens = 64

    @property
    def licences(self) -> Mapping[str, str]:
        """That of the library that writes the numbers."""
        return {"num2words": "LGPL 2.1"}

    def languages(self) -> list[str]:
        """Canonical codes of the languages num2words writes well, English first, then by code."""
        return sorted(_languages(), key=lambda code: (code != self.source_language, code))

    def examples(self, split: Split, language: str) -> list[Example]:
        """The split's numbers, as a prompt in ``language`` with all accepted answers."""
        prompt, largest = self.template(language), self.options.largest
        return [
            Example(str(n), language, render(prompt, number=str(n)), number_in_words(n, language))
            for n in _splits()[split]
            if n <= largest
        ]

    def template(self, language: str) -> str:
        """The language's own prompt."""
        if language not in _languages():
            raise self.missing(language, self.languages())
        return str(_languages()[language]["prompt"])

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """`exact` and `in_english` of one answer."""
        exact = _matches(answer, example.answers, example.language)
        english = not exact and _matches(answer, number_in_words(int(example.id), self.source_language), "en")
        return {
            "exact": float(exact),
            "in_english": float(english and example.language != self.source_language),
        }


@lru_cache(1 << 15)
def number_in_words(number: int, language: str) -> tuple[str, ...]:
    """Accepted ways to write a number from 0 to 9999 in one of the task's languages, the usual one first."""
    entry = _languages()[language]
    forms: list[str] = []
    for converter in (entry.get("converter", language), *entry.get("also", ())):
        text = num2words(number, lang=converter)
        for pattern, replacement in entry.get("repairs", ()):
            text = re.sub(pattern, replacement, text)
        forms.append(text)
    for pattern, replacement in entry.get("variants", ()):
        forms.extend([re.sub(pattern, replacement, form) for form in forms])
    for latin, letter in entry.get("letters", {}).items():
        forms = [form.replace(latin, letter) for form in forms]
    return tuple(dict.fromkeys(forms))


def _matches(answer: str, accepted: tuple[str, ...], language: str) -> bool:
    normalised = normalise_number_words(answer, language)
    return normalised != "" and any(normalised == normalise_number_words(form, language) for form in accepted)


def _languages() -> dict[str, dict[str, Any]]:
    """What the prompt file says of each language, by canonical code."""
    languages: dict[str, dict[str, Any]] = load_prompts("number_words")["languages"]
    return languages


@cache
def _splits() -> dict[Split, list[int]]:
    """The numbers of each split, lengths mixed, in an order that depends on the numbers alone."""
    splits: dict[Split, list[int]] = {"test": [], "dev": [], "train": []}
    for digits, (test, dev, train) in SIZES.items():
        first = 10 ** (digits - 1) if digits > 1 else 0
        numbers = sorted(range(first, 10**digits), key=lambda n: fair_order(f"split:{n}"))
        splits["test"] += numbers[:test]
        splits["dev"] += numbers[test : test + dev]
        splits["train"] += numbers[test + dev : test + dev + train]
    for chosen in splits.values():
        chosen.sort(key=lambda n: fair_order(f"order:{n}"))
    return splits
