"""Number match of MGSM (Shi et al. 2022) and GSM8K (Cobbe et al. 2021): the same number, however written.

Which number. The one right after the language's answer words (`ANSWER_WORDS`), the English ones or GSM8K's
"####": the first such place, with only spaces and signs (": $**") between, so what a model goes on to write
after its answer does not count. Where an equation starts there ("The answer is 5 + 6 = 11"), the number it
ends with. Failing that, the last number of the text.

How it is read.

* A digit of any script is a digit; full-width signs are signs.
* Three digits after a comma, an apostrophe, a no-break or thin space, or an Arabic thousands separator are
  a group: "1,234" is 1234 in every language, German and French too. The golds of MGSM are whole numbers
  written so in each language's file; a decimal with exactly three places is much rarer.
* Where the decimal sign is a comma (CLDR says so of de, es, fr, ru and many more), three digits after a full
  stop or a plain space are a group too: "1.234" is 1234 in German, 1.234 in English. With more or fewer
  digits after it, a comma or a full stop is a decimal sign there: 2,5 and 2.5.
* Elsewhere a comma is no decimal sign: "3,4" is a list of two numbers. Indian groups (1,00,000) are read.
* A group never follows a leading zero (0,125 in German is an eighth). The groups of one number have one
  separator.
* "-" and "−" right before a number, or before its currency sign, are its sign unless they follow a letter,
  a digit, ")" or "%": a range (10-15), an equation (16-3) and a name (F-16) have none.
* "9{,}500" (LaTeX) and "1_000" are groups of three; "1e3" and "2.5e-1" are 1000 and 0.25.
* Currency, units and per cent are ignored. Numbers in words, fractions, powers and 万 or million are not
  worked out: "3/4" ends with 4, "8万" is 8.
"""

import re
import unicodedata
from bisect import bisect_left
from decimal import Decimal
from functools import cache

from babel import Locale, UnknownLocaleError

from crosstune.errors import UserError
from crosstune.files import table_beside

# What MGSM's worked examples write before and after the final number, by language.
ANSWER_WORDS: dict[str, tuple[str, str]] = table_beside(__file__, "words.toml")["answers"]
_DIGIT = re.compile(r"\d")
_SIGNS = str.maketrans("，．－−＋＝＄￥％＃", ",.--+=$¥%#")
_CURRENCY = "$€£¥₹৳฿₽₩₺₫₪₦₱"
# Letters that may touch a minus sign: scripts without spaces between words.
_TOUCHING = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
_GAP = re.compile(r"\W{0,20}")
# Between two numbers of one equation: up to two words of a unit, an operator, brackets.
_STEP = re.compile(
    rf"\s*(?:[^\s.,;:!?。、।(=+*/×÷-]{{1,20}}\s*){{0,2}}(?:[=+*/×÷-]|\s[xX]\s)[\s({_CURRENCY}]*"
)
_LONGEST_STEP = 40
# As LaTeX and programs group digits.
_GROUPED = re.compile(r"(?<=[0-9])(?:\{,\}|_)(?=[0-9]{3}(?![0-9]))")
_POWER_OF_TEN = re.compile(r"(?<![\w.,])([0-9]{1,15}(?:\.[0-9]{1,15})?)[eE]([+-]?[0-9]{1,2})(?!\w|[.,][0-9])")


def find_number(text: str, language: str) -> Decimal | None:
    """The number an answer gives, direct or step by step; None where it has no number.

    The prompt's language, a canonical code, decides the answer words and the separators.
    """
    text = _plain(text)
    numbers = list(_number(_decimal_comma(language)).finditer(text))
    if not numbers:
        return None
    starts = [number.start() for number in numbers]
    for words in _answer_words(language).finditer(text):
        place = bisect_left(starts, words.end())
        if place < len(numbers) and _GAP.fullmatch(text, words.end(), starts[place]):
            return _value(numbers[_end_of_equation(text, numbers, place)])
    return _value(numbers[-1])


def number_match(answer: str, gold: str, language: str) -> float:
    """1.0 if the answer's number equals the gold's ("2.50" and "2.5" are equal), else 0.0.

    The gold is as the files write it: a number, or a GSM8K solution that ends "#### 1,234".

    Raises:
        UserError: The gold has no number.
    """
    expected = find_number(gold, language)
    if expected is None:
        raise UserError(f"the gold answer {gold[:80]!r} has no number; give one in digits")
    return float(find_number(answer, language) == expected)


def _plain(text: str) -> str:
    """Composed, with ASCII digits and signs, powers of ten written out."""
    text = unicodedata.normalize("NFC", text).translate(_SIGNS)
    text = _GROUPED.sub(",", _DIGIT.sub(lambda digit: str(unicodedata.digit(digit[0])), text))
    return _POWER_OF_TEN.sub(lambda match: f"{Decimal(match[1]).scaleb(int(match[2])):f}", text)


@cache
def _answer_words(language: str) -> re.Pattern[str]:
    """The places where the language's answer words, the English ones or "####" end."""
    codes = {"en", language.partition("-")[0]} & ANSWER_WORDS.keys()
    forms = [_plain(ANSWER_WORDS[code][0]).rstrip(" —").split() for code in sorted(codes)]
    words = (r"\s+".join(map(re.escape, form)) for form in forms)
    return re.compile("|".join((*words, "####")), re.IGNORECASE)


@cache
def _decimal_comma(language: str) -> bool:
    try:
        symbols = Locale(language.partition("-")[0]).number_symbols
    except (UnknownLocaleError, ValueError):
        return False
    return str(symbols["latn"]["decimal"]) == ","


@cache
def _number(decimal_comma: bool) -> re.Pattern[str]:
    """One number, with groups sign, whole (separators in it) and part (after the decimal sign)."""
    separator = ",'’\u066c\u00a0\u2009\u202f" + (". " if decimal_comma else "")
    decimal = ".\u066b" + ("," if decimal_comma else "")
    minus = rf"(?<![^\W{_TOUCHING}])(?<![)%])(?P<sign>-)"
    indian = "[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"
    grouped = f"[1-9][0-9]{{0,2}}(?P<by>[{separator}])[0-9]{{3}}(?:(?P=by)[0-9]{{3}})*(?![0-9])"
    no_zero = rf"(?<![^\s{_CURRENCY}-])(?=\.[0-9])"
    return re.compile(
        rf"(?:{minus}(?=[{_CURRENCY}]?[0-9.]))?[{_CURRENCY}]?"
        rf"(?P<whole>{indian}|{grouped}|[0-9]+|{no_zero})"
        rf"(?:[{decimal}](?P<part>[0-9]+))?"
    )


def _end_of_equation(text: str, numbers: list[re.Match[str]], place: int) -> int:
    """The number that ends the equation number ``place`` starts; ``place`` itself where none starts there."""
    while place + 1 < len(numbers):
        start, end = numbers[place].end(), numbers[place + 1].start()
        if end - start > _LONGEST_STEP or not _STEP.fullmatch(text, start, end):
            break
        place += 1
    return place


def _value(number: re.Match[str]) -> Decimal:
    whole = re.sub("[^0-9]", "", number["whole"])
    part = f".{number['part']}" if number["part"] else ""
    return Decimal(f"{number['sign'] or ''}{whole}{part}")
