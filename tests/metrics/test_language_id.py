import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.errors import UserError
from crosstune.languages import LANGUAGES
from crosstune.metrics.language_id import UNDECIDABLE, identify, measurable, script_shares
from crosstune.tasks.cldr_names import CldrNames
from crosstune.tasks.number_words import NumberWords

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
LABELS = {"mixed", "undecidable", "other"}


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("Der Zug", {"Latn": 1.0}),
        ("да no", {"Cyrl": 0.5, "Latn": 0.5}),
        ("猫はネコ", {"Kana": 0.5, "Hani": 0.25, "Hira": 0.25}),
        ("서울", {"Hang": 1.0}),
        ("ᠮᠣᠩ", {"Zzzz": 1.0}),
        ("हिन्दी १२", {"Deva": 1.0}),
        ("12, 34 %", {}),
        ("", {}),
    ],
)
def test_shares_are_of_letters_by_script(text, shares):
    assert script_shares(text) == pytest.approx(shares)


@pytest.mark.parametrize(
    ("text", "target", "label"),
    [
        ("Москва", "ru", "ru"),
        ("Moscow", "ru", "en"),
        ("Она родилась в городе Denver", "ru", "ru"),
        ("Команда Carolina Panthers", "ru", "ru"),
        ("Ответ: the capital of France", "ru", "mixed"),
        ("Она любит drinking hot coffee", "ru", "mixed"),
        ("北京", "ru", "other"),
        ("नमस्ते दुनिया", "hi", "hi"),
        ("Αθήνα", "el", "el"),
        ("서울은 큰 도시이다", "ko", "ko"),
        ("42", "ru", "undecidable"),
        ("", "ru", "undecidable"),
        ("?!", "th", "undecidable"),
    ],
)
def test_scripts_that_differ_decide_alone(text, target, label):
    assert identify(text, target, "en") == label


@pytest.mark.parametrize(
    ("text", "target", "label"),
    [
        ("Die Stadt liegt an einem großen Fluss", "de", "de"),
        ("The town lies on a wide river", "de", "en"),
        ("La ville se trouve au bord du fleuve", "de", "fr"),
        ("Berlin", "de", "undecidable"),
        ("ja", "de", "undecidable"),
        ("Die Stadt liegt am Fluss and nobody lives there any more", "de", "mixed"),
        ("Вона живе у великому місті біля річки", "uk", "uk"),
        ("Она живёт в большом городе у реки", "uk", "ru"),
        ("This town lies on a wide river", "uk", "en"),
    ],
)
def test_one_script_takes_the_identifier_and_enough_letters(text, target, label):
    assert identify(text, target, "en") == label


def test_a_language_no_identifier_knows_is_left_open():
    assert identify("The town lies on a wide river", "luo", "en") == "undecidable"
    assert identify("The town lies on a wide river", "nqo", "en") == "en"


@pytest.mark.parametrize(
    ("target", "source", "can"),
    [
        ("de", "en", True),
        ("ce", "en", True),  # unknown to the identifier, but in a script of its own
        ("ce", "ru", False),
        ("wo", "en", True),  # by their profiles
        ("tet", "en", True),
        ("tet", "wo", True),
        ("luo", "en", False),
        ("ar-Latn", "en", False),
        ("zh", "en", True),
        ("zh-Hant", "zh", False),
        ("ja", "zh", True),
        ("ja", "zh-Hant", True),
        ("uz", "ru", False),  # also written in Cyrillic, which the identifier does not know
        ("en", "en", True),
        ("wo", "wo", True),
    ],
)
def test_pairs_that_cannot_be_told_apart_have_no_rate(target, source, can):
    assert measurable(target, source) is can
    if not can:
        for text in ("这座城市位于大河旁边", "The town lies on a wide river", "Она живёт в большом городе"):
            assert identify(text, target, source) == "undecidable"


@pytest.mark.parametrize(
    "text",
    [
        "A. 10",
        "CO2",
        "1000 kg",
        "120 km/h",
        "x = 5",
        "<strong>",
        '<a href="page">12</a>',
        "\\boxed{18}",
        "&nbsp;18",
        "https://example.com/the/road/to/town",
        "www.example.com/road",
        "someone@example.com",
        "example.org",
        "π",
        "3.5e10",
    ],
)
@pytest.mark.parametrize("target", ["bn", "ru", "th", "zh", "ja", "de", "el"])
def test_units_numerals_markup_and_addresses_are_in_no_language(text, target):
    assert identify(text, target, "en") == "undecidable"


@pytest.mark.parametrize(
    ("text", "target", "label"),
    [
        ("Ответ: 10 kg", "ru", "ru"),
        ("<strong>Москва</strong>", "ru", "ru"),
        ("উত্তর: A. 10", "bn", "bn"),
        ("见 https://example.com/the/road 北京", "zh", "zh"),
        ("The answer is х", "ru", "en"),
        ("<strong>five hundred</strong>", "ru", "en"),
    ],
)
def test_they_do_not_hide_the_words_around_them(text, target, label):
    assert identify(text, target, "en") == label


def test_a_third_language_is_named_without_being_offered():
    french = "La ville se trouve au bord d'un grand fleuve et beaucoup de gens y vivent"
    assert [identify(french, target, "en") for target in ("de", "en", "sw", "fr")] == ["fr"] * 4
    assert identify("Вона живе у великому місті біля річки", "ru", "en") == "uk"
    egyptian = "هو ساكن في المدينة الكبيرة جنب النهر من زمان"
    assert identify(egyptian, "arz", "en") == "arz"


