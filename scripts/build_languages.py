"""Write src/crosstune/languages/languages.csv from published language metadata.

    CROSSTUNE_DATA=../shared/data python scripts/build_languages.py [OUT.csv]

Names, endonyms and ISO codes come from LinguaMeta, families, macroareas and places from Glottolog, resource
classes from Joshi et al. (2020); GlotScript is used to check every script. Which varieties get a row, and
what those sources lack or get wrong, is written down below by hand. Nothing here depends on the version of
an installed package, so the same data always gives the same bytes.
"""

import csv
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (
    "code name endonym iso639_1 iso639_3 flores bcp47 family branch script resource"
    " macroarea latitude longitude aliases"
)

# ---------------------------------------------------------------- which varieties have a row

# SIB-200's 205 varieties: FLORES-200's 204 and nqo_Nkoo. The first variety of a language is its default,
# except where DEFAULT_SCRIPT says otherwise.
FLORES = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi apc_Arab arb_Arab
arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn
ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn
ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek
eng_Latn epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn
gaz_Latn gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn
hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn
kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl kbp_Latn kea_Latn khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl
kmb_Latn kmr_Latn knc_Arab knc_Latn kon_Latn kor_Hang lao_Laoo lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn
ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Arab
min_Latn mkd_Cyrl mlt_Latn mni_Beng mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nqo_Nkoo
nso_Latn nus_Latn nya_Latn oci_Latn ory_Orya pag_Latn pan_Guru pap_Latn pbt_Arab pes_Arab plt_Latn pol_Latn
por_Latn prs_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh
slk_Latn slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn
swe_Latn swh_Latn szl_Latn tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi
tpi_Latn tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab
uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn
zul_Latn
"""
# Belebele romanises five languages that FLORES-200 has in their own script only.
BELEBELE_ROMANISED = "ben_Latn hin_Latn npi_Latn sin_Latn urd_Latn"

# Languages outside FLORES: those with at least 100 territory names in CLDR, AmericasNLI's, and num2words's.
# "code:Script", Latn where none is written.
OTHERS = """
ab:Cyrl agq an asa bal:Arab bas bew bez bgn:Arab blo br brx:Deva byn:Ethi bzd ccp:Cakm ce:Cyrl cgg chr:Cher
cni cv:Cyrl dav dje dsb dyo ebu ewo frr fy gaa gez:Ethi gsw guz hch hsb ia ie jmc kaa:Cyrl kde kgp khq kl kln
kok:Deva ksb ksf ksh kxv la lag lld lu luy mas mer mfe mgh mua myv:Cyrl mzn:Arab nah naq nd nds nmg nyn oto
pcm rif rm rof rwk saq sbp se seh ses shi:Tfng shp smn sms syr:Syrc tar teo tet tig:Ethi to tok trw:Arab twq
vai:Vaii vun wae wal:Ethi xnr:Deva xog yav yrl za zgh:Tfng
"""
# Those of NusaX, MasakhaNER, AfriSenti, WikiANN (PAN-X), Universal Dependencies and Tatoeba that none of the
# above has; dead languages in transliteration, sign languages and code-switching are left out.
OTHERS += """
ach ang apu aqz arc:Syrc arq:Arab arr azz bar bbc bbj bej bxr:Cyrl cbk cdo ch ckt:Cyrl co cop:Copt csb cu:Cyrl
diq doi:Deva dtp dv:Thaa egl ess ext fro gan:Hans got:Goth grc:Grek gub gun gv hak hbo:Hebr hyw:Armn io jbo
kfm:Arab koi:Cyrl kpv:Cyrl krl kw lfn lgg lzh:Hant mad mdf:Cyrl mhr:Cyrl mpu mwl myu nan nap nij nov olo
orv:Cyrl os:Cyrl pam pdc pms pnb:Arab quc sah:Cyrl sco sgs swg tpn urb vep vls vo vro wa wbp wuu:Hans
xcl:Armn xmf:Geor zea
"""
# Second scripts in which CLDR has a full set of names.
OTHER_SCRIPTS = """
az-Cyrl bal-Latn bs-Cyrl ff-Adlm kk-Arab kxv-Deva kxv-Orya kxv-Telu shi-Latn sr-Latn uz-Cyrl vai-Latn yue-Hans
"""

# FLORES names one member of a macrolanguage; that member is the default of the macrolanguage's code.
MACRO = {
    "als": "sq", "arb": "ar", "ayr": "ay", "azj": "az", "fuv": "ff", "gaz": "om", "khk": "mn", "kmr": "ku",
    "knc": "kr", "lvs": "lv", "npi": "ne", "ory": "or", "pbt": "ps", "pes": "fa", "plt": "mg", "quy": "qu",
    "san": "sa", "swh": "sw", "uzn": "uz", "ydd": "yi", "zsm": "ms",
}  # fmt: skip
DEFAULT_SCRIPT = {"ace": "Latn", "bjn": "Latn", "kr": "Latn", "min": "Latn", "yue": "Hant", "zh": "Hans"}
# Languages of two letters that LinguaMeta lacks.
ISO_639_3 = {"cu": "chu", "ia": "ina", "ie": "ile", "io": "ido", "la": "lat", "vo": "vol"}
# ISO 639-2/5 codes of groups of languages, which have no ISO 639-3 code of their own.
NOT_ISO_639_3 = {"nah", "oto"}
# The script a language is nearly always written in is left out of a BCP-47 tag (IANA: Suppress-Script).
SUPPRESSED = {"ar", "bn", "bs", "hi", "kk", "ne", "si", "ur"}
# Real varieties (Belebele's, CLDR's) in a script that GlotScript does not list for the language.
UNLISTED_SCRIPT = {
    "ar-Latn", "az-Cyrl", "bn-Latn", "ff-Adlm", "kxv", "kxv-Deva", "kxv-Telu", "ne-Latn", "si-Latn",
}  # fmt: skip
SCRIPT_NAMES = {
    "Adlm": "Adlam", "Arab": "Arabic script", "Cyrl": "Cyrillic", "Deva": "Devanagari", "Hans": "Simplified",
    "Hant": "Traditional", "Latn": "Latin", "Orya": "Odia script", "Telu": "Telugu script",
    "Tfng": "Tifinagh",
}  # fmt: skip

# ---------------------------------------------------------------- corrections to the sources

# One line a variety: code; English name; name in Joshi et al.; further codes and names `find` accepts, with
# "|" between them; endonym. An empty field leaves the word of the sources. Joshi et al. list some languages
# twice, with few resources under the name of a typological database: the other name is meant. Further codes
# are those of macrolanguages and of members that fall under the row, and habits of CLDR and other tools.
CORRECTIONS = """
ab; Abkhaz; abkhazian
ace; Acehnese
ach; Acholi
acq; Ta'izzi-Adeni Arabic
aeb;;;; تونسي
ajp; South Levantine Arabic;;; اللهجة الشامية
ak; Akan;; Fante; Akan
ang; Old English;;; Ænglisc
ar;;; Standard Arabic|Modern Standard Arabic
arc; Aramaic;;; ܐܪܡܝܐ
ars;;;; نجدي
ary;;;; الدارجة المغربية
arz;;;; مصرى
awa;;;; अवधी
ay;;; Central Aymara
az;;; North Azerbaijani
az-Cyrl;;;; азәрбајҹан
azb; South Azerbaijani; southern azerbaijani
ba;;;; башҡорт теле
bal;; baluchi;; بلۆچی
bas; Basaa; basaá
bbc;;; Toba Batak; Batak Toba
bbj;;; Ghomala
bew;; melayu betawi
bgn; Western Balochi;;; بلوچی (رخشانی)
bho;;; bh|bih
blo;;;; anii
bo;;;; བོད་སྐད་
brx;;;; बर’
bs-Cyrl;;;; босански
bug;;;; Basa Ugi
bxr;; buriat; Buriat
cbk;;; cbk-zam
cdo;; min dong; Min Dong
ckb; Central Kurdish; kurdish (sorani); Sorani|Sorani Kurdish; کوردیی ناوەندی
ckt; Chukchi
cni; Asháninka;; Ashaninka; Asháninka
cu; Church Slavonic;; Old Church Slavonic; словѣньскъ
dik; Southwestern Dinka; dinka; din|Dinka; Thuɔŋjäŋ
diq; Zazaki;; zza|Dimli
dtp; Central Dusun;; kzj|Kadazan Dusun
dv;; divehi; Divehi|Maldivian
dyo;; diola-fogny
egl;; emilian-romagnol; eml; Emiliân
el;;; Modern Greek
et;;; ekk
fa;;; Farsi|Western Persian|Iranian Persian
ff; Fulfulde; fula; Fulah|Fula|Nigerian Fulfulde
ff-Adlm;;;; 𞤆𞤵𞤤𞤢𞤪
fro; Old French;;; franceis
frr; North Frisian
fy; West Frisian
gaa; Gã;; Ga language
gan;; gan; Gan
gd; Scottish Gaelic;; scottish_gaelic
gez; Geez;;; ግዕዝ
gn;; guarani; gug|Paraguayan Guarani
got; Gothic
grc; Ancient Greek;;; Ἑλληνική
gsw;; alemannic
gub; Guajajara
hak;; hakka; Hakka; Hak-kâ-fa
hbo; Ancient Hebrew;; Biblical Hebrew; עברית מקראית
hch; Wixárika; huichol; Huichol|Wixarika; Wixárika
he;;; iw; עברית
ht;; haitian; Haitian
ia; Interlingua;;; interlingua
id;;; in
ie; Interlingue;;; Interlingue
io; Ido;;; Ido
jbo; Lojban;;; lojban
jv;;; jw
kaa; Karakalpak;;; қарақалпақша
kab;;;; Taqbaylit
kac; Jingpho;; Kachin
kbp;; kabiye
kg;;; ktu
khq; Koyra Chiini
kk;;; kz; қазақ тілі
kk-Arab;;;; قازاق تىلى
kl;; greenlandic
ko;;; ko-Kore|kor_Kore
koi;; komi
kok;;; gom|Goan Konkani
kpv;; komi; kv|Komi; Коми кыв
kr; Kanuri;; Central Kanuri
ks-Deva;;;; कॉशुर
ksh;; ripuarian
ku; Kurmanji Kurdish; kurdish (kurmanji); Kurdish|Northern Kurdish|Kurmanji
kxv;;;; Kuvi
ky;; kirghiz
la; Latin;;; Latina
lfn; Lingua Franca Nova;;; Lingua Franca nova
lg;;; Ganda
li; Limburgish;; Limburgan
lu;; kiluba
lua;; ciluba
lv;;; Standard Latvian; latviešu
lzh; Classical Chinese;; zh-classical|Literary Chinese; 文言
mas;; maasai
mfe; Mauritian Creole
mg;;; Plateau Malagasy
mhr;;; chm|Meadow Mari
mn;;; Halh Mongolian|Khalkha Mongolian
mni; Meitei; meithei; Manipuri; মৈতৈলোন্
mos;; mooré
mr;;;; मराठी
ms;;; Standard Malay
my; Burmese;; Myanmar
mzn; Mazandarani
nah; Nahuatl;; nhi|Náhuatl; Nahuatl
nan;; min nan; zh-min-nan|Hokkien|Min Nan|Southern Min; Bân-lâm-gú
nb;; norwegian (bokmål); no|nor|Norwegian|Bokmål
nds;; low saxon
nn;; norwegian (nynorsk); Nynorsk
nov; Novial;;; Novial
nso; Northern Sotho;; Sepedi|Pedi
ny; Chichewa;; Nyanja
nyn;; runyankore
om;;; West Central Oromo
or; Odia;; Oriya; ଓଡ଼ିଆ
orv; Old East Slavic;; Old Russian; рѹсьскъ
oto; Otomi; otomí; ote|Otomí
pa;; eastern punjabi; Panjabi|Eastern Panjabi; ਪੰਜਾਬੀ
pam;; kapampangan; Kapampangan
pap;; papiamentu
pcm;;; pidgin
pms; Piedmontese
pnb; Western Punjabi
prs;;; fa-AF; دری
ps;;; Southern Pashto
qu;;; Ayacucho Quechua|qve|quz
quc;; quiché
rif; Riffian;; Tarifit
rn;; kirundi; Kirundi
ro;;; Moldovan|mo|mol
sa; Sanskrit;;; संस्कृतम्
sah;; sakha; Sakha
sat;;; sat_Beng|Santhali; ᱥᱟᱱᱛᱟᱲᱤ
se; Northern Sami
ses; Koyraboro Senni
sgs;;; bat-smg
shi;; tashlhiyt;; ⵜⴰⵛⵍⵃⵉⵜ
shi-Latn;;;; Tashelḥiyt
shp; Shipibo-Konibo
si;; sinhalese; Sinhalese
sq;;; Tosk Albanian; shqip
sr;;; serbian_cyrillic
sr-Latn;;; sh|hbs|serbian_latin; srpski
st; Southern Sotho; sesotho; Sesotho
sw; Swahili
syr;;; aii; ܣܘܪܝܝܐ
taq;; tamashek
tar; Rarámuri; tarahumara; Tarahumara|Raramuri; Rarámuri
tet; Tetum
tig;; tigré
tl;;; fil|Filipino; Tagalog
to; Tongan
tok; Toki Pona;;; toki pona
tw; Twi
tzm;;;; ⵜⴰⵎⴰⵣⵉⵖⵜ
uz;;; Northern Uzbek
uz-Cyrl;;;; ўзбекча
vai-Latn;;;; Vai
vls; West Flemish
vo; Volapük;;; Volapük
vro;;; fiu-vro
wae; Walser German
wal;;;; ወላይታቱ
wuu;;; Wu
xcl; Classical Armenian;;; գրաբար
yi;;; Eastern Yiddish
yrl; Nheengatu
yue; Cantonese;; zh-yue|Yue Chinese
yue-Hans;;;; 粤语
zea; Zeelandic
zh;; mandarin; cmn|Chinese|Mandarin|Mandarin Chinese|chinese_simplified; 简体中文
zh-Hant;;; chinese_traditional; 繁體中文
"""
# Varieties in a second script get no resource class of their own, but these two are full standards.
SHARES_RESOURCE = {"zh-Hant", "sr-Latn"}

# Glottolog languoid to look up where the row's own ISO 639-3 code is not a languoid with a family.
GLOTTOLOG = {
    "bal": "bcc", "est": "ekk", "grn": "gug", "kok": "gom", "kon": "kng", "luy": "bxk", "nah": "nhi",
    "oto": "ote", "srd": "sro", "syr": "aii", "zho": "cmn", "tok": "epo", "ia": "epo", "ie": "epo",
    "io": "epo", "ido": "epo", "vol": "epo",
}  # fmt: skip
# N'Ko is a written standard for Manding languages, which Glottolog files under artificial languages.
FAMILY_OF = {"nqo": "Mande"}
FAMILY_NAMES = {
    "Mongolic-Khitan": "Mongolic",
    "Artificial Language": "Constructed",
    "Abkhaz-Adyge": "Abkhaz-Adyghe",
    "Nuclear-Macro-Je": "Macro-Jê",
}
NO_MACROAREA = {"Constructed"}

# The published Glottolog table names families but no branches: these are the commonly cited ones. Creoles
# follow their lexifier, as in Glottolog.
BRANCHES = {
    "Germanic": "af ang bar da de en fo frr fy got gsw is ksh lb li nb nds nl nn pcm pdc sco sv swg tpi vls "
    "wae yi zea",
    "Italic": "la",
    "Romance": "an ast ca cbk co egl es ext fr fro fur gl ht it kea lij lld lmo mfe mwl nap oc pap pms pt rm "
    "ro sc scn vec wa",
    "Slavic": "be bg bs cs csb cu dsb hr hsb mk orv pl ru sk sl sr szl uk",
    "Baltic": "lt ltg lv sgs",
    "Celtic": "br cy ga gd gv kw",
    "Hellenic": "el grc",
    "Albanian": "sq",
    "Armenian": "hy hyw xcl",
    "Iranian": "bal bgn ckb diq fa kfm ku mzn os prs ps tg",
    "Indo-Aryan": "as awa bho bn ccp doi dv gu hi hne kok ks mag mai mr ne or pa pnb sa sd si trw ur xnr",
    "Semitic": "acm acq aeb ajp am apc ar arc arq ars ary arz gez hbo he mt syr ti tig",
    "Cushitic": "bej byn om so",
    "Chadic": "ha",
    "Berber": "kab rif shi taq tzm zgh",
    "Bantu": "asa bas bem bez cgg cjk dav ebu ewo guz jmc kam kde kg ki kmb ksb ksf lag lg ln lu lua luy mer "
    "mgh nd nmg nso ny nyn rn rof rw rwk sbp seh sn ss st sw tn ts tum umb vun xh xog yav zu",
    "Grassfields": "agq bbj",
    "Gur": "kbp mos",
    "Kwa": "ak blo gaa tw",
    "Volta-Niger": "ee fon ig yo",
    "Atlantic": "dyo ff wo",
    "Adamawa": "mua",
    "Ubangian": "sg",
    "Western Mande": "bm dyu nqo vai",
    "Malayic": "bew bjn id min ms",
    "Philippine": "ceb ilo pag pam tl war",
    "Oceanic": "fj mi sm to",
    "Chamic": "ace",
    "South Sulawesi": "bug",
    "Barito": "mg nij",
    "Bali-Sasak-Sumbawa": "ban",
    "Sinitic": "cdo gan hak lzh nan wuu yue zh",
    "Tibeto-Burman": "bo brx dz kac lus mni my",
    "Oghuz": "az azb tk tr",
    "Kipchak": "ba crh kaa kk ky tt",
    "Karluk": "ug uz",
    "Oghur": "cv",
    "Finnic": "et fi krl olo vep vro",
    "Ugric": "hu",
    "Sami": "se smn sms",
    "Mordvinic": "mdf myv",
    "South Dravidian": "kn ml ta",
    "South-Central Dravidian": "kxv te",
    "Vietic": "vi",
    "Khmeric": "km",
    "Munda": "sat",
    "Tai": "lo shn th za",
    "Western Nilotic": "ach dik luo nus",
    "Eastern Nilotic": "mas saq teo",
    "Southern Nilotic": "kln",
    "Nakh": "ce",
    "Nahuan": "azz nah",
    "Corachol": "hch",
    "Oto-Pamean": "oto",
    "Tupi-Guarani": "gn gub gun tpn urb yrl",
    "Inuit": "kl",
    "Permic": "koi kpv",
    "Mari": "mhr",
}
BRANCH_OF = {code: branch for branch, codes in BRANCHES.items() for code in codes.split()}


# ---------------------------------------------------------------- reading the sources


def read_table(path: Path, delimiter: str) -> list[dict[str, str]]:
    """Rows of a delimited file with a header; only comma-separated ones quote fields."""
    with path.open(encoding="utf-8", newline="") as file:
        if delimiter == ",":
            return list(csv.DictReader(file))
        return list(csv.DictReader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE))


class Sources:
    """The published tables, indexed by the codes they are joined on."""

    def __init__(self, folder: Path) -> None:
        self.lingua = {row["bcp_47_code"]: row for row in read_table(folder / "linguameta.tsv", "\t")}
        self.base_of_iso = {row["iso_639_3_code"]: code for code, row in self.lingua.items()}
        languoids = read_table(folder / "glottolog_languages.csv", ",")
        self.languoid = {row["ID"]: row for row in languoids}
        self.languoid_of_iso = {row["ISO639P3code"]: row for row in languoids if row["ISO639P3code"]}
        self.scripts = {
            row["ISO639-3"]: set(row["ISO15924-Main"].split(", "))
            for row in read_table(folder / "GlotScript.tsv", "\t")
        }
        self.joshi: dict[str, int] = {}
        for line in (folder / "lang2tax.txt").read_text(encoding="utf-8").splitlines():
            name, _, level = line.rpartition(",")
            # two names stand there twice; the second mention, from Wikipedia, is the higher one
            self.joshi[name] = max(int(level), self.joshi.get(name, 0))

    def row(self, base: str, iso: str) -> dict[str, str]:
        """Glottolog's of a language."""
        return self.languoid_of_iso[GLOTTOLOG.get(iso or base, iso)]

    def place(self, base: str, iso: str) -> dict[str, str]:
        """Where a language is spoken, in degrees to one digit."""
        row = self.row(base, iso)
        degrees = {name: row[name.title()] for name in ("latitude", "longitude")}
        return {name: f"{float(text):.1f}" for name, text in degrees.items() if text}

    def family(self, base: str, iso: str) -> tuple[str, str]:
        """Family and macroarea of a language; families of one language say "isolate"."""
        row = self.row(base, iso)
        if row["Is_Isolate"] == "true":
            return "isolate", row["Macroarea"]
        name = FAMILY_OF.get(base) or self.languoid[row["Family_ID"]]["Name"]
        family = FAMILY_NAMES.get(name, name)
        return family, "" if family in NO_MACROAREA else row["Macroarea"]


