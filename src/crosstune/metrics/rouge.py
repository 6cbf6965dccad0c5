"""ROUGE-1, -2 and -L in any script, with the tokens of XL-Sum's evaluation.

Lin 2004; Hasan et al. 2021 (arXiv 2106.13822), ``multilingual_rouge_scoring``. The original tokenizer deletes
every letter beyond ASCII. XL-Sum's puts text in lower case, drops control characters, takes punctuation for
space, parts letters from digits and symbols, and makes each Han character a token. Its word segmenters of
Chinese, Japanese and Thai are other packages, and so not here: in scripts that set no space between words
each letter is a token, whatever the language, which scores higher than words would. Nothing is stemmed.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import regex  # type: ignore[import-untyped]

Tokenize = Callable[[str], list[str]]

ROUGE = ("rouge_l", "rouge_1", "rouge_2")

NO_SPACES = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
"""Scripts, by their Unicode names, whose words are not set off by space."""

_DROPPED = regex.compile(r"[\p{C}\ufffd--\t\n\r]+", flags=regex.VERSION1)
_BETWEEN = regex.compile(r"[\p{P}$+<=>^`|~\p{Z}\s]+")
_SINGLE = "".join(rf"\p{{scx={name}}}" for name in NO_SPACES)
_LETTERS = r"\p{L}\p{Nl}"
_TOKEN = regex.compile(
    # Marks stay with what they stand on.
    rf"[{_LETTERS}&&[{_SINGLE}]]\p{{M}}*|[{_LETTERS}--[{_SINGLE}]](?:[{_LETTERS}--[{_SINGLE}]]|\p{{M}})*"
    r"|\p{Nd}[\p{Nd}\p{M}]*|\S\p{M}*",
    flags=regex.VERSION1,
)


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers and symbols; of scripts without spaces (`NO_SPACES`) single letters."""
    words: list[str] = _TOKEN.findall(_BETWEEN.sub(" ", _DROPPED.sub("", text.lower())))
    return words


def rouge(answer: str, golds: Sequence[str], split: Tokenize = tokens) -> dict[str, float]:
    """F1 in [0, 1] of ``rouge_1`` and ``rouge_2`` (n-grams) and ``rouge_l`` (longest common subsequence).

    Each with the gold that gives most; 0.0 where nothing is shared.

    Raises:
        ValueError: ``golds`` is empty.
    """
    answer_tokens = split(answer)
    references = [split(gold) for gold in golds]
    scores = {f"rouge_{n}": max(_ngram_f1(answer_tokens, gold, n) for gold in references) for n in (1, 2)}
    longest = (_f1(_common(answer_tokens, gold), len(answer_tokens), len(gold)) for gold in references)
    return scores | {"rouge_l": max(longest)}


def _ngram_f1(answer: Sequence[str], gold: Sequence[str], n: int) -> float:
    counts = [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (answer, gold)]
    return _f1((counts[0] & counts[1]).total(), counts[0].total(), counts[1].total())


def _f1(shared: int, answer: int, gold: int) -> float:
    """Harmonic mean of precision and recall."""
    return 2 * shared / (answer + gold) if shared else 0.0


def _common(answer: Sequence[str], gold: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Bit i of ``row`` is unset where the length grows at the i-th token of ``answer`` (Hyyrö 2004).
    """
    places: dict[str, int] = {}
    for i, token in enumerate(answer):
        places[token] = places.get(token, 0) | 1 << i
    row = full = (1 << len(answer)) - 1
    for token in gold:
        match = row & places.get(token, 0)
        row = ((row + match) | (row - match)) & full
    return len(answer) - row.bit_count()
