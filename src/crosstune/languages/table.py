"""What is known about each language variety, and how to find it by whatever code a dataset uses.

The facts stand in ``languages.csv``, which ``scripts/build_languages.py`` writes (sources: ATTRIBUTION.md).
A canonical code is ISO 639-1 where the language has one and ISO 639-3 otherwise; a variety that is not its
language's default carries a script, as in BCP-47 (``zh`` is simplified Chinese, ``zh-Hant`` traditional).
"""

import csv
import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.resources import files

from crosstune.errors import UserError, did_you_mean


@dataclass(frozen=True, slots=True)
class Language:
    """One language variety. Texts are empty where the sources say nothing."""

    code: str  # canonical code, unique
    name: str  # English name, unique
    endonym: str  # the language's name for itself, in this variety's script
    iso639_1: str  # two-letter code of the language
    iso639_3: str  # three-letter code, of the member FLORES names where the language is a macrolanguage
    flores: str  # FLORES-200 code such as ``deu_Latn``; for five romanised varieties, Belebele's
    bcp47: str  # tag for other software
    family: str  # top-level family, "isolate" or "Constructed"
    branch: str  # a commonly cited branch of the family (Germanic, Bantu, ...)
    script: str  # ISO 15924 code
    # Class 0 (least text) to 5 of Joshi et al. 2020; None where they list no such language.
    resource: int | None
    macroarea: str  # Glottolog's: Africa, Eurasia, Papunesia, North America, South America
    place: tuple[float, float] | None = None  # Glottolog's latitude and longitude, in degrees


