"""Line and word pass rates against the published definition, written out plainly; the benchmark's prompts."""

import csv
import io
import os
import string
import zipfile
from pathlib import Path

import pytest

from crosstune.metrics.language_confusion import MIN_LETTERS, WORD_PASS, passes
from crosstune.metrics.language_id import identify

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
RU = "Она живёт в большом городе у широкой реки"
EN = "The town lies on a wide river and many people live there"


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        (RU, "ru", (1.0, 1.0)),
        (f"{RU}\n{EN}", "ru", (0.0, None)),
        (f"{RU}\nYes, of course", "ru", (1.0, 1.0)),  # three words are no line
        ("Да.", "ru", (None, None)),
        ("", "ru", (None, None)),
        (f"{RU} with", "ru", (1.0, 0.0)),
        (f"{RU} with many friends", "ru", (0.0, None)),  # code-switched
        (f"{RU} the end, NATO, Denver", "ru", (1.0, 1.0)),  # short, or with capitals
        (f"{RU} iphone", "ru", (1.0, 0.0)),  # no list of words: any is taken
        (f"{RU}\nQ: {EN}", "ru", (1.0, 1.0)),  # what comes behind a question of its own does not count
        ("Die Stadt liegt an einem großen Fluss", "de", (1.0, None)),
        (EN, "de", (0.0, None)),
        ("这座城市位于一条大河旁边,有很多居民在那里工作和生活with他们的家人", "zh", (1.0, 0.0)),
        ("这座城市位于一条大河旁边", "zh", (1.0, 1.0)),
        ("这座城市", "zh", (None, None)),
        (EN, "luo", (None, None)),  # not to be told from English
    ],
)
def test_an_answer_passes_by_lines_and_by_words(answer, target, expected):
    assert passes(answer, target, "en") == expected


def test_a_list_of_english_words_spares_the_others():
    assert passes(f"{RU} iphone", "ru", "en", {"with", "friends"}) == (1.0, 1.0)
    assert passes(f"{RU} with", "ru", "en", {"with"}) == (1.0, 0.0)


def _published(completions, lang, english):
    """The definition: rates over all completions at once, errors counted, in the published script's order."""
    skipped = line_errors = word_errors = 0
    for completion in completions:
        text = completion.split("\nQ:")[0].strip()
        for mark in string.punctuation + "،#":
            text = text.replace(mark, "")
        text = text.replace("—", " ")
        kept = []
        for line in text.split("\n"):
            if lang in ("zh", "ja"):
                if len([letter for letter in line if letter.isalpha()]) >= MIN_LETTERS:
                    kept.append(line)
            elif len(line.split()) >= 5:
                kept.append(line)
        if not kept:
            skipped += 1
        elif [line for line in kept if identify(line, lang, "en") != lang]:
            line_errors += 1
        else:
            word_errors += any(word in english for line in kept for word in line.split())
    counted = len(completions) - skipped
    lpr = 1 - line_errors / max(1, counted)
    return lpr, 1 - word_errors / max(1, counted - line_errors) if lang in WORD_PASS else None


@pytest.mark.skipif(not (DATA / "language_confusion").is_dir(), reason="the benchmark's prompts are not here")
def test_rates_are_those_of_the_published_definition_on_the_benchmarks_prompts():
    english = {"what", "this", "with", "about", "write", "email", "from", "python"}
    with zipfile.ZipFile(DATA / "language_confusion" / "test_sets.zip") as archive:
        for lang in ("ar", "fr", "ja", "ko", "ru", "zh"):
            names = [
                n for n in archive.namelist() if n.startswith("test_sets/mono") and n.endswith(f"/{lang}.csv")
            ]
            prompts = [
                row["prompt"]
                for name in names
                for row in csv.DictReader(io.StringIO(archive.read(name).decode("utf-8")))
            ][::9]
            texts = [
                *prompts,
                *(f"{one}\n{EN}" for one in prompts[::3]),
                *(f"{one} with" for one in prompts[::4]),
            ]
            ours = [passes(text, lang, "en", english) for text in texts]
            lines = [line for line, _ in ours if line is not None]
            words = [word for _, word in ours if word is not None]
            lpr, wpr = _published(texts, lang, english)
            assert sum(lines) / len(lines) == pytest.approx(lpr)
            assert 0.5 < lpr < 0.95
            if wpr is not None and lang not in ("ja", "zh"):  # there words are runs of letters, not of spaces
                assert sum(words) / len(words) == pytest.approx(wpr)
                assert 0.5 < wpr < 1