# ---------------------------------------------------------------- rows


def corrections() -> dict[str, list[str]]:
    """[name, Joshi's name, aliases, endonym] by code, every list filled up to four."""
    lines = [[field.strip() for field in line.split(";")] for line in CORRECTIONS.strip().splitlines()]
    return {code: fields + [""] * (4 - len(fields)) for code, *fields in lines}


def varieties(sources: Sources) -> list[tuple[str, str, str, str]]:
    """(language's canonical code, ISO 639-3 code, script, FLORES code or "") of every row, unsorted."""
    found = []
    for flores in (FLORES + BELEBELE_ROMANISED).split():
        iso, script = flores.split("_")
        base = MACRO.get(iso) or sources.base_of_iso.get(iso, iso)
        found.append((base, iso, script, flores))
    iso_of = {base: iso for base, iso, _, _ in found}
    for entry in OTHERS.split():
        base, _, script = entry.partition(":")
        row = sources.lingua.get(base)
        iso = row["iso_639_3_code"] if row else ISO_639_3.get(base, base)
        iso_of[base] = "" if base in NOT_ISO_639_3 else iso
        found.append((base, iso_of[base], script or "Latn", ""))
    for entry in OTHER_SCRIPTS.split():
        base, script = entry.split("-")
        found.append((base, iso_of[base], script, ""))
    return found


