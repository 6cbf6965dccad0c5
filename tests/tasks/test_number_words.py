import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from num2words import CONVERTER_CLASSES

from crosstune.errors import UserError
from crosstune.languages.table import LANGUAGES
from crosstune.metrics.text import normalise_number_words
from crosstune.tasks import make_task
from crosstune.tasks.number_words import number_in_words
from crosstune.tasks.prompts import load_prompts

TASK = make_task("number-words")
CODES = TASK.languages()
DATA = load_prompts("number_words")


def example(number, language):
    samples = [e for s in ("train", "dev", "test") for e in TASK.examples(s, language) if e.id == str(number)]
    return samples[0]


def test_every_converter_is_used_or_excluded_with_a_reason():
    used = {
        c
        for code, entry in DATA["languages"].items()
        for c in (entry.get("converter", code), *entry.get("also", ()))
    }
    regional = {c for c in CONVERTER_CLASSES if c[:2] in used and c not in used and "_" in c}
    assert set(CONVERTER_CLASSES) == used | set(DATA["excluded"]) | regional
    assert all(DATA["excluded"].values())
    assert len(CODES) == 42
    assert CODES[0] == "en"


@pytest.mark.parametrize("code", sorted(c for c in CONVERTER_CLASSES if re.match("(en|es|fr)_", c)))
def test_regional_converters_say_nothing_that_is_not_accepted(code):
    for n in range(0, 10_000, 37):
        ours = {normalise_number_words(form) for form in number_in_words(n, code[:2])}
        reference = CONVERTER_CLASSES[code].to_cardinal(n)
        repaired = re.sub(r"cents (?=\w)", "cent ", re.sub("quatre-vingt$", "quatre-vingts", reference))
        assert normalise_number_words(repaired) in ours


@pytest.mark.parametrize("language", CODES)
def test_numbers_are_distinct_words_of_the_language(language):
    examples = [*TASK.examples("test", language), *TASK.examples("dev", language)]
    examples += TASK.examples("train", language)[::4]
    wording = {}
    for e in examples:
        assert not any(c.isdecimal() for c in e.answers[0])
        for form in e.answers:
            key = normalise_number_words(form, language)
            assert key
            assert wording.setdefault(key, e.id) == e.id, f"{form!r} is both {wording[key]} and {e.id}"
    english = sum(e.answers[0] == number_in_words(int(e.id), "en")[0] for e in examples)
    assert language == "en" or english <= 1


@pytest.mark.parametrize("language", CODES)
def test_words_are_in_the_script_of_the_language(language):
    script = {"Jpan": "CJK", "Hang": "HANGUL", "Cyrl": "CYRILLIC", "Arab": "ARABIC", "Hebr": "HEBREW"}
    script |= {"Thai": "THAI", "Beng": "BENGALI", "Latn": "LATIN"}
    wanted = script[LANGUAGES[language].script]
    for e in TASK.examples("test", language):
        letters = [c for c in e.answers[0] if c.isalpha()]
        assert letters
        assert all(wanted in unicodedata.name(c) for c in letters), e.answers[0]


def test_a_number_is_in_one_split_the_same_in_every_language():
    ids = {s: [e.id for e in TASK.examples(s, "en")] for s in ("train", "dev", "test")}
    assert {s: len(set(i)) for s, i in ids.items()} == {"train": 2000, "dev": 100, "test": 200}
    assert len(set().union(*ids.values())) == 2300
    assert {len(i) for i in ids["test"]} == {1, 2, 3, 4}
    for language in CODES:
        assert [e.id for e in TASK.examples("test", language)] == ids["test"]


def test_prompts_name_the_language_by_being_written_in_it():
    templates = {entry["prompt"] for entry in DATA["languages"].values()}
    assert len(templates) == len(DATA["languages"])
    for language in CODES:
        for e in TASK.examples("test", language)[:3]:
            assert e.id in e.prompt
            assert "{" not in e.prompt
            assert e.prompt == e.prompt.rstrip()


