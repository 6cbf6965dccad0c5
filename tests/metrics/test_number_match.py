import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from babel.numbers import format_decimal
from hypothesis import given
from hypothesis import strategies as st

from crosstune.errors import UserError
from crosstune.metrics.numbers import ANSWER_WORDS, find_number, number_match

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
MGSM_LANGUAGES = sorted(ANSWER_WORDS)

# The last sentence of MGSM's first worked example in each language.
FINAL_FORMS = {
    "bn": "উত্তর হল 11।",
    "de": "Die Antwort lautet 11.",
    "en": "The answer is 11.",
    "es": "La respuesta es 11.",
    "fr": "La réponse est 11.",
    "ja": "答えは11です。",
    "ru": "Ответ — 11.",
    "sw": "Jibu ni 11.",
    "te": "సమాధానం 11.",
    "th": "คำตอบคือ 11",
    "zh": "答案是 11。",
}


@pytest.mark.parametrize("language", FINAL_FORMS)
def test_final_form_of_each_language(language):
    form = FINAL_FORMS[language]
    assert "11".join(ANSWER_WORDS[language]) == form
    assert find_number(form, language) == 11
    assert find_number(f"5 + 6 = 12. {form}", language) == 11
    assert find_number(f"{form}\n\n3 + 4 = 7. {form.replace('11', '7')}", language) == 11  # run on
    assert find_number(form.replace("11", "**$1,250.00**") + " 2", language) == 1250
    assert find_number(form.replace("11", "5 + 6 = 11") + " 2", language) == 11
    assert number_match(form, "11", language) == 1.0
    assert number_match(form, "12", language) == 0.0


def test_the_table_is_mgsm():
    assert set(FINAL_FORMS) == set(ANSWER_WORDS)
    assert len(ANSWER_WORDS) == 11


@pytest.mark.parametrize("language", ["bn", "zh", "sw", "fi"])
def test_english_words_and_the_gsm8k_mark_count_in_every_language(language):
    assert find_number("The answer is 18 dollars for 2 days.", language) == 18
    assert find_number("THE  ANSWER\nis: $18, not 2", language) == 18
    assert find_number("9 * 2 = <<9*2=18>>18\n#### 18\n\n2", language) == 18


@pytest.mark.parametrize(
    ("text", "language", "number"),
    [
        ("উত্তর হলো ১১। ৫", "bn", 11),
        ("Ответ: 11, а не 5", "ru", 11),
        ("答案是：11，不是 5", "zh", 11),
        ("La re\u0301ponse est : 11. 5", "fr", 11),
        ("คำตอบคือ ๑๑ ไม่ใช่ 5", "th", 11),
        ("答案是 11，不是 5", "zh-Hant", 11),
        # words with other words before the number do not point at it
        ("The answer is the sum of 5 and 6, or 11.", "en", 11),
        ("The answer is \\boxed{11}.", "en", 11),
        ("Jibu ni", "sw", None),
        # equations after the words
        ("The answer is 5 balls + 6 balls = 11 balls, not 3", "en", 11),
        ("The answer is 2 * (16 - 3) = 26, not 3", "en", 26),
        ("The answer is 2 x 3 = 6, not 3", "en", 6),
        ("The answer is 11 (=5+6), not 3", "en", 11),
        ("The answer is 11. 5 + 6 = 12", "en", 11),
        ("The answer is 11 well-made balls in 2 bags", "en", 11),
    ],
)
def test_where_the_number_stands(text, language, number):
    assert find_number(text, language) == number


