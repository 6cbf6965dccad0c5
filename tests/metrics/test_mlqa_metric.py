import pytest
from hypothesis import given
from hypothesis import strategies as st

from answer_pairs import WORDS, pairs, published_f1, published_mlqa
from crosstune.metrics import squad
from crosstune.metrics.mlqa import OFFICIAL_LANGUAGES, exact_match, f1, normalise

LANGUAGES = sorted(OFFICIAL_LANGUAGES)


def test_official_languages():
    assert LANGUAGES == ["ar", "de", "en", "es", "hi", "vi", "zh"]


def test_equals_the_published_definition_on_10000_pairs_in_12_scripts():
    scores = []
    for index, (script, answer, golds) in enumerate(pairs(10_000, seed=1)):
        language = LANGUAGES[index % len(LANGUAGES)]
        published = published_mlqa(answer, language)
        accepted = [published_mlqa(gold, language) for gold in golds]
        assert normalise(answer, language) == " ".join(published), (language, script, answer)
        assert exact_match(answer, golds, language) == float(published in accepted), (language, answer, golds)
        score = f1(answer, golds, language)
        assert score == pytest.approx(
            float(max(published_f1(published, gold) for gold in accepted)), abs=1e-12
        )
        scores.append((script, language, score))
    assert len({(script, language) for script, language, _ in scores}) == len(WORDS) * len(LANGUAGES)
    for script in WORDS:
        between = [0 < score < 1 for name, _, score in scores if name == script]
        assert sum(between) > 0.25 * len(between), script


@given(st.text(), st.sampled_from(LANGUAGES))
def test_any_text_normalises_as_published(text, language):
    assert normalise(text, language).split(" ") == (published_mlqa(text, language) or [""])


@pytest.mark.parametrize(
    ("text", "language", "tokens"),
    [
        ("«The» an-apple", "en", "anapple"),
        ("la Casa, el río", "es", "casa río"),
        ("der Den dem denn", "de", "denn"),
        ("những con mèo của tôi", "vi", "con mèo tôi"),
        ("الكتاب والسؤال", "ar", "كتاب و سؤ"),  # in the middle of words too, as published
        ("हिन्दी। का", "hi", "हिन्दी का"),
        ("1998年，北京 Olympic Games!", "zh", "1998 年 北 京 olympic games"),
        ("龥龦㐀", "zh", "龥 龦㐀"),  # the published range ends at U+9FA5
        ("1998年", "en", "1998年"),  # and is for Chinese alone
        ("一九四九年", "zh-Hant", "一 九 四 九 年"),
    ],
)
def test_official_rules(text, language, tokens):
    assert normalise(text, language) == tokens


@pytest.mark.parametrize(
    ("text", "language", "tokens"),
    [
        ("東京タワーは1958年", "ja", "東 京 タ ワ ー は 1958 年"),
        ("か\u3099ﾊﾟ", "ja", "か\u3099 ﾊ ﾟ"),  # a combining mark stays with its letter; half-width ﾟ is a letter
        ("น้ำ ปี ๒๕๔๐", "th", "น้ ำ ปี ๒๕๔๐"),
        ("ພາສາ ໑໒", "lo", "ພ າ ສ າ ໑໒"),
        ("မြန်မာ ၁၂။", "my", "မြ န် မာ ၁၂"),
        ("ភាសា\u200bខ្មែរ ១២", "km", "ភា សា ខ្ មែ រ ១២"),
        ("བོད་ཡིག ༡༢", "bo", "བོ ད ཡི ག ༡༢"),
        ("𠮷野家Wi-Fi", "yue", "𠮷 野 家 wifi"),
        ("BMW在München", "ru", "bmw 在 münchen"),  # by the script of the text, whatever the language
        ("L'Eau et l’air, un des lacs", "fr", "eau et air lacs"),
        ("aujourd'hui", "fr", "aujourdhui"),
        ("Un'ora nell'aria, gli anni", "it", "ora nellaria anni"),
        ("l'Hospital dels nens", "ca", "hospital dels nens"),
        ("Η πόλη ΤΗΣ Αθήνας", "el", "πόλη αθήνας"),
        ("un oraș, orașul", "ro", "oraș orașul"),
        ("A cidade, o rio", "pt", "cidade rio"),
        ("het huis", "nl", "huis"),
        ("az alma egy nap", "hu", "alma nap"),
        ("the дом", "ru", "the дом"),
        ("서울은 (도시)", "ko", "서울은 도시"),
        ("העיר־הגדולה", "he", "העירהגדולה"),
        ("the 12", "xx", "the 12"),
    ],
)
def test_rules_of_the_other_languages(text, language, tokens):
    assert normalise(text, language) == tokens


def test_chinese_overlap_counts_here_and_not_in_squad():
    answer, golds = "北京大学的图书馆", ["北京大学图书馆"]
    assert squad.f1(answer, golds) == 0.0
    assert f1(answer, golds, "zh") == pytest.approx(14 / 15)
    assert exact_match(answer, golds, "zh") == 0.0


@given(st.text(), st.sampled_from([*LANGUAGES, "ja", "th", "fr", "ru", "km"]))
def test_scores_are_fair(text, language):
    assert exact_match(text, [text], language) == 1
    assert f1(text, [text], language) == float(normalise(text, language) != "")


def test_no_golds_is_an_error():
    with pytest.raises(ValueError, match="no gold answer"):
        f1("x", [], "en")
    with pytest.raises(ValueError, match="no gold answer"):
        exact_match("x", [], "en")
