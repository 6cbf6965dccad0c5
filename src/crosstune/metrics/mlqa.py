"""Exact match and F1 that know the language: MLQA's (Lewis et al. 2020; mlqa_evaluation_v1.py), extended.

In MLQA's seven languages the scores equal the published script's, oddities included: Arabic loses every "ال",
in the middle of a word too, and Chinese is cut into characters from U+4E00 to U+9FA5 only. The script refuses
every other language. There we follow its order (lower case, punctuation, articles, tokens) with these rules:

* Each character of a script written without spaces between words is a token, with the marks that follow it.
  This goes by the character, not by the language: Japanese, Thai, Lao, Burmese, Khmer, Tibetan, Cantonese.
  Digits of these scripts stay together, as do runs of all other characters between white space.
* Articles that are words of their own are dropped in French, Greek, Italian, Romanian, Portuguese, Dutch,
  Hungarian and Catalan. An elided one (l'eau, un'ora) is dropped before its apostrophe is.
* Everywhere else there are no articles to drop: the language has none (Russian, Turkish, Korean), or writes
  them as part of the word (Hebrew, the Romanian -ul).
"""

import re
import string
import unicodedata
from collections.abc import Sequence

from crosstune.files import table_beside
from crosstune.metrics.squad import best, token_f1

OFFICIAL_LANGUAGES = frozenset({"ar", "de", "en", "es", "hi", "vi", "zh"})

_ARTICLE = {
    code: re.compile(rf"\b(?:{words.replace(' ', '|')})\b")
    for code, words in table_beside(__file__, "words.toml")["articles"].items()
}
_ARTICLE["ar"] = re.compile("ال")
_ELIDED = {"ca": re.compile(r"\bl['’]"), "fr": re.compile(r"\bl['’]"), "it": re.compile(r"\b(?:l|un)['’]")}

_MLQA_HAN = re.compile("([\u4e00-\u9fa5])")
# Blocks of scripts without spaces between words, their digits left out.
_UNSPACED = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Kana
    "\u0e00-\u0e4f\u0e5a-\u0ecf\u0eda-\u0f1f\u0f2a-\u0fff"  # Thai, Lao, Tibetan
    "\u1000-\u103f\u104a-\u108f\u109a-\u109f\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17df\u17ea-\u17ff"  # Khmer
)
_UNSPACED_CHARACTER = re.compile(f"([{_UNSPACED}])")


def normalise(text: str, language: str) -> str:
    """The tokens of an answer or a gold, joined by single spaces; ``zh-Hant`` is read as ``zh``."""
    return " ".join(_tokens(text, language))


def exact_match(answer: str, golds: Sequence[str], language: str) -> float:
    """`squad.exact_match` of tokens in the language, a canonical code."""
    tokens = _tokens(answer, language)
    return best(golds, lambda gold: float(tokens == _tokens(gold, language)))


def f1(answer: str, golds: Sequence[str], language: str) -> float:
    """`squad.f1` of tokens in the language, a canonical code."""
    tokens = _tokens(answer, language)
    return best(golds, lambda gold: token_f1(tokens, _tokens(gold, language)))


def _tokens(text: str, language: str) -> list[str]:
    code = language.partition("-")[0]
    text = text.lower()
    if code in _ELIDED:
        text = _ELIDED[code].sub(" ", text)
    text = "".join(c for c in text if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    if code in _ARTICLE:
        text = _ARTICLE[code].sub(" ", text)
    if code == "zh":
        text = _MLQA_HAN.sub(r" \1 ", text)
    elif code not in OFFICIAL_LANGUAGES:
        text = _space_out(text)
    return text.split()


def _space_out(text: str) -> str:
    """White space around each character of an unspaced script, the marks on it kept with it.

    A zero-width space, which some writers set between Thai, Khmer or Burmese words, counts as a space.
    """
    spaced: list[str] = []
    inside = False
    for char in text.replace("\u200b", " "):
        mark = unicodedata.category(char)[0] == "M"
        unspaced = _UNSPACED_CHARACTER.match(char) is not None
        if not mark:
            spaced.append(" " if inside or unspaced else "")
            inside = unspaced
        spaced.append(char)
    return "".join(spaced)