@pytest.mark.parametrize(
    ("number", "language", "words"),
    [
        (1000, "ar", "ألف"),
        (200, "ar", "مئتان"),
        (2305, "ar", "ألفان وثلاثمائة وخمسة"),
        (100, "de", "hundert"),
        (1100, "de", "tausendeinhundert"),
        (2305, "da", "totusind trehundrede og fem"),
        (80, "fr", "quatre-vingts"),
        (2371, "fr", "deux mille trois cent septante et un"),
        (101, "lv", "simts viens"),
        (1500, "nb", "ett tusen fem hundre"),
        (1616, "pt", "mil seiscentos e dezesseis"),
        (21, "sr", "двадесет један"),
        (21, "sr", "двадесет и један"),
        (1000, "sr", "хиљаду"),
        (1021, "sv", "ett tusen tjugoett"),
        (2305, "tr", "iki bin üç yüz beş"),
        (5, "uk", "п’ять"),
        (8080, "vi", "tám nghìn không trăm tám mươi"),
        (1005, "vi", "một ngàn không trăm linh năm"),
        (0, "ja", "〇"),
    ],
)
def test_hand_written_forms_are_accepted(number, language, words):
    accepted = {normalise_number_words(form, language) for form in number_in_words(number, language)}
    assert normalise_number_words(words, language) in accepted


def first(language, length=4):
    return next(e for e in TASK.examples("test", language) if len(e.id) == length)


@pytest.mark.parametrize("language", ["en", "de", "ru", "ar", "he", "th", "ja", "ko", "bn", "vi", "sr", "tr"])
def test_right_answers_are_exact_however_they_are_dressed(language):
    e = first(language)
    for answer in (
        e.answers[0],
        f" {e.answers[0].capitalize()}. ",
        e.answers[0].replace(" ", "  "),
        e.answers[0].replace(" ", "-"),
    ):
        assert TASK.score(e, answer) == {"exact": 1.0, "in_english": 0.0}
    for answer in ("", e.id, first(language, 3).answers[0], e.answers[0] + " x"):
        assert TASK.score(e, answer) == {"exact": 0.0, "in_english": 0.0}


@pytest.mark.parametrize("language", [code for code in CODES if code != "en"])
def test_english_is_noticed(language):
    e = first(language)
    english = number_in_words(int(e.id), "en")
    for answer in (english[0], english[0].replace(" and ", " "), english[0].replace(",", "").upper() + "!"):
        assert TASK.score(e, answer) == {"exact": 0.0, "in_english": 1.0}
    other = number_in_words(int(e.id) + 1, "en")[0]
    assert TASK.score(e, other) == {"exact": 0.0, "in_english": 0.0}


def test_a_word_that_is_right_in_both_languages_is_not_the_wrong_language():
    zero = example(0, "pl")
    assert TASK.score(zero, "zero") == {"exact": 1.0, "in_english": 0.0}


def test_english_is_never_the_wrong_language_for_english():
    e = first("en")
    assert TASK.score(e, number_in_words(int(e.id), "en")[0])["in_english"] == 0.0


@given(st.text())
def test_any_answer_gets_a_score(answer):
    assert set(TASK.score(first("tr"), answer).values()) <= {0.0, 1.0}


@pytest.mark.parametrize("language", ["cy", "am", "no", "xx"])
def test_a_language_not_offered_is_named(language):
    with pytest.raises(UserError, match=f'no "{language}" among its 42 languages'):
        TASK.examples("test", language)


def test_largest_leaves_numbers_out_and_moves_none():
    whole, small = make_task("number-words"), make_task("number-words", {"largest": 999})
    for split in ("train", "dev", "test"):
        kept = [e for e in whole.examples(split, "en") if int(e.id) <= 999]
        assert small.examples(split, "en") == kept
        assert 50 < len(kept) < len(whole.examples(split, "en")) or split == "dev"
