import unicodedata

import pytest
from babel import Locale
from hypothesis import given
from hypothesis import strategies as st

from crosstune.errors import UserError
from crosstune.languages import LANGUAGES, find, order_by_family
from crosstune.tasks.cldr_names import _own_localedata

PANX = """
ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my zh
kk tr et fi hu qu pl uk az lt pa gu ro
"""
UDPOS = """
af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh lt pl
uk wo ro
"""
TATOEBA = """
ara heb vie ind jav tgl eus mal tam tel afr nld deu ell ben hin mar urd pes fra ita por spa bul rus jpn
kat kor tha swh cmn kaz tur est fin hun aze lit pol ukr ron
"""
BELEBELE = """
acm_Arab afr_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng
azj_Latn bam_Latn ben_Beng ben_Latn bod_Tibt bul_Cyrl cat_Latn ceb_Latn ces_Latn ckb_Arab dan_Latn
deu_Latn ell_Grek eng_Latn est_Latn eus_Latn fin_Latn fra_Latn fuv_Latn gaz_Latn grn_Latn guj_Gujr
hat_Latn hau_Latn heb_Hebr hin_Deva hin_Latn hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn
isl_Latn ita_Latn jav_Latn jpn_Jpan kac_Latn kan_Knda kat_Geor kaz_Cyrl kea_Latn khk_Cyrl khm_Khmr
kin_Latn kir_Cyrl kor_Hang lao_Laoo lin_Latn lit_Latn lug_Latn luo_Latn lvs_Latn mal_Mlym mar_Deva
mkd_Cyrl mlt_Latn mri_Latn mya_Mymr nld_Latn nob_Latn npi_Deva npi_Latn nso_Latn nya_Latn ory_Orya
pan_Guru pbt_Arab pes_Arab plt_Latn pol_Latn por_Latn ron_Latn rus_Cyrl shn_Mymr sin_Latn sin_Sinh
slk_Latn slv_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn
swh_Latn tam_Taml tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tsn_Latn tso_Latn tur_Latn ukr_Cyrl
urd_Arab urd_Latn uzn_Latn vie_Latn war_Latn wol_Latn xho_Latn yor_Latn zho_Hans zho_Hant zsm_Latn
zul_Latn
"""
BENCHMARKS = {
    "xnli": ("ar bg de el en es fr hi ru sw th tr ur vi zh", 15),
    "xquad": ("ar de el en es hi ro ru th tr vi zh", 12),
    "mlqa": ("ar de en es hi vi zh", 7),
    "tydiqa": ("ar bn en fi id ko ru sw te", 9),
    "mgsm": ("bn de en es fr ja ru sw te th zh", 11),
    "xcopa": ("et ht id it qu sw ta th tr vi zh", 11),
    "americasnli": ("aym bzd cni gn hch nah oto quy shp tar", 10),
    "panx": (PANX, 48),
    "udpos": (UDPOS, 38),
    "tatoeba": (TATOEBA, 41),
    "belebele": (BELEBELE, 122),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmarks_languages_are_distinct_rows(name):
    codes, count = BENCHMARKS[name]
    canonical = {find(code).code for code in codes.split()}
    assert len(canonical) == len(codes.split()) == count


def test_belebeles_codes_are_kept_exactly():
    assert all(find(code).flores == code for code in BELEBELE.split())


def test_every_language_of_num2words_is_found():
    num2words = pytest.importorskip("num2words")
    for code in num2words.CONVERTER_CLASSES:
        canonical = find(code).code
        assert canonical == code.split("_")[0] or (code, canonical) in {("no", "nb"), ("kz", "kk")}


def test_every_cldr_locale_with_territory_names_is_found_in_its_script():
    # A copy of Babel's module: what is loaded without inheritance would spoil the shared one for later tests.
    localedata = _own_localedata()
    languages = set()
    for identifier in localedata.locale_identifiers():
        locale = Locale.parse(identifier)
        territories = localedata.load(identifier, merge_inherited=False).get("territories", {})
        # Deseret, an experiment of the 1850s, is the one script left out.
        if len(territories) < 100 or locale.variant or locale.script == "Dsrt":
            continue
        language = find(identifier)
        languages.add(language.code)
        if locale.script:
            assert language.script == locale.script, identifier
    assert len(languages) > 200


@pytest.mark.parametrize("column", ["code", "name", "flores", "bcp47"])
def test_names_and_codes_are_unique(column):
    values = [getattr(row, column).casefold() for row in LANGUAGES.values() if getattr(row, column)]
    assert len(values) == len(set(values))


def test_rows_are_well_formed():
    for code, row in LANGUAGES.items():
        assert row.code == code
        assert row.family
        assert len(row.script) == 4
        assert row.script.istitle()
        assert code.split("-")[0] in (row.iso639_1, row.iso639_3) or not row.iso639_1
        assert len(row.iso639_3) == 3 or code in ("nah", "oto")
        assert row.resource in (None, 0, 1, 2, 3, 4, 5)
        assert row.macroarea or row.family == "Constructed"
        assert row.flores in ("", f"{row.iso639_3}_{row.script}")


SCRIPT_WORDS = {"Hans": "CJK", "Hant": "CJK", "Jpan": "CJK", "Olck": "OL", "Orya": "ORIYA", "Mymr": "MYANMAR"}
SCRIPT_WORDS |= {"Tfng": "TIFINAGH", "Knda": "KANNADA", "Mlym": "MALAYALAM", "Cakm": "CHAKMA"}


def test_endonyms_are_written_in_the_varietys_own_script():
    for row in LANGUAGES.values():
        words = {
            unicodedata.name(c).split()[0]
            for c in row.endonym
            if unicodedata.category(c) in ("Lu", "Ll", "Lo")
        }
        expected = SCRIPT_WORDS.get(row.script, row.script.upper()[:3])
        assert all(word.startswith(expected) for word in words), (row.code, row.endonym, words)


@given(st.data())
def test_any_code_of_a_row_finds_it_in_any_spelling(data):
    row = data.draw(st.sampled_from(list(LANGUAGES.values())))
    text = data.draw(st.sampled_from([t for t in (row.code, row.flores, row.bcp47, row.name) if t]))
    recase = data.draw(st.sampled_from([str, str.upper, str.lower, str.title]))
    text = recase(text).replace("-", data.draw(st.sampled_from("-_")))
    # A name spelt like another language's code would lose to it: there must be none.
    assert find(data.draw(st.sampled_from(["", " "])) + text) == row


@given(st.sampled_from([row for row in LANGUAGES.values() if "-" not in row.code]))
def test_iso_codes_find_the_default_variety(row):
    for code in (row.iso639_1, row.iso639_3):
        assert not code or find(code) == row


@given(st.text(max_size=30))
def test_any_text_is_a_language_or_one_printable_line(text):
    try:
        message = find(text).name
    except UserError as error:
        message = str(error)
    assert message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("germn", "german"), ("swahilli", "swahili"), ("yoruba!", "yoruba"), ("zh-Hantt", "zh-hant")],
)
def test_an_unknown_code_names_the_nearest(wrong, near):
    with pytest.raises(UserError, match=f'did you mean "{near}"'):
        find(wrong)