def _read() -> tuple[dict[str, Language], dict[str, list[str]]]:
    """The rows by canonical code, and each row's further codes and names."""
    languages: dict[str, Language] = {}
    aliases: dict[str, list[str]] = {}
    text = files(__package__).joinpath("languages.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        values: dict[str, str] = {field.name: row.get(field.name, "") for field in fields(Language)}
        resource, _ = values.pop("resource"), values.pop("place")
        place = (float(row["latitude"]), float(row["longitude"])) if row["latitude"] else None
        languages[row["code"]] = Language(**values, resource=int(resource) if resource else None, place=place)
        aliases[row["code"]] = row["aliases"].split("|") if row["aliases"] else []
    return languages, aliases


LANGUAGES, _ALIASES = _read()
ADDED: dict[str, dict[str, str | int]] = {}
"""What `add` was called with, by code."""

# Regions whose usual script is not the language's default, and scripts that are names for another one.
_SCRIPT_OF_REGION = {("zh", "TW"): "Hant", ("zh", "HK"): "Hant", ("zh", "MO"): "Hant", ("yue", "CN"): "Hans"}
_SAME_SCRIPT = {"Kore": "Hang", "Aran": "Arab"}
_TAG = re.compile(r"([a-z]{2,3})(?:-([a-z]{4}))?(?:-([a-z]{2}|[0-9]{3}))?")


def _key(code: str) -> str:
    return unicodedata.normalize("NFC", code).strip().casefold().replace("_", "-")


def _plain(key: str) -> str:
    """A key without its diacritics, so that "bokmal" is found too."""
    return "".join(c for c in unicodedata.normalize("NFKD", key) if not unicodedata.combining(c))


@functools.cache
def _index() -> dict[str, str]:
    """Canonical code by everything a variety is called. Codes are entered first: they win over names."""
    index = {_key(code): code for code in LANGUAGES}
    # A default variety's ISO codes name the language; a second script's must not, so defaults come first.
    ordered = sorted(LANGUAGES.values(), key=lambda row: "-" in row.code)
    for row in ordered:
        for code in (row.flores, row.bcp47, row.iso639_3):
            if code:
                index.setdefault(_key(code), row.code)
    names = [(name, row.code) for row in ordered for name in (*_ALIASES[row.code], row.name)]
    for name, code in names:
        index.setdefault(_key(name), code)
    for name, code in names:
        index.setdefault(_plain(_key(name)), code)
    return index


def find(code: str) -> Language:
    """The variety that a code or English name stands for.

    Takes canonical, ISO 639-1, -2 and -3, FLORES (``deu_Latn``) and BCP-47 codes (``zh-Hant-TW``), with ``_``
    or ``-``, in any case, and names ("German"). The code of a macrolanguage gives its default variety
    (``ara``: Modern Standard Arabic). A region is ignored unless it implies another script.

    Raises:
        UserError: Nothing in the table is called so; the nearest name is suggested.
    """
    if (row := lookup(code)) is not None:
        return row
    base, script = _base_and_script(_key(code))
    if base is None:
        raise UserError(f"unknown language {code!r}{did_you_mean(_key(code), _index())}")
    codes = [row.code for row in LANGUAGES.values() if row.code.split("-")[0] == base]
    raise UserError(
        f'no variety of {LANGUAGES[base].name} in script "{script}" for {code!r}; use {" or ".join(codes)}'
    )


def lookup(code: str) -> Language | None:
    """What `find` gives; None where nothing is called so, without a search for the nearest name."""
    key, index = _key(code), _index()
    if key in index:
        return LANGUAGES[index[key]]
    base, script = _base_and_script(key)
    if base is None or not script or script == LANGUAGES[base].script:
        return None if base is None else LANGUAGES[base]
    return LANGUAGES.get(f"{base}-{script}")


def canonical(code: str) -> str:
    """The canonical code of a variety; what the table lacks stays as it is."""
    row = lookup(code)
    return code if row is None else row.code


def _base_and_script(key: str) -> tuple[str | None, str]:
    """Of a tag: the canonical code of its language, and the script that it asks for, if any."""
    tag = _TAG.fullmatch(key)
    base = _index().get(tag[1]) if tag else None
    if tag is None or base is None:
        return None, ""
    script = (tag[2] or _SCRIPT_OF_REGION.get((base, (tag[3] or "").upper()), "")).title()
    return base, _SAME_SCRIPT.get(script, script)


def add(code: str, name: str, family: str, script: str, resource: int | None = None) -> None:
    """Add a language that the table lacks, for as long as the process lasts.

    Nothing happens where the table has the code, of the same family and script.

    Args:
        code: Two or three letters, of ISO 639 where it has one; with a script for a second variety.
        name: In English.
        family: Top-level family, as others of it are listed under.
        script: ISO 15924 code of a script that some language of the table is written in.
        resource: Class 0 to 5 of Joshi et al. 2020, where known.

    Raises:
        UserError: A code or name that means something else in the table, or a value that it does not take.
    """
    row = Language(code, name, "", "", code.partition("-")[0], "", code, family, "", script, resource, "")
    known = LANGUAGES.get(code)
    if known is not None and (known.family, known.script) == (family, script):
        return  # called twice, or of a file from before the table had it
    if not re.fullmatch("[a-z]{2,3}(-[A-Z][a-z]{3})?", code):
        raise UserError(f"a language's code is two or three letters such as bbc; found {code!r}")
    if resource is not None and resource not in range(6):
        raise UserError(f"{code}: the resource class is 0 to 5; found {resource!r}")
    if script not in {known.script for known in LANGUAGES.values()}:
        raise UserError(f"{code}: unknown script {script!r}; give an ISO 15924 code such as Latn or Arab")
    for name_or_code in (code, name):
        if taken := _index().get(_key(name_or_code)):
            raise UserError(f"{name_or_code!r} is in the language table: {LANGUAGES[taken].name} ({taken})")
    LANGUAGES[code] = row
    _ALIASES[code] = []
    ADDED[code] = {"name": name, "family": family, "script": script}
    if resource is not None:
        ADDED[code]["resource"] = resource
    _index.cache_clear()


def relatives(code: str, among: Iterable[str]) -> list[str]:
    """Of some varieties those of a language's family, the nearest first.

    Nearer is the same language in another script, then the same branch, the same script, and more text.

    Raises:
        UserError: A code is unknown.
    """
    of = find(code)

    def distance(row: Language) -> tuple[bool, bool, bool, int, str]:
        other_branch = not of.branch or row.branch != of.branch
        same_language = row.iso639_3 == of.iso639_3
        return (not same_language, other_branch, row.script != of.script, -(row.resource or 0), row.code)

    if of.family in ("isolate", "Constructed"):
        return []
    family = [row for row in map(find, among) if row.family == of.family and row.code != of.code]
    return [row.code for row in sorted(family, key=distance)]


def order_by_family(codes: Iterable[str]) -> list[str]:
    """The codes in reading order for charts: by family, branch, then English name.

    Isolates and constructed languages come last. Codes come back as they were given.

    Raises:
        UserError: A code is unknown.
    """

    def rank(code: str) -> tuple[bool, str, str, str, str]:
        row = find(code)
        return (row.family in ("isolate", "Constructed"), row.family, row.branch, row.name, code)

    return sorted(codes, key=rank)
