"""Profiles of languages that py3langid does not know: the file, the probabilities, and what is decided."""

import gzip
import importlib.util
import math
import os
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from crosstune.languages import LANGUAGES
from crosstune.metrics.language_id import MIXED, UNDECIDABLE, identify, measurable
from crosstune.metrics.profiles import ADDED, ORDERS, TEMPERATURE, ProfileIdentifier, ngrams, profiles

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CROSSTUNE_DATA") or ROOT / "../shared/data").resolve()
BAMBARA = "Hadamaden bɛɛ danbe ni josira ka kan, u bɛɛ bangera hɔrɔnya la"
ENGLISH = "The town lies on a wide river and many people live there"


def test_the_script_writes_the_packaged_profiles_again():
    spec = importlib.util.spec_from_file_location("build_profiles", ROOT / "scripts" / "build_profiles.py")
    built = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(built)
    packed = files("crosstune.metrics").joinpath("profiles.txt.gz").read_bytes()
    assert len(packed) < 300_000
    lines = dict(line.split("\t", 1) for line in gzip.decompress(packed).decode().splitlines())
    assert all(LANGUAGES[code].script == "Latn" for code in lines)
    if not (DATA / "udhr").is_dir():
        pytest.skip("the UDHR is not here")
    texts = built.texts(DATA / "udhr" / "udhr2.zip")
    assert texts.keys() == lines.keys()
    for code in ("bm", "en", "tw", "vi"):
        assert built.profile(texts[code]) == lines[code], code


def test_ngrams_are_of_words_with_a_space_at_both_ends():
    assert Counter(ngrams("Ɛ’a 12")) == Counter(
        [
            (2, " ɛ"),
            (2, "ɛ'"),
            (2, "'a"),
            (2, "a "),
            (3, " ɛ'"),
            (3, "ɛ'a"),
            (3, "'a "),
            (4, " ɛ'a"),
            (4, "ɛ'a "),
        ]
    )
    assert list(ngrams("12 !")) == []


def test_probabilities_are_those_of_naive_bayes_by_hand():
    codes = ("bm", "ee", "en")
    logs = []
    for code in codes:
        log = 0.0
        for n in ORDERS:
            kept = profiles()[code].counts[n]
            size = len(set().union(*(other.counts[n] for other in profiles().values())))
            for order, gram in ngrams(BAMBARA[:40]):
                if order == n:
                    log += math.log((kept.get(gram, 0) + ADDED) / (profiles()[code].totals[n] + ADDED * size))
        logs.append(log / len(ORDERS) / TEMPERATURE)
    weights = [math.exp(log - max(logs)) for log in logs]
    ranked = dict(ProfileIdentifier(codes).rank(BAMBARA[:40]))
    assert ranked == pytest.approx({c: w / sum(weights) for c, w in zip(codes, weights, strict=True)})
    assert ranked["ee"] > 0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (BAMBARA, "bm"),
        (ENGLISH, "en"),
        ("La ville se trouve au bord d'un grand fleuve et beaucoup de gens y vivent", "fr"),
        (f"{BAMBARA}. {ENGLISH}.", MIXED),
        (BAMBARA[:20], UNDECIDABLE),
        ("Москва", "other"),
    ],
)
def test_pairs_that_only_profiles_know(text, label):
    assert identify(text, "bm", "en") == label
    assert identify(text, "en", "bm") == label


def test_the_first_identifier_chooses_wherever_it_knows_both(monkeypatch):
    def never(codes):
        raise AssertionError(codes)

    monkeypatch.setattr("crosstune.metrics.language_id._profile_identifier", never)
    assert identify("Mji upo kando ya mto mkubwa na watu wengi wanaishi huko", "sw", "en") == "sw"
    assert identify(ENGLISH, "sw", "en") == "en"
    assert identify("Hadamaden bɛɛ", "bm", "ru") == "bm"  # the script decides


@pytest.mark.skipif(not (DATA / "masakhapos").is_dir(), reason="MasakhaPOS is not here")
def test_what_is_decided_is_right_in_99_of_100():
    right = decided = every = 0
    for folder, code in (("bam", "bm"), ("ewe", "ee"), ("twi", "tw"), ("nya", "ny")):
        assert measurable(code, "en")
        blocks = (DATA / "masakhapos" / folder / "test.txt").read_text(encoding="utf-8").split("\n\n")
        texts = [" ".join(line.split()[0] for line in block.splitlines() if line.strip()) for block in blocks]
        labels = [identify(text, code, "en") for text in texts[:60] if sum(map(str.isalpha, text)) > 20]
        every += len(labels)
        decided += sum(label != UNDECIDABLE for label in labels)
        right += labels.count(code)
    assert decided > 0.98 * every
    assert right >= 0.99 * decided
