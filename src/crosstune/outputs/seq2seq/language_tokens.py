"""Tokens of languages: mBART's ``de_DE``, NLLB's ``deu_Latn``, M2M100's ``__de__``.

A translation model writes the language whose token it is started with, and without one whatever it likes:
zero-shot generation then fails for a reason that has nothing to do with transfer. So the token of an
example's language is forced behind the one that starts every answer (alone, of mBART-cc25), in training and
in evaluation, and stands around the source where the tokenizer puts one there.
``evaluate.target_language_token`` switches it off, or names the token that stands in for languages the model
has none for.
"""

import re
from collections.abc import Iterable
from functools import cached_property

from crosstune.errors import UserError, did_you_mean
from crosstune.languages.table import lookup
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.outputs.settings import EvaluateSettings

SCHEMES = {
    "eng_Latn": re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),
    "en_XX": re.compile(r"([a-z]{2})_[A-Z]{2}"),
    "__en__": re.compile(r"__([a-z]{2,3})__"),
}
"""By the token for English, which tells that a tokenizer has them: what in a token is the language's code."""


class LanguageTokens:
    """Of one model, as an evaluation's settings have them used."""

    def __init__(self, lm: EncoderDecoder, settings: EvaluateSettings) -> None:
        self._lm, self._wanted = lm, settings.target_language_token

    @cached_property
    def known(self) -> dict[str, str]:
        """Tokens of the model by the language's code in `crosstune.languages`; empty where it has none."""
        added = self._lm.tokenizer.get_added_vocab()
        scheme = next((pattern for english, pattern in SCHEMES.items() if english in added), None)
        known: dict[str, str] = {}
        for token in sorted(added, key=added.__getitem__) if scheme is not None else ():
            match = scheme.fullmatch(token)  # type: ignore[union-attr]
            if match is not None and (language := lookup(match[1])) is not None:
                known.setdefault(language.code, token)
        return known

    def target(self, language: str) -> str | None:
        """The token that answers in a language start with; None where none is forced.

        Raises:
            UserError: The model has none for it, and no other is to stand in.
        """
        if self._wanted is False:
            return None
        if not self.known:
            if self._wanted is None:
                return None
            raise UserError(
                f"{self._lm.name}: its tokenizer has no tokens of languages; take target_language_token out"
            )
        if (token := self.known.get(language)) is not None:
            return token
        if isinstance(self._wanted, str):
            if self._wanted not in (tokens := self.known.values()):
                raise UserError(
                    f"{self._lm.name}: target_language_token {self._wanted} is none of its tokens of "
                    f"languages{did_you_mean(self._wanted, tokens)}"
                )
            return self._wanted
        raise UserError(
            f"{self._lm.name} has no token for {language}: set evaluate.target_language_token to the one "
            f"that stands in, such as {self._default}, or to false; or leave the language out"
        )

    def source(self, language: str) -> str | None:
        """The token that stands around sources of a language; None where the tokenizer puts none there."""
        if not self.known or not hasattr(self._lm.tokenizer, "src_lang"):
            return None
        stands_in = self._wanted if isinstance(self._wanted, str) else self._default
        return self.known.get(language, stands_in)

    @cached_property
    def _default(self) -> str:
        return self.known.get("en") or next(iter(self.known.values()))

    def start(self, language: str) -> list[int]:
        """Token ids that answers in a language start with; without tokens of languages BART's ``<s>``."""
        if (token := self.target(language)) is None:
            first = None if self.known else self._lm.forced_id
            return [self._lm.start_id, *([] if first is None else [first])]
        number = self._lm.tokenizer.convert_tokens_to_ids(token)
        named = self._lm.decoder_start_id
        # mBART-cc25 was trained behind the language's token alone: its config names none, or a language's.
        if named is None or self._lm.tokenizer.convert_ids_to_tokens(named) in self.known.values():
            return [number]
        return [named, number]

    def forced(self, languages: Iterable[str]) -> dict[str, str]:
        """The tokens that are forced, by language.

        Raises:
            UserError: As of `target`.
        """
        tokens = {language: self.target(language) for language in languages}
        return {language: token for language, token in tokens.items() if token is not None}
