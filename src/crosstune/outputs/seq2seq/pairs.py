"""Examples of an encoder-decoder: what is read, what the decoder starts with, and what it learns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.outputs.base import Output
from crosstune.outputs.rows import Rows, TrainingRow
from crosstune.outputs.seq2seq.language_tokens import LanguageTokens


@dataclass(frozen=True)
class Paired(Output):
    """A form of answer of an encoder-decoder."""

    @property
    def model(self) -> EncoderDecoder:
        """The model."""
        return cast(EncoderDecoder, self.lm)

    @cached_property
    def languages(self) -> LanguageTokens:
        """Which tokens of languages are used."""
        return LanguageTokens(self.model, self.settings)

    def check(self, languages: Iterable[str]) -> None:
        """Refuse languages that the model has no token for, before anything is trained."""
        self.languages.forced(languages)

    def sources(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of the prompts, in the tokens of their languages where the tokenizer has some."""
        by_token: dict[str | None, list[int]] = {}
        for i, example in enumerate(examples):
            by_token.setdefault(self.languages.source(example.language), []).append(i)
        sources: dict[int, list[int]] = {}
        for token, places in by_token.items():
            ids = self.lm.tokens.prompts([examples[i].prompt for i in places], token)
            sources |= dict(zip(places, ids, strict=True))
        if not all(sources.values()):
            raise UserError("an empty prompt, and the model's tokenizer adds nothing to it: nothing to read")
        return [sources[i] for i in range(len(examples))]

    def target(self, text: str) -> list[int]:
        """Token ids of an answer, one at least.

        Raises:
            UserError: It has none.
        """
        ids = self.lm.tokens.target(text)
        if not ids:
            raise UserError(f"{self.lm.name}: answer {text!r} has no tokens; give one with letters or digits")
        return ids

    def pair_rows(
        self, examples: Sequence[Example], learned: Callable[[Example], tuple[list[int], tuple[int, ...]]]
    ) -> Rows:
        """Rows of sources and answers, made when they are drawn; ``learned`` as of `answer_rows`."""

        def tokenise(drawn: Sequence[Example]) -> list[TrainingRow]:
            rows = []
            for source, example in zip(self.sources(drawn), drawn, strict=True):
                answer, choices = learned(example)
                start = self.languages.start(example.language)
                self.fits(len(start) + len(answer) - 1, f"{example.language} {example.id}")
                ids = (*start, *answer)
                rows.append(TrainingRow(ids, len(answer), choices, source=tuple(source)))
            return rows

        return Rows(examples, tokenise)

    def fits(self, length: int, what: str) -> None:
        """Refuse what the decoder would read beyond its last position.

        Raises:
            UserError: Positions are a table that ends before.
        """
        positions = self.model.decoder_positions
        if positions is not None and length > positions:
            raise UserError(
                f"{what}: an answer of {length} tokens, where the decoder of {self.lm.name} has "
                f"{positions} positions; shorten it, or lower evaluate.max_answer_tokens"
            )