def test_an_unknown_script_names_the_ones_there_are():
    with pytest.raises(UserError, match="use hi or hi-Latn"):
        find("hin_Taml")


@pytest.mark.parametrize(
    ("given_code", "code"),
    [
        *[
            ("ara", "ar"),
            ("zho", "zh"),
            ("msa", "ms"),
            ("fas", "fa"),
            ("swa", "sw"),
            ("est", "et"),
            ("ekk", "et"),
        ],
        *[
            ("lav", "lv"),
            ("nor", "nb"),
            ("no", "nb"),
            ("aym", "ay"),
            ("que", "qu"),
            ("cmn", "zh"),
            ("sqi", "sq"),
        ],
        *[
            ("mlg", "mg"),
            ("orm", "om"),
            ("mon", "mn"),
            ("kur", "ku"),
            ("yid", "yi"),
            ("uzb", "uz"),
            ("aze", "az"),
        ],
        *[
            ("zh-TW", "zh-Hant"),
            ("zh_Hant_HK", "zh-Hant"),
            ("zh-Hans-SG", "zh"),
            ("zh-CN", "zh"),
            ("pt_BR", "pt"),
        ],
        *[
            ("es-419", "es"),
            ("sr_Latn_RS", "sr-Latn"),
            ("sr-RS", "sr"),
            ("iw", "he"),
            ("fil", "tl"),
            ("ger", "de"),
        ],
        *[("sat_Beng", "sat"), ("ko-Kore", "ko"), ("fa-AF", "prs"), ("Farsi", "fa"), ("Mandarin", "zh")],
        *[("norwegian bokmal", "nb"), ("ajp", "ajp"), ("ga", "ga"), ("tw", "tw"), ("in", "id"), ("jw", "jv")],
    ],
)
def test_other_spellings(given_code, code):
    assert find(given_code).code == code


def test_reading_order_groups_families_and_branches():
    given_codes = ["eu", "zh_Hant", "deu_Latn", "ar", "en", "he", "ru", "fr", "zh", "eo", "sw"]
    expected = ["ar", "he", "sw", "en", "deu_Latn", "fr", "ru", "zh", "zh_Hant", "eo", "eu"]
    assert order_by_family(given_codes) == expected
    assert order_by_family(reversed(given_codes)) == expected