@pytest.mark.parametrize(
    ("text", "language", "number"),
    [
        ("72", "en", "72"),
        ("9{,}500", "en", "9500"),
        ("$1{,}234{,}567.5$", "de", "1234567.5"),
        ("9{,}50", "en", "50"),
        ("1_000", "en", "1000"),
        ("1_000_000", "bn", "1000000"),
        ("x_1000", "en", "1000"),
        ("1e3", "en", "1000"),
        ("2.5E-1", "en", "0.25"),
        ("1e+06", "de", "1000000"),
        ("-3e2", "en", "-300"),
        ("1e3x", "en", "3"),
        ("1e999", "en", "999"),
        (" 72.", "en", "72"),
        ("$1,234.50", "en", "1234.5"),
        ("1 234", "fr", "1234"),
        ("1\u202f234,50 €", "fr", "1234.5"),
        ("80 000 $", "es", "80000"),
        ("80 000", "en", "0"),  # two numbers: English groups by comma
        ("1.234", "de", "1234"),
        ("1,234", "de", "1234"),
        ("1.234", "en", "1.234"),
        ("1.234.567,89", "de", "1234567.89"),
        ("1,234,567.89", "de", "1234567.89"),
        ("12.345,678", "es", "12345.678"),
        ("2,5", "de", "2.5"),
        ("2.50", "de", "2.5"),
        ("0,125", "de", "0.125"),
        ("0.125", "ru", "0.125"),
        ("3,4", "en", "4"),
        ("3, 4", "de", "4"),
        ("1'234", "de", "1234"),
        ("1,2345", "en", "2345"),
        ("1,00,000", "bn", "100000"),
        ("12,34,56,789", "te", "123456789"),
        ("1,00,00", "te", "0"),
        ("2023 150", "ru", "150"),
        ("１２３", "ja", "123"),
        ("１，２３４．５", "ja", "1234.5"),
        ("৭২টি", "bn", "72"),
        ("๗๒ ตัว", "th", "72"),
        ("౭౨.", "te", "72"),
        ("۱۲", "fa", "12"),
        ("٣٬٤٥٦٫٥", "ar", "3456.5"),
        ("是72个", "zh", "72"),
        ("-5", "en", "-5"),
        ("\u22125", "en", "-5"),
        ("-$5", "en", "-5"),
        ("$-5", "en", "-5"),
        ("答えは-5です", "ja", "-5"),
        ("x = -5", "en", "-5"),
        ("16 - 3 = 13", "en", "13"),
        ("16-3", "en", "3"),
        ("(16)-3", "en", "3"),
        ("10-15", "en", "15"),
        ("5%-10%", "en", "10"),
        ("F-16", "en", "16"),
        ("150%", "en", "150"),
        ("$.50", "en", "0.5"),
        ("No.5", "en", "5"),
        ("12 m²", "en", "12"),
        ("007", "en", "7"),
        ("7", "no such language", "7"),
        ("7", "", "7"),
    ],
)
def test_how_a_number_is_read(text, language, number):
    assert find_number(text, language) == Decimal(number)


@pytest.mark.parametrize("text", ["", "eleven", "十一", "-", "$.", ",,,", "²½①", "The answer is"])
def test_no_number(text):
    assert find_number(text, "en") is None
    assert number_match(text, "0", "en") == 0.0


def _written(number, language, digits):
    return format_decimal(number, locale=language, decimal_quantization=False, numbering_system=digits)


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from([*MGSM_LANGUAGES, "ar", "fa", "hi", "it", "pl", "tr", "vi", "mr", "my"]),
    st.sampled_from(["latn", "default"]),
)
def test_a_whole_number_written_as_the_language_does_is_found(number, language, digits):
    text = _written(number, language, digits)
    assert find_number(text, language) == number, text
    assert find_number(f"7 + 9 = 16 … {text}.", language) == number, text
    if language in ANSWER_WORDS:
        assert find_number(text.join(ANSWER_WORDS[language]) + " 99", language) == number, text
    assert number_match(text, str(number), language) == 1.0
    assert number_match(text, f"x\n#### {number:,}", language) == 1.0


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([*MGSM_LANGUAGES, "ar", "fa", "hi", "it", "pl"]),
    st.sampled_from(["latn", "default"]),
)
def test_a_decimal_written_as_the_language_does_is_found(digits, places, language, numbering):
    number = Decimal(digits).scaleb(-places)
    text = _written(number, language, numbering)
    decimals = -int(number.normalize().as_tuple().exponent)
    if decimals != 3:  # 2.125 with a comma is a group of three, by rule
        assert find_number(text, language) == number, text


@given(st.text(), st.sampled_from([*MGSM_LANGUAGES, "", "xx"]))
def test_any_text_is_read_without_an_error(text, language):
    number = find_number(text, language)
    assert number is None or number.is_finite()


def test_long_answers_are_read_quickly():
    for text in ["1-" * 50_000, "9" * 100_000, "The answer is 5 " * 10_000, "The answer is" + " " * 100_000]:
        assert find_number(text + " 7", "ru") is not None


def test_a_gold_without_a_number_is_a_users_error():
    with pytest.raises(UserError, match="the gold answer 'many' has no number; give one in digits"):
        number_match("3", "many", "en")


@pytest.mark.skipif(not (DATA / "mgsm").is_dir(), reason=f"MGSM is not under {DATA} (set CROSSTUNE_DATA)")
def test_every_gold_of_mgsm_is_read_the_same_in_every_language():
    golds = {}
    for path in sorted((DATA / "mgsm").glob("mgsm_*.tsv")):
        language = path.stem.removeprefix("mgsm_")
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        golds[language] = [find_number(gold, language) for _, gold in rows]
        assert golds[language] == [int(gold.replace(",", "")) for _, gold in rows]
    assert len(golds["en"]) == 250
    assert all(numbers == golds["en"] for numbers in golds.values())


@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason=f"GSM8K is not under {DATA} (set CROSSTUNE_DATA)")
@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_every_gold_of_gsm8k_is_read(split, rows):
    lines = (DATA / "gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    assert len(answers) == rows
    for answer in answers:
        gold = answer.split("#### ")[1]
        assert find_number(answer, "en") == find_number(gold, "sw") == int(gold.replace(",", ""))
        assert number_match(answer, gold, "de") == 1.0
