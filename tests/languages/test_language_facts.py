"""Facts checked by hand against the literature, not against the script that writes the table."""

import pytest

from crosstune.languages import find

FAMILIES = """
en Indo-European Germanic | de Indo-European Germanic | ru Indo-European Slavic | fr Indo-European Romance
hi Indo-European Indo-Aryan | fa Indo-European Iranian | el Indo-European Hellenic | sq Indo-European Albanian
cy Indo-European Celtic | lt Indo-European Baltic | ar Afro-Asiatic Semitic | am Afro-Asiatic Semitic
ha Afro-Asiatic Chadic | so Afro-Asiatic Cushitic | kab Afro-Asiatic Berber | sw Atlantic-Congo Bantu
zu Atlantic-Congo Bantu | fi Uralic Finnic | hu Uralic Ugric | tr Turkic Oghuz | uz Turkic Karluk
zh Sino-Tibetan Sinitic | my Sino-Tibetan Tibeto-Burman | th Tai-Kadai Tai | vi Austroasiatic Vietic
id Austronesian Malayic | tl Austronesian Philippine | te Dravidian South-Central_Dravidian
gn Tupian Tupi-Guarani | ta Dravidian South_Dravidian | ja Japonic - | ko Koreanic - | ka Kartvelian -
eu isolate - | mn Mongolic -
qu Quechuan - | ay Aymaran - | bm Mande Western_Mande | luo Nilotic Western_Nilotic | mt Afro-Asiatic Semitic
"""
RESOURCES = {
    5: "en es de ja fr ar zh zh-Hant",
    4: "hi ru tr vi it ko pl pt nl sv fi hu cs eu ca hr sr fa",
    3: "th el bg id ur ta he ro uk bn ka kk et lv lt arz af",
    2: "sw yo zu am ha mr pa is ga ht wo xh ti mt lo sa",
    1: "te ml my km ne si qu ay gn ig so ku ckb nb nn cy tg ky fy",
    0: "bzd hch shp",
    None: "cni ars ary hi-Latn ar-Latn ks-Deva",
}
SCRIPTS = (
    "hi Deva | ur Arab | zh Hans | zh-Hant Hant | yue Hant | ja Jpan | ko Hang | my Mymr | sr Cyrl | am Ethi"
)


@pytest.mark.parametrize(
    "fact", [fact.split() for line in FAMILIES.strip().split("\n") for fact in line.split("|")]
)
def test_family_and_branch(fact):
    code, family, branch = fact
    assert (find(code).family, find(code).branch) == (family, branch.replace("_", " ").removeprefix("-"))


@pytest.mark.parametrize("level", RESOURCES)
def test_resource_class(level):
    assert {code: find(code).resource for code in RESOURCES[level].split()} == dict.fromkeys(
        RESOURCES[level].split(), level
    )


@pytest.mark.parametrize("fact", [fact.split() for fact in SCRIPTS.split("|")])
def test_script(fact):
    assert find(fact[0]).script == fact[1]


def test_codes_of_one_row():
    swahili = find("sw")
    assert (swahili.name, swahili.endonym, swahili.iso639_3, swahili.flores) == (
        "Swahili",
        "Kiswahili",
        "swh",
        "swh_Latn",
    )
    assert (find("zh").bcp47, find("zh-Hant").bcp47, find("nb").flores) == ("zh-Hans", "zh-Hant", "nob_Latn")
    assert (find("arz").macroarea, find("de").macroarea, find("mi").macroarea) == (
        "Africa",
        "Eurasia",
        "Papunesia",
    )
