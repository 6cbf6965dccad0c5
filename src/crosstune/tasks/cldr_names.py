"""cldr-names: what kind of thing does this name name? Display names from Unicode CLDR, as Babel ships them.

A choice task that needs no download, in about a hundred languages. English is tuned on names that are
never asked about in any language: each item ("country:DE") is in one split, by a hash of its id.
"""

import importlib.util
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache
from itertools import zip_longest
from typing import Any, ClassVar

from babel import localedata

from crosstune.data.example import Example, Split, fair_order
from crosstune.errors import UserError
from crosstune.languages.table import LANGUAGES
from crosstune.tasks.base import Task
from crosstune.tasks.prompts import load_prompts, render

KINDS = ("country", "language", "currency", "script")

# CLDR section and shape of the codes that name one thing of each kind.
_SECTIONS = {
    "country": ("territories", re.compile("[A-Z]{2}")),
    "language": ("languages", re.compile("[a-z]{2,3}")),
    "currency": ("currency_names", re.compile("[A-Z]{3}")),
    "script": ("scripts", re.compile("[A-Z][a-z]{3}")),
}
# Share of a kind's items that may be tested; of the scripts only the few that nearly all languages name.
_TEST_SHARE = {"country": 0.45, "language": 0.3, "currency": 0.45, "script": 0.8}
_DEV_SHARE = 0.1
# Examples of each kind. The test has the same make-up in every language, so scores can be compared.
_PER_KIND: dict[Split, dict[str, int]] = {
    "train": dict.fromkeys(KINDS, 80),
    "dev": dict.fromkeys(KINDS, 12),
    "test": {"country": 25, "language": 25, "currency": 25, "script": 13},
}
# A language most of whose names are the English ones would measure English.
_MOST_AS_IN_ENGLISH = 0.6
# Locale names of Babel that are not the language's canonical code.
_LOCALES = {"nb": "no", "tl": "fil"}
_ASIDE = re.compile(r"[\d()（）\[\]]")


class CldrNames(Task):
    """Kind of a name: country, language, currency or script.

    A language is offered if, once unusable names are dropped, it has the full test: names that CLDR does
    not localise (equal to the code; in English or in Latin letters in a language of another script), that
    hold an aside or a year ("Mark (1948-1951)"), or that name two kinds in that language (Bengali: language
    and script). A test name spelled like any English name of the train or dev items is dropped as well.
    """

    name = "cldr-names"
    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    summary = "kind of a name: country, language, currency or script (CLDR)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "English names of 80 items a kind",
        "dev": "English names of 12 other items a kind",
        "test": "88 further items in each language",
    }

    @property
    def licences(self) -> Mapping[str, str]:
        """CLDR's."""
        return {"CLDR": "Unicode License v3"}

    def languages(self) -> list[str]:
        """Canonical codes of the languages with a full test, English first, then by code."""
        offered = [code for code in LANGUAGES if _is_covered(code)]
        return sorted(offered, key=lambda code: (code != self.source_language, code))

    def offers(self, language: str) -> bool:
        """Without reading the names in all other languages."""
        return _is_covered(language)

    def examples(self, split: Split, language: str) -> list[Example]:
        """A split's names, the kinds taking turns.

        Raises:
            UserError: The language is not offered, or training names are asked for in one but English.
        """
        if not _is_covered(language):
            raise self.missing(language, self.languages())
        if split != "test" and language != self.source_language:
            raise UserError(f'task {self.name} has a {split} split in "{self.source_language}" only')
        prompt = load_prompts("cldr_names")["prompt"]
        names = _names(_locale(language))
        return [
            Example(item, language, render(prompt, name=names[item]), (item.partition(":")[0],), KINDS)
            for item in _chosen(split, language)
        ]

    def template(self, language: str) -> str | None:
        """The same in every language."""
        return str(load_prompts("cldr_names")["prompt"])


@cache
def split_of(item: str) -> Split:
    """The one split of an item such as "country:DE" (kind and CLDR code), in every language and process."""
    kind, _, code = item.partition(":")
    testable = load_prompts("cldr_names")["tested"].get(kind)
    share = _TEST_SHARE[kind] if testable is None or code in testable else 0.0
    place = int.from_bytes(fair_order(f"split:{item}")[:6]) / 2**48
    if place < share:
        return "test"
    return "dev" if place < share + _DEV_SHARE else "train"


@cache
def _is_covered(language: str) -> bool:
    """Whether a language of the table has the full test, in names of its own."""
    if language not in LANGUAGES or not localedata.exists(_locale(language)):
        return False
    have = Counter(item.partition(":")[0] for item in _chosen("test", language))
    if any(have[kind] < wanted for kind, wanted in _PER_KIND["test"].items()):
        return False
    names, english = _names(_locale(language)), _names("en")
    same = sum(name.casefold() == english[item].casefold() for item, name in names.items() if item in english)
    return language == "en" or same <= _MOST_AS_IN_ENGLISH * len(names)


@cache
def _chosen(split: Split, language: str) -> list[str]:
    """Items of a split: of each kind the first usable ones in hash order, so that languages share most."""
    names, english = _names(_locale(language)), _names("en")
    seen = _english_seen() if split == "test" else frozenset()
    latin = LANGUAGES[language].script == "Latn"
    usable = [
        item
        for item, name in names.items()
        if item in english
        and split_of(item) == split
        and name.casefold() not in seen
        and (latin or any(c.isalpha() and not unicodedata.name(c, "").startswith("LATIN") for c in name))
    ]
    usable.sort(key=lambda item: fair_order(f"order:{item}"))
    wanted = _PER_KIND[split]
    by_kind = [[i for i in usable if i.startswith(f"{kind}:")][: wanted[kind]] for kind in KINDS]
    return [item for turn in zip_longest(*by_kind) for item in turn if item is not None]


@cache
def _english_seen() -> frozenset[str]:
    """Folded English names of everything in the train and dev splits."""
    return frozenset(name.casefold() for item, name in _names("en").items() if split_of(item) != "test")


@cache
def _names(locale: str) -> dict[str, str]:
    """Usable display names by item, only those that the locale itself gives, not what it would inherit."""
    data = _own_localedata().load(locale, merge_inherited=False)
    not_a = load_prompts("cldr_names")["not_a"]
    names: dict[str, str] = {}
    for kind, (section, shape) in _SECTIONS.items():
        for code, value in (data.get(section) or {}).items():
            name = value.get("long") if isinstance(value, dict) else value
            if isinstance(name, str) and re.fullmatch(shape, code) and code not in not_a[kind]:
                names[f"{kind}:{code}"] = name.strip()
    kinds_of: dict[str, set[str]] = {}
    for item, name in names.items():
        kinds_of.setdefault(name.casefold(), set()).add(item.partition(":")[0])
    return {
        item: name
        for item, name in names.items()
        if name and not _ASIDE.search(name) and name != item.partition(":")[2]
        if len(kinds_of[name.casefold()]) == 1
    }


@cache
def _own_localedata() -> Any:
    """A second copy of Babel's module: what is loaded without inheritance stays in a module's cache for good.

    In the one that all share, numbers and dates would then have no format in this process.
    """
    spec = importlib.util.find_spec("babel.localedata")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _locale(language: str) -> str:
    return _LOCALES.get(language, language.replace("-", "_"))
