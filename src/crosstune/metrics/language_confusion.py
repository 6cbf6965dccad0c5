"""Line and word pass rate of the Language Confusion Benchmark (Marchisio et al. 2024, arXiv 2406.20052).

An answer passes by lines if each of its lines of five words or more is in the language asked for (LPR is the
share of answers that do), and then by words if no word of it is an English one (WPR; only in languages of
other scripts). Both are null, and left out of the rates, where there is nothing to judge.

Differences from the published script: lines are identified by `crosstune.metrics.language_id` and not by
fastText, so that a pair of languages it cannot tell apart has no rate, and a code-switched line fails;
Chinese and Japanese lines count by letters and not by a segmenter's words; and without a list of English
words every word of more than three lower-case letters a to z is taken for one, a lower bound.
"""

import re
import string
from collections.abc import Collection

from crosstune.languages import find
from crosstune.metrics.language_id import identify, measurable

MIN_WORDS = 5
# Of scripts without spaces; two letters make a word, about.
MIN_LETTERS = 10
WORD_PASS = ("ar", "hi", "ja", "ko", "ru", "zh")
"""Languages that have a word pass rate: in Latin script names and loans look English."""

_REMOVED = str.maketrans({**dict.fromkeys(f"{string.punctuation}،"), "—": " "})
_UNSPACED = frozenset({"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr"})
_LATIN_RUN = re.compile(r"[A-Za-z]+")


def passes(
    answer: str, target: str, source: str, english: Collection[str] | None = None
) -> tuple[float | None, float | None]:
    """Whether an answer passes by lines, and by words: 1.0 or 0.0, null where that is not asked.

    Args:
        answer: As written.
        target: Code of the language asked for.
        source: Code of the language that a model was tuned on, which lines are told from.
        english: Words in lower case; None takes any of more than three letters.

    Raises:
        UserError: Unknown code.
    """
    row = find(target)
    unspaced = row.script in _UNSPACED
    text = answer.split("\nQ:", maxsplit=1)[0].strip().translate(_REMOVED)
    lines = [line for line in text.split("\n") if _long_enough(line, unspaced)]
    if not lines or not measurable(target, source):
        return None, None
    if any(identify(line, target, source) != row.code for line in lines):
        return 0.0, None
    if row.code not in WORD_PASS:
        return 1.0, None
    words = [word for line in lines for word in (_LATIN_RUN.findall(line) if unspaced else line.split())]
    return 1.0, float(not any(_is_english(word, english) for word in words))


def _long_enough(line: str, unspaced: bool) -> bool:
    if unspaced:
        return sum(map(str.isalpha, line)) >= MIN_LETTERS
    return len(line.split()) >= MIN_WORDS


def _is_english(word: str, english: Collection[str] | None) -> bool:
    if len(word) <= 3 or not word.islower():
        return False
    return word in english if english is not None else word.isascii() and word.isalpha()