def test_numbers_in_words_are_never_called_another_language_and_mostly_decided():
    task = NumberWords()
    labels = {
        code: [identify(e.answers[0], code, "en") for e in task.examples("test", code)]
        for code in task.languages()
        if measurable(code, "en")
    }
    assert set(task.languages()) == set(labels)
    told = {code: [label for label in got if label != UNDECIDABLE] for code, got in labels.items()}
    assert all(set(got) <= {code} for code, got in told.items())
    # Written all in Han letters, Japanese numbers are Chinese ones.
    assert [code for code, got in told.items() if len(got) < len(labels[code]) / 2] == ["ja"]
    assert sum(map(len, told.values())) > 0.85 * sum(map(len, labels.values()))


def test_names_in_scripts_of_their_own_are_never_called_english_and_mostly_decided():
    task = CldrNames()
    codes = [c for c in task.languages() if LANGUAGES[c].script not in ("Latn", "Jpan")]
    labels = {
        code: [identify(e.prompt.partition("\n")[0], code, "en") for e in task.examples("test", code)]
        for code in codes
    }
    assert all(set(got) <= {code, UNDECIDABLE} for code, got in labels.items())
    open_ = sum(got.count(UNDECIDABLE) for got in labels.values())
    assert open_ < 0.1 * sum(map(len, labels.values()))


@pytest.mark.parametrize(
    ("text", "target", "label"),
    [
        ("これは小さな町です", "ja", "ja"),
        ("这座城市位于一条大河旁边", "ja", "zh"),
        ("东京", "ja", "undecidable"),
        ("北京", "zh", "zh"),
        ("これは小さな町です", "zh", "ja"),
        ("这座城市位于大河旁边", "zh", "zh"),
        ("这座城市位于大河旁边", "zh-Hant", "zh-Hant"),
    ],
)
def test_kana_decides_between_japanese_and_chinese(text, target, label):
    assert identify(text, target, "en") == label


def test_serbian_is_right_in_both_its_scripts():
    assert identify("Град лежи на великој реци", "sr", "en") == "sr"
    assert identify("Grad leži na velikoj reci", "sr", "en") == "sr"
    assert identify("The town lies on a wide river", "sr", "en") == "en"


def test_any_code_is_taken_and_the_canonical_one_returned():
    assert identify("Die Stadt liegt an einem großen Fluss", "deu_Latn", "eng_Latn") == "de"
    with pytest.raises(UserError, match="unknown language"):
        identify("text", "xx-nope", "en")


WILD = st.text() | st.lists(
    st.sampled_from(["Haus", "the", "и", "это", "中", "の", "َ", "‍", "É", "1", "\x00", "\ud800", "ß"])
).map(" ".join)


@given(WILD, st.sampled_from(["de", "ru", "ja", "sr", "wo", "th"]), st.sampled_from(["en", "zh", "fr", "uk"]))
def test_wild_text_gets_an_allowed_label(text, target, source):
    assert identify(text, target, source) in LABELS | set(LANGUAGES)
    assert sum(script_shares(text).values()) == pytest.approx(1.0 if script_shares(text) else 0.0)


def test_threads_with_other_candidates_do_not_disturb_each_other():
    text = "La ciudad se encuentra a orillas de un gran río"
    cases = [("es", "en"), ("fr", "es"), ("de", "it"), ("pt", "es")] * 50
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda case: identify(text, *case), cases))
    assert set(labels) == {"es"}


def test_the_identifier_loads_on_first_use_only():
    code = (
        "import sys; from crosstune.metrics.language_id import identify; identify('Москва', 'ru', 'en');"
        "assert 'py3langid' not in sys.modules; identify('Die Stadt am Fluss', 'de', 'en');"
        "assert 'py3langid' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def shares(labels, true):
    """Of the decided ones, those that are right; and of all, those that are not decided."""
    decided = [label for label in labels if label != UNDECIDABLE]
    return decided.count(true) / len(decided), 1 - len(decided) / len(labels)


@pytest.mark.skipif(
    not (DATA / "tatoeba").is_dir(), reason=f"Tatoeba is not under {DATA} (set CROSSTUNE_DATA)"
)
@pytest.mark.parametrize(("code", "file"), [("de", "deu"), ("tr", "tur"), ("sw", "swh"), ("hi", "hin")])
def test_tatoeba_sentences(code, file):
    for name, true in ((file, code), ("eng", "en")):
        lines = (
            (DATA / "tatoeba" / f"tatoeba.{file}-eng.{name}").read_text(encoding="utf-8").splitlines()[:200]
        )
        right, undecidable = shares([identify(line, code, "en") for line in lines], true)
        assert right > 0.98
        assert undecidable < 0.3


@pytest.mark.skipif(not (DATA / "udhr").is_dir(), reason=f"UDHR is not under {DATA} (set CROSSTUNE_DATA)")
@pytest.mark.parametrize(
    ("code", "file"), [("fr", "fra"), ("yo", "yor"), ("ru", "rus"), ("ja", "jpn"), ("ko", "kor")]
)
def test_udhr_paragraphs(code, file):
    with zipfile.ZipFile(DATA / "udhr" / "udhr2.zip") as archive:
        lines = [line for line in archive.read(f"udhr2/{file}.txt").decode().splitlines() if len(line) > 60]
    right, undecidable = shares([identify(line, code, "en") for line in lines], code)
    assert right > 0.98
    assert undecidable < 0.1
