"""Comparing short texts in any script: what counts as the same answer."""

import re
import unicodedata
from functools import lru_cache

_SPACE = re.compile(r"\s+")
# Turkish and Azerbaijani have two letters i; Unicode's default folding maps the capitals to the wrong one.
_DOTTED_I = str.maketrans({"İ": "i", "I": "ı"})
_DOTTED_I_LANGUAGES = frozenset({"tr", "az"})
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼʹ′`´＇", "'"))


def fold(text: str, language: str = "") -> str:
    """Canonical, caseless form (Unicode chapter 3.13, D145), composed, with runs of white space made one.

    The language's canonical code matters where upper case maps differently (Turkish, Azerbaijani).
    """
    if language in _DOTTED_I_LANGUAGES:
        text = unicodedata.normalize("NFC", text).translate(_DOTTED_I)
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFC", _SPACE.sub(" ", text).strip())


@lru_cache(1 << 15)  # a study's runs compare with the same answers
def normalise_number_words(text: str, language: str = "") -> str:
    """Letters and marks of a number written out, with everything that only spells it prettily removed.

    Style guides of one language disagree on spaces, hyphens and commas inside a number ("ikibin" and "iki
    bin", "vingt et un" and "vingt-et-un"), so white space, hyphens, commas, full stops and invisible joiners
    are dropped; apostrophes are part of words (Ukrainian) and are only made alike. A text without any word
    gives the empty string.
    """
    folded = fold(text, language).translate(_APOSTROPHES)
    letters = "".join(char for char in folded if char == "'" or not _is_spelling_only(char))
    punctuation = "".join(char for char in letters if unicodedata.category(char)[0] == "P")
    return unicodedata.normalize("NFC", letters.strip(punctuation))


def _is_spelling_only(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Pd", "Po", "Cf"}
