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
from crosstune.metrics.language_id import UNDECIDABLE, identify, script_shares

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
    ("text", "target", "others", "label"),
    [
        ("Москва", "ru", (), "ru"),
        ("Moscow", "ru", (), "en"),
        ("Она родилась в городе Denver", "ru", (), "ru"),
        ("Команда Carolina Panthers", "ru", (), "ru"),
        ("Ответ: the capital of France", "ru", (), "mixed"),
        ("Она любит drinking hot coffee", "ru", (), "mixed"),
        ("北京", "ru", (), "other"),
        ("नमस्ते दुनिया", "hi", (), "hi"),
        ("Αθήνα", "el", (), "el"),
        ("서울은 큰 도시이다", "ko", (), "ko"),
        ("42", "ru", (), "undecidable"),
        ("", "ru", (), "undecidable"),
        ("?!", "th", (), "undecidable"),
    ],
)
def test_scripts_that_differ_decide_alone(text, target, others, label):
    assert identify(text, target, "en", others) == label


@pytest.mark.parametrize(
    ("text", "target", "others", "label"),
    [
        ("Die Stadt liegt an einem großen Fluss", "de", (), "de"),
        ("The town lies on a wide river", "de", (), "en"),
        ("La ville se trouve au bord du fleuve", "de", ("fr",), "fr"),
        ("Berlin", "de", (), "undecidable"),
        ("ja", "de", (), "undecidable"),
        ("Die Stadt liegt am Fluss and nobody lives there any more", "de", (), "mixed"),
        ("Вона живе у великому місті біля річки", "uk", ("ru",), "uk"),
        ("Она живёт в большом городе у реки", "uk", ("ru",), "ru"),
        ("This town lies on a wide river", "uk", ("ru",), "en"),
    ],
)
def test_one_script_takes_the_identifier_and_enough_letters(text, target, others, label):
    assert identify(text, target, "en", others) == label


def test_a_language_the_identifier_does_not_know_is_left_open():
    assert identify("The town lies on a wide river", "wo", "en") == "undecidable"
    assert identify("The town lies on a wide river", "nqo", "en") == "en"


@pytest.mark.parametrize(
    ("text", "target", "others", "label"),
    [
        ("これは小さな町です", "ja", ("zh",), "ja"),
        ("这座城市位于一条大河旁边", "ja", ("zh",), "zh"),
        ("东京", "ja", ("zh",), "undecidable"),
        ("東京", "ja", (), "ja"),
        ("これは小さな町です", "zh", (), "other"),
        ("这座城市位于大河旁边", "zh", (), "zh"),
        ("这座城市位于大河旁边", "zh", ("zh-Hant",), "undecidable"),
    ],
)
def test_kana_decides_between_japanese_and_chinese(text, target, others, label):
    assert identify(text, target, "en", others) == label


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


@given(
    WILD, st.sampled_from(["de", "ru", "ja", "sr", "wo", "th"]), st.lists(st.sampled_from(["zh", "fr", "uk"]))
)
def test_wild_text_gets_an_allowed_label(text, target, others):
    assert identify(text, target, "en", others) in LABELS | {target, "en", *others}
    assert sum(script_shares(text).values()) == pytest.approx(1.0 if script_shares(text) else 0.0)


def test_threads_with_other_candidates_do_not_disturb_each_other():
    text = "La ciudad se encuentra a orillas de un gran río"
    cases = [("es", ()), ("fr", ("es",)), ("de", ("es", "it")), ("pt", ("es",))] * 50
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda case: identify(text, case[0], "en", case[1]), cases))
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
    right, undecidable = shares([identify(line, code, "en", ("zh", "uk")) for line in lines], code)
    assert right > 0.98
    assert undecidable < 0.1
