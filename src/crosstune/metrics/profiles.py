"""An identifier for languages in Latin script that py3langid does not know: n-gram profiles of the UDHR.

Naive Bayes over n-grams of two to four letters, the frequent ones of one declaration of some 10,000 letters
(``scripts/build_profiles.py``; the texts are in the public domain). It has two calls of py3langid's, so that
either can choose. docs/language-identification.md has what it is right in.
"""

import functools
import gzip
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import regex  # type: ignore[import-untyped]

ORDERS = (2, 3, 4)
# Added to each count, so that an n-gram that was not seen is not impossible.
ADDED = 0.5
# Neighbouring n-grams are not independent: divided by this, a probability of 0.9 is right in 99 of 100.
TEMPERATURE = 2.7

_WORD = regex.compile(r"\p{L}[\p{L}\p{M}'’ʼ]*")
_APOSTROPHES = str.maketrans("’ʼ", "''")


def ngrams(text: str) -> Iterator[tuple[int, str]]:
    """The n-grams of a text's words in lower case, a space at both ends of each, with their order."""
    for word in _WORD.findall(unicodedata.normalize("NFC", text).lower().translate(_APOSTROPHES)):
        padded = f" {word} "
        for n in ORDERS:
            for start in range(len(padded) - n + 1):
                yield n, padded[start : start + n]


@dataclass(frozen=True)
class Profile:
    """Of one language, by order."""

    counts: Mapping[int, Mapping[str, int]]  # of the n-grams kept
    totals: Mapping[int, int]  # of all there were


@functools.cache
def profiles() -> dict[str, Profile]:
    """The profiles by canonical code."""
    packed = files(__package__).joinpath("profiles.txt.gz").read_bytes()
    read: dict[str, Profile] = {}
    for line in gzip.decompress(packed).decode("utf-8").splitlines():
        code, *orders = line.split("\t")
        counts: dict[int, dict[str, int]] = {}
        totals: dict[int, int] = {}
        for n, order in zip(ORDERS, orders, strict=True):
            total, *groups = order.split("|")
            totals[n] = int(total)
            # "12:the and": what occurs twelve times. A space in an n-gram is written "_".
            parted = (group.partition(":") for group in groups)
            counts[n] = {
                gram.replace("_", " "): int(count) for count, _, grams in parted for gram in grams.split(" ")
            }
        read[code] = Profile(counts, totals)
    return read


@functools.cache
def _sizes() -> dict[int, int]:
    """How many n-grams of each order any profile has."""
    return {n: len({gram for one in profiles().values() for gram in one.counts[n]}) for n in ORDERS}


class ProfileIdentifier:
    """Chooses among languages by their profiles."""

    def __init__(self, codes: Sequence[str]) -> None:
        self._among = {code: profiles()[code] for code in codes}

    def rank(self, text: str) -> list[tuple[str, float]]:
        """Each language and its probability, the most probable first."""
        sums = dict.fromkeys(self._among, 0.0)
        seen = list(ngrams(text))
        for code, profile in self._among.items():
            base = {n: math.log(profile.totals[n] + ADDED * _sizes()[n]) for n in ORDERS}
            for n, gram in seen:
                sums[code] += math.log(profile.counts[n].get(gram, 0) + ADDED) - base[n]
        top = max(sums.values())
        weights = {
            code: math.exp((value - top) / (len(ORDERS) * TEMPERATURE)) for code, value in sums.items()
        }
        total = sum(weights.values())
        return sorted(((code, w / total) for code, w in weights.items()), key=lambda pair: -pair[1])

    def classify(self, text: str) -> tuple[str, float]:
        """The most probable language and its probability."""
        return self.rank(text)[0]
