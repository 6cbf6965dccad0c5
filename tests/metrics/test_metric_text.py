import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.metrics.text import fold, normalise_number_words

LANGUAGES = st.sampled_from(["", "en", "tr", "az", "th", "ar"])


@given(st.text(), LANGUAGES)
@pytest.mark.parametrize("normalise", [fold, normalise_number_words])
def test_normalising_twice_changes_nothing(normalise, text, language):
    once = normalise(text, language)
    assert normalise(once, language) == once


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("Straße", "STRASSE", ""),
        ("Zwölf", "Zwo\u0308lf", ""),
        ("ΟΔΟΣ", "οδος", ""),
        ("İKİ BİN ALTI", "iki bin altı", "tr"),
        ("two  thousand\u00a0five", "Two thousand five", ""),
    ],
)
def test_fold_makes_the_same_text_equal(one, other, language):
    assert fold(one, language) == fold(other, language)


def test_turkish_letters_i_stay_apart():
    assert fold("Altı", "tr") != fold("Alti", "tr")
    assert fold("I", "tr") == "ı"
    assert fold("I") == "i"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("twenty-one", "Twenty one."),
        ("two thousand, three hundred", "two thousand three hundred"),
        ("п’ять", "п'ять"),
        ("بیست\u200cو\u200cیک", "بیست و یک"),
        ("yirmibir", "Yirmi bir"),
    ],
)
def test_spelling_conventions_do_not_count_in_numbers(one, other):
    assert normalise_number_words(one) == normalise_number_words(other)


@pytest.mark.parametrize("text", ["", "  ", "...", "'", "-", "\u200d"])
def test_no_word_is_the_empty_string(text):
    assert normalise_number_words(text) == ""
