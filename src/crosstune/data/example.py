"""An example of a task; the order in which a source's examples are taken, and the fingerprint of a set."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "dev", "test"]

MOST_ANSWER_TOKENS = 100_000
"""Of a written answer: more is a slip of the hand, and takes days."""
MOST_CHOICES = 10_000
"""Of one example, as above."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the texts that are searched, or a question that they are searched for."""

    id: str  # without spaces
    language: str  # canonical code; a part of a method that is one language's is active for it
    text: str  # its text


@dataclass(frozen=True, slots=True)
class Example:
    """One question, its prompt already written out."""

    id: str  # the same in every language where the task is parallel
    language: str  # canonical code of the language table (`crosstune.languages`)
    prompt: str  # text that ends where the answer starts, without trailing space ("...\nTopic:")
    answers: tuple[str, ...]  # acceptable answers without leading space; the first is the one training writes
    # What is scored, for a choice task (each without leading space); empty for a free answer.
    choices: tuple[str, ...] = ()
    # The dataset's own texts by name, such as ("premise", "..."): what overlap with training data and
    # repeated questions are looked for in.
    fields: tuple[tuple[str, str], ...] = ()
    # What it shares with examples that are not independent of it, such as a key of its passage; empty where
    # it stands alone. Tests of significance need it; it decides nothing in a run.
    cluster: str = field(default="", compare=False)
    # Of the first answer, if it is a part of the field ``context``: its first character there, and the one
    # behind its last.
    span: tuple[int, int] | None = field(default=None, compare=False)

    @property
    def gold(self) -> int:
        """Index of the right choice."""
        return self.choices.index(self.answers[0])


def fair_order(key: str) -> bytes:
    """Sort key that shuffles by content: the same in every language, process and machine.

    Files are often sorted by label; in this order the first n examples of a split are a fair sample of it.
    """
    return hashlib.sha256(key.encode()).digest()


def passage_key(text: str) -> str:
    """A short name for a passage: the same for the same text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 (first 16 hex digits) over everything in the examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        texts = (example.id, example.language, example.prompt, *example.answers, "\x1e", *example.choices)
        digest.update("\x1f".join(texts).encode())
        digest.update(b"\x1d")
    return digest.hexdigest()[:16]