def build(folder: Path) -> list[dict[str, str]]:
    """All rows, sorted by code."""
    sources = Sources(folder)
    found = varieties(sources)
    corrected = corrections()
    none = [""] * 4
    default = dict(DEFAULT_SCRIPT)
    several = {base for base, *_ in found if sum(base == other for other, *_ in found) > 1}
    rows = []
    for base, iso, script, flores in found:
        default.setdefault(base, script)
        is_default = script == default[base]
        code = base if is_default else f"{base}-{script}"
        lingua = sources.lingua.get(base, {})
        name, joshi_name, _, _ = corrected.get(base, none)
        name = name or lingua["english_name"]
        rank = sources.joshi.get((joshi_name or name).lower())
        if not is_default or base == "zh":
            name = f"{name} ({SCRIPT_NAMES[script]})"
        *_, more, endonym = corrected.get(code, none)
        if not endonym and is_default:
            endonym = lingua.get("endonym", "")
        family, macroarea = sources.family(base, iso)
        check_script(sources, code, iso, script)
        aliases = more.split("|") if more else []
        if is_default:
            codes = (
                lingua.get(k, "") for k in ("iso_639_3_code", "iso_639_2b_code", "deprecated_bcp_47_code")
            )
            aliases += [alias for alias in codes if alias and alias not in (iso, code, *aliases)]
        rows.append(
            {
                "code": code,
                "name": name,
                "endonym": endonym,
                "iso639_1": base if len(base) == 2 else "",
                "iso639_3": iso,
                "flores": flores,
                "bcp47": base
                if is_default and (base in SUPPRESSED or base not in several)
                else f"{base}-{script}",
                "family": family,
                "branch": BRANCH_OF.get(base, ""),
                "script": script,
                "resource": "" if rank is None or not (is_default or code in SHARES_RESOURCE) else str(rank),
                "macroarea": macroarea,
                **(sources.place(base, iso) if macroarea else {}),
                "aliases": "|".join(aliases),
            }
        )
    taken = {row[column] for row in rows for column in ("code", "iso639_3", "flores")}
    for row in rows:  # LinguaMeta's deprecated codes include some that are rows of their own here
        row["aliases"] = "|".join(alias for alias in row["aliases"].split("|") if alias not in taken)
    return sorted(rows, key=lambda row: row["code"])


def check_script(sources: Sources, code: str, iso: str, script: str) -> None:
    """Stop when GlotScript knows the language but not in this script: a mistyped table above."""
    known = sources.scripts.get(iso) or {script}
    if script not in known and code not in UNLISTED_SCRIPT:
        sys.exit(f"{code}: script {script} is not among GlotScript's {sorted(known)}")


def main() -> None:
    """Write the CSV to the path given, or to its place in the package."""
    folder = Path(os.environ.get("CROSSTUNE_DATA", ROOT / "../shared/data")) / "language_metadata"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "src/crosstune/languages/languages.csv"
    rows = build(folder)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS.split(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{out}: {len(rows)} language varieties")


if __name__ == "__main__":
    main()
