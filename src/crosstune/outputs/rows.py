"""Training examples as token ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from crosstune.data.example import Example
from crosstune.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Paired:
    """The text that a question is to find among those of its batch."""

    ids: tuple[int, ...]
    places: tuple[int, ...]  # whose mean state is its vector
    symmetric: bool = False  # whether the question is to be found for the text too


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One training example as token ids: a prompt and then an answer, or a whole text with its labels."""

    ids: tuple[int, ...]  # of all; of an encoder-decoder, of what its decoder reads and learns
    answer: int = 0  # how many of the last are the answer, each predicted by the token before it
    # Tokens that the answer's one token is chosen from; empty for the whole vocabulary.
    choices: tuple[int, ...] = ()
    # Of a text that is read whole: places whose mean state is compared with a number, and that number: a
    # head's class, or a word's token.
    labels: tuple[tuple[tuple[int, ...], int], ...] = ()
    # Of an example whose choices are read one by one: a text of each, labelled 1 where it is right. A head's
    # scores of them are compared with each other; ``ids`` are those of all.
    choice_rows: tuple["TrainingRow", ...] = ()
    # Or places of the tokens that an answer starts and ends with, each chosen among all tokens.
    span: tuple[int, int] | None = None
    # What a question, whose places ``labels`` has, is compared with in place of a number.
    pair: Paired | None = None
    source: tuple[int, ...] = ()  # what an encoder reads before its decoder writes

    @property
    def text(self) -> tuple[int, ...]:
        """The tokens that are read: the last of an answer predicts nothing."""
        whole = self.labels or self.span or self.choice_rows
        return self.ids if whole else self.ids[:-1]

    @property
    def texts(self) -> tuple["TrainingRow", ...]:
        """The rows that are read, each by itself."""
        return self.choice_rows or (self,)

    @property
    def size(self) -> int:
        """How many tokens go through the model."""
        return len(self.ids) + len(self.source)

    @property
    def learned(self) -> int:
        """How many numbers are compared."""
        one = self.span is not None or bool(self.choice_rows)
        return len(self.labels) or (1 if one else self.answer)


def reads_pairs(lm: LanguageModel) -> bool:
    """Whether the model's head gives one score, of a prompt with one of its choices."""
    out: Any = None if lm.head is None else lm.head.get_submodule("out")
    return out is not None and out.out_features == 1


class Rows(Sequence[TrainingRow]):
    """Training examples, tokenised when they are first drawn: a run sees few of most sets."""

    def __init__(
        self, examples: Sequence[Any], tokenise: Callable[[Sequence[Any]], list[TrainingRow]]
    ) -> None:
        self._examples, self._tokenise = examples, tokenise
        self._rows: dict[int, TrainingRow] = {}

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> TrainingRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[TrainingRow]: ...

    def __getitem__(self, index: int | slice) -> TrainingRow | list[TrainingRow]:
        places = range(len(self))[index]
        return self.take([places])[0] if isinstance(places, int) else self.take(places)

    def take(self, places: Sequence[int]) -> list[TrainingRow]:
        """The rows at some places."""
        new = [i for i in dict.fromkeys(places) if i not in self._rows]
        if new:
            rows = self._tokenise([self._examples[i] for i in new])
            self._rows.update(zip(new, rows, strict=True))
        return [self._rows[i] for i in places]


def answer_rows(
    lm: LanguageModel,
    examples: Sequence[Example],
    learned: Callable[[Example], tuple[list[int], tuple[int, ...]]],
) -> Rows:
    """Rows of prompts and answers, made when they are drawn.

    ``learned`` gives the token ids of an example's answer, and those it is chosen from (none: all).
    """

    def tokenise(drawn: Sequence[Example]) -> list[TrainingRow]:
        rows = []
        for prompt, example in zip(lm.tokens.prompts([e.prompt for e in drawn]), drawn, strict=True):
            answer, choices = learned(example)
            rows.append(TrainingRow((*prompt, *answer), len(answer), choices))
        return rows

    return Rows(examples, tokenise)
