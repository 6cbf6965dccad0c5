"""Prompts and answers as token ids, tokenised once."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from crosstune.errors import UserError, first_line

TOKENS_KEPT = 20_000_000
"""Tokens of prompts that are kept to be used again: 80 MB."""


ONE_DATE = """
{%- macro strftime_now(format) -%}
{{ '2024-07-26' if format == '%Y-%m-%d' else '26 Jul 2024' }}
{%- endmacro -%}
"""
"""In front of a chat template that writes the day's date, which is then always Llama 3's default: else a
prompt would be another every day, and so would what is made of it."""

OPEN, CLOSE = "<think>", "</think>"
"""What a thought stands between, in the templates of Qwen, DeepSeek, SmolLM and others."""


class Tokens:
    """A tokenizer of Hugging Face and the ids it gave, for an embedding of so many rows.

    ``ends`` are the token ids that end a text. Those that the tokenizer's post-processor puts behind every
    text are cut off (``closed_by`` of them): a causal model that goes on behind one takes the text for
    finished. None for a model that reads closed texts.
    """

    def __init__(self, tokenizer: Any, rows: int, ends: Iterable[int] | None) -> None:
        self._tokenizer, self._rows = tokenizer, rows
        self.closed_by = 0 if ends is None else _closing(tokenizer, ends)
        self._prompts: dict[bytes, array[int]] = {}
        self._kept = 0
        self._answers: dict[str, list[int]] = {}
        self._targets: dict[str, list[int]] = {}
        self._chat: tuple[str | None] | None = None  # its system prompt, where prompts are turns of a chat
        self._earlier: list[dict[str, str]] = []  # turns in front of each prompt's

    def as_chat(self, template: bool | Literal["auto"], system: str | None = None) -> None:
        """From now on every prompt is a user's turn in the tokenizer's chat template, or stands as it is.

        Args:
            template: "auto" for true where the tokenizer has a template.
            system: What the system's turn says; there is none without it.

        Raises:
            UserError: There is no template, or it has no place for a system's turn.
        """
        has_template = bool(getattr(self._tokenizer, "chat_template", None))
        if template is True and not has_template:
            raise UserError("the model's tokenizer has no chat template; set chat_template: auto or false")
        chat = (system,) if template and has_template else None
        if chat != self._chat:
            self.forget()
            self._answers.clear()
            self._chat = chat
            self.as_read("")

    @contextmanager
    def behind(self, answered: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Inside, questions and their answers are turns of the chat in front of every prompt."""
        assert self._chat is not None
        self._earlier = [
            {"role": role, "content": text}
            for pair in answered
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        self.forget()
        try:
            yield
        finally:
            self._earlier = []
            self.forget()

    @property
    def in_chat(self) -> bool:
        """Whether prompts are turns of a chat."""
        return self._chat is not None

    def as_read(self, text: str) -> str:
        """A prompt as the model reads it: inside the chat template, up to where its answer starts."""
        return self._shown(text, self._earlier)

    def _shown(self, text: str, earlier: Sequence[dict[str, str]]) -> str:
        if self._chat is None:
            return text
        (system,) = self._chat
        turns = [*earlier, {"role": "user", "content": text}]
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        try:
            template: str = self._tokenizer.get_chat_template()
            shown: str = self._tokenizer.apply_chat_template(
                turns,
                chat_template=ONE_DATE + template if "strftime_now" in template else template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        except Exception as error:  # jinja's, and whatever a template raises
            raise UserError(f"the chat template cannot be used: {first_line(error)}") from error
        # Left open, it would be in this thought that training puts the answers, and choices are compared.
        bare = shown.rstrip()
        return f"{bare}\n\n{CLOSE}\n\n" if bare.endswith(OPEN) else shown

    def prompts(self, texts: Sequence[str], language: str | None = None) -> list[list[int]]:
        """Token ids of whole prompts, with the beginning-of-text token where the model has one.

        ``language`` is the token of their language, which some tokenizers put around a text.

        They are kept, so that a study's runs tokenise a prompt once; new ones go to the tokenizer together,
        which takes all cores for them.

        Raises:
            UserError: A text with a token that the embedding has no row for.
        """
        if language is not None:
            self._tokenizer.src_lang = language
        person = (language or "").encode()[:16]
        keys = [hashlib.blake2b(text.encode(), digest_size=16, person=person).digest() for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._prompts}
        if new:
            # A template writes the special tokens itself.
            inside, shown = self._chat is not None, [self.as_read(text) for text in new.values()]
            encoded = self._tokenizer(shown, **({"add_special_tokens": False} if inside else {}))["input_ids"]
            behind = 0 if inside else self.closed_by
            ids_of = {key: ids[: len(ids) - behind] for key, ids in zip(new, encoded, strict=True)}
            for key, ids in ids_of.items():
                self._check(ids, new[key])
            if self._kept > TOKENS_KEPT:
                return [list(self._prompts.get(key) or ids_of[key]) for key in keys]
            self._prompts.update({key: array("i", ids) for key, ids in ids_of.items()})
            self._kept += sum(map(len, ids_of.values()))
        return [list(self._prompts[key]) for key in keys]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Token ids of two texts each, with what the tokenizer puts between and around them.

        Raises:
            UserError: As of `prompts`.
        """
        encoded = self._tokenizer([first for first, _ in pairs], [second for _, second in pairs])["input_ids"]
        rows = [list(ids[: len(ids) - self.closed_by]) for ids in encoded]
        for ids, pair in zip(rows, pairs, strict=True):
            self._check(ids, " ".join(pair))
        return rows

    def answer(self, text: str) -> list[int]:
        """Token ids of ``" " + text`` as they follow a prompt that ends in a colon; in a chat, of the text.

        Taken behind a colon and not alone, because some tokenizers put a space of their own in
        front of a text; and always the same ids, whatever the prompt, so that prompts and answers
        can be tokenised once each.

        Raises:
            UserError: As of `prompts`.
        """
        if text not in self._answers:
            encode, space = self._tokenizer.encode, " " if self._chat is None else ""
            before = self._shown(":", ())
            stem = encode(before, add_special_tokens=False)
            whole = encode(f"{before}{space}{text}", add_special_tokens=False)
            if whole[: len(stem)] != stem:
                whole, stem = encode(f"{space}{text}", add_special_tokens=False), []
            self._check(whole, text)
            self._answers[text] = whole[len(stem) :]
        return self._answers[text]

    def target(self, text: str) -> list[int]:
        """Token ids of a whole text that a decoder writes, without any special ones.

        Raises:
            UserError: As of `prompts`.
        """
        if text not in self._targets:
            ids = self._tokenizer(text_target=text, add_special_tokens=False)["input_ids"]
            self._check(ids, text)
            self._targets[text] = list(ids)
        return self._targets[text]

    def forget(self) -> None:
        """Tokenise every prompt anew."""
        self._prompts.clear()
        self._kept = 0

    @property
    def remarks(self) -> list[str]:
        """What a person should know of the tokenizer before any result: a line each, most often none."""
        lines = []
        if self.closed_by:
            lines.append("its tokenizer closes texts with end-of-text; this is left out behind prompts")
        if drops_line_breaks(self._tokenizer):
            lines.append("its tokenizer drops line breaks: no stop string with one can end an answer")
        if (size := len(self._tokenizer)) > self._rows:
            lines.append(
                f"its tokenizer has {size:,} tokens and the embedding {self._rows:,} rows: texts with a "
                "token beyond are refused"
            )
        return lines

    def _check(self, ids: Sequence[int], text: str) -> None:
        if ids and (highest := max(ids)) >= self._rows:
            token = self._tokenizer.convert_ids_to_tokens(highest)
            raise UserError(
                f"token {highest} ({token!r}) is beyond the embedding's {self._rows:,} rows, in "
                f"{text[:60]!r}; take it out of the text, or choose another model"
            )


def drops_line_breaks(tokenizer: Any) -> bool:
    """Whether no text that it decodes holds a line break, so that none can end an answer."""
    ids = tokenizer.encode("a\nb", add_special_tokens=False)
    return "\n" not in tokenizer.decode(ids, skip_special_tokens=True)


def _closing(tokenizer: Any, ends: Iterable[int]) -> int:
    """How many of these tokens its post-processor puts behind every text."""
    text = tokenizer.encode(":", add_special_tokens=False)
    whole = tokenizer.encode(":")
    starts = [at for at in range(len(whole) - len(text) + 1) if whole[at : at + len(text)] == text]
    behind = whole[starts[0] + len(text) :] if starts else []
    return len(behind) if set(behind) <= set(ends) else 0
