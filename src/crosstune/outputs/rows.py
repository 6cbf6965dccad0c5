"""Training examples as token ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from crosstune.data.example import Example
from crosstune.data.forms import Kind
from crosstune.errors import UserError
from crosstune.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Row:
    """One training example as token ids: prompt, then answer.

    Attributes:
        ids: Of both.
        answer: How many of the last are the answer.
        choices: Tokens that the answer's one token is chosen from; empty for the whole vocabulary.
    """

    ids: tuple[int, ...]
    answer: int
    choices: tuple[int, ...] = ()


class Rows(Sequence[Row]):
    """Training examples, tokenised when they are first drawn: of most training sets a run sees a small part.

    Args:
        examples: All that may be drawn.
        tokenise: Of some of them, together.
    """

    def __init__(
        self, examples: Sequence[Example], tokenise: Callable[[Sequence[Example]], list[Row]]
    ) -> None:
        self._examples, self._tokenise = examples, tokenise
        self._made: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        places = range(len(self))[index]
        return self.take([places])[0] if isinstance(places, int) else self.take(places)

    def take(self, places: Sequence[int]) -> list[Row]:
        """The rows at some places."""
        new = [i for i in dict.fromkeys(places) if i not in self._made]
        if new:
            rows = self._tokenise([self._examples[i] for i in new])
            self._made.update(zip(new, rows, strict=True))
        return [self._made[i] for i in places]


def tokenize(
    lm: LanguageModel,
    examples: Sequence[Example],
    kind: Kind,
    first_token: bool = False,
    among_choices: bool = False,
) -> Rows:
    """Token ids of training examples, made when they are drawn.

    A free answer ends in the end-of-text token, so that the model learns to stop.

    Args:
        lm: The model, for its tokenizer.
        examples: Training examples.
        kind: Of their task.
        first_token: Keep only the first token of each answer, when that is what evaluation compares.
        among_choices: Say as well which first tokens it is chosen from (``loss: choices``).

    Raises:
        UserError: ``among_choices`` with choices that start alike.
    """
    end = [] if kind == "choice" or lm.tokenizer.eos_token_id is None else [lm.tokenizer.eos_token_id]

    def first_tokens(choices: Sequence[str]) -> tuple[int, ...]:
        return tuple(lm.encode_answer(choice)[0] for choice in choices) if among_choices else ()

    for choices in {example.choices for example in examples} if among_choices else ():
        if len(set(first_tokens(choices))) < len(choices):
            raise UserError("loss: choices, but two labels start with the same token; use loss: answer")

    def some(drawn: Sequence[Example]) -> list[Row]:
        made = []
        for prompt, example in zip(lm.encode_prompts([e.prompt for e in drawn]), drawn, strict=True):
            answer = lm.encode_answer(example.answers[0]) + end
            if first_token:
                answer = answer[:1]
            made.append(Row((*prompt, *answer), len(answer), first_tokens(example.choices)))
        return made

    return Rows(examples, some)
