"""Which of two numbers is larger? Generated examples. Explained in docs/custom-tasks.md."""

import random
from collections.abc import Mapping
from typing import ClassVar

from crosstune.errors import UserError
from crosstune.tasks.base import Example, Kind, Split, Task
from crosstune.tasks.prompts import render

QUESTIONS = {
    "en": "Which number is larger, {first} or {second}?\nThe larger one is",
    "de": "Welche Zahl ist größer, {first} oder {second}?\nGrößer ist",
    "es": "¿Qué número es mayor, {first} o {second}?\nEl mayor es",
}
PAIRS: Mapping[Split, slice] = {"train": slice(200), "dev": slice(200, 240), "test": slice(240, 300)}


class LargerNumber(Task):
    """Two numbers below 1000; the same pairs in every language, and no pair in two splits."""

    name = "larger-number"
    version = 1
    kind: ClassVar[Kind] = "choice"
    metrics = ("accuracy",)
    summary = "the larger of two numbers"
    split_names: ClassVar[dict[Split, str]] = {"train": "generated", "dev": "generated", "test": "generated"}

    def languages(self) -> list[str]:
        """Those that have a question, English first."""
        return list(QUESTIONS)

    def examples(self, split: Split, language: str) -> list[Example]:
        """The pairs of a split, asked in one language."""
        if language not in QUESTIONS:
            raise UserError(f'task {self.name} has no "{language}", only {", ".join(QUESTIONS)}')
        examples = []
        for pair in random.Random(0).sample(range(1000 * 999), 300)[PAIRS[split]]:
            first, offset = divmod(pair, 999)
            second = (first + 1 + offset) % 1000  # never equal to the first
            choices = (str(first), str(second))
            answer = str(max(first, second))
            prompt = render(QUESTIONS[language], first=choices[0], second=choices[1])
            examples.append(Example(f"{first}-{second}", language, prompt, (answer,), choices))
        return examples

    def template(self, language: str) -> str | None:
        """The question with its placeholders."""
        return QUESTIONS.get(language)
