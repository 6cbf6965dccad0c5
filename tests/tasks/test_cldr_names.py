from collections import Counter

import pytest
from babel.numbers import format_decimal

from crosstune.errors import UserError
from crosstune.languages.table import LANGUAGES
from crosstune.metrics.text import fold
from crosstune.tasks import make_task
from crosstune.tasks.cldr_names import _english_seen, _locale, _names, split_of

TASK = make_task("cldr-names")


@pytest.fixture(scope="module")
def tests():
    return {language: TASK.examples("test", language) for language in TASK.languages()}


def name(example):
    return example.prompt.removesuffix("\nKind:")


def test_many_languages_of_many_families(tests):
    assert len(tests) >= 100
    assert {"en", "de", "ru", "hi", "sw", "zh", "zh-Hant", "ar", "yo", "th", "ta", "fi", "ja"} <= set(tests)
    assert next(iter(tests)) == "en"
    assert len({LANGUAGES[language].family for language in tests}) >= 15


def test_every_language_is_asked_the_same_mix(tests):
    mixes = {tuple(sorted(Counter(e.answers[0] for e in examples).items())) for examples in tests.values()}
    assert mixes == {(("country", 25), ("currency", 25), ("language", 25), ("script", 13))}


def test_kinds_are_balanced_in_training():
    for split, count in (("train", 80), ("dev", 12)):
        assert set(Counter(e.answers[0] for e in TASK.examples(split, "en")).values()) == {count}


def test_kinds_take_turns_so_that_a_prefix_is_balanced(tests):
    for examples in tests.values():
        assert {e.answers[0] for e in examples[:4]} == set(examples[0].choices)


def test_no_item_and_no_spelling_crosses_the_splits(tests):
    seen = [*TASK.examples("train", "en"), *TASK.examples("dev", "en")]
    ids, spellings = {e.id for e in seen}, {fold(name(e)) for e in seen}
    assert len(ids) == len(seen)
    for examples in tests.values():
        assert not ids & {e.id for e in examples}
        assert not spellings & {fold(name(e)) for e in examples}
        assert all(split_of(e.id) == "test" for e in examples)
    english = _english_seen()
    names = [item for language in tests for item in _names(_locale(language)).items()]
    assert any(split_of(item) == "test" and text.casefold() in english for item, text in names)


def test_names_are_unambiguous_and_localised(tests):
    for language, examples in tests.items():
        kinds = {}
        for example in examples:
            kinds.setdefault(fold(name(example)), set()).add(example.answers[0])
            assert name(example) not in ("", example.id.partition(":")[2])
            assert example.language == language
        assert all(len(kind) == 1 for kind in kinds.values()), language
    english = {e.id: name(e) for e in tests["en"]}
    for language in tests:
        if LANGUAGES[language].script != "Latn":
            assert not any(name(e) == english.get(e.id) or name(e).isascii() for e in tests[language]), (
                language
            )


def test_languages_share_most_items(tests):
    english = {e.id for e in tests["en"]}
    assert all(len(english & {e.id for e in examples}) >= 50 for examples in tests.values())


def test_training_in_a_target_language_is_refused():
    with pytest.raises(UserError, match='has a train split in "en" only'):
        TASK.examples("train", "de")


@pytest.mark.parametrize("language", ["xx", "ab", "../en"])
def test_a_language_not_offered_is_named(language):
    with pytest.raises(UserError, match=rf'no "{language}" among its \d+ languages'):
        TASK.examples("test", language)


def test_babel_still_knows_numbers_afterwards():
    make_task("cldr-names").examples("test", "sw")
    assert format_decimal(1234.5, locale="sw") == "1,234.5"
