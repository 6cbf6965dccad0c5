"""Which of two numbers is larger? Examples that are made, not read. Explained in docs/custom-tasks.md."""

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
PLACES: Mapping[Split, slice] = {"train": slice(200), "dev": slice(200, 240), "test": slice(240, 300)}


class LargerNumber(Task):
    """Two numbers below 1000; the same pairs in every language, and none of them in two splits."""

    name = "larger-number"
    version = 1
    kind: ClassVar[Kind] = "choice"
    metrics = ("accuracy",)
    summary = "the larger of two numbers"
    split_names: ClassVar[dict[Split, str]] = {"train": "made", "dev": "made", "test": "made"}

    def languages(self) -> list[str]:
        """Those that have a question, English first."""
        return list(QUESTIONS)

    def examples(self, split: Split, language: str) -> list[Example]:
        """The split's pairs, asked in one language."""
        if language not in QUESTIONS:
            raise UserError(f'task {self.name} has no "{language}", only {", ".join(QUESTIONS)}')
        made = []
        for drawn in random.Random(0).sample(range(1000 * 999), 300)[PLACES[split]]:
            first, ahead = divmod(drawn, 999)
            second = (first + 1 + ahead) % 1000  # never the same number
            choices = (str(first), str(second))
            prompt = render(QUESTIONS[language], first=choices[0], second=choices[1])
            made.append(Example(f"{first}-{second}", language, prompt, (str(max(first, second)),), choices))
        return made

    def template(self, language: str) -> str | None:
        """The question with its places open."""
        return QUESTIONS.get(language)
