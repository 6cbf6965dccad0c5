import polars as pl
import pytest

from crosstune.analysis.answer_language import (
    CORRECT,
    SCORE_IF_CORRECT,
    SOURCE,
    SWITCHED,
    UNDECIDED,
    relabel,
    with_answer_language,
)


def table(*rows):
    columns = ("run", "language", "score", "answer_language")
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_rates_are_means_over_what_could_be_told():
    actual = with_answer_language(
        table(
            ("r", "de", 1.0, "de"),
            ("r", "de", 0.5, "de"),
            ("r", "de", 0.0, "en"),
            ("r", "de", 0.0, "mixed"),
            ("r", "de", 0.9, "undecidable"),
            ("r", "en", 1.0, "en"),
        ),
        {"r": "en"},
    )
    german, english = (actual.filter(pl.col("language") == code) for code in ("de", "en"))
    assert german[CORRECT].mean() == 0.5
    assert german[SOURCE].mean() == 0.25
    assert german[SWITCHED].mean() == 0.25
    assert german[UNDECIDED].mean() == pytest.approx(0.2)
    assert german[SCORE_IF_CORRECT].mean() == 0.75
    # English answers to English prompts are no failure.
    assert english[SOURCE].to_list() == [None]
    assert english[CORRECT].mean() == 1


def test_choices_have_no_language():
    actual = with_answer_language(table(("r", "de", 1.0, None)), {"r": "en"})
    assert actual.select(CORRECT, SOURCE, SWITCHED, UNDECIDED, SCORE_IF_CORRECT).row(0) == (None,) * 5


def test_older_tables_come_back_as_they_are():
    older = table(("r", "de", 1.0, None)).drop("answer_language")
    assert with_answer_language(older, {"r": "en"}) is older


def test_stored_labels_are_made_anew_from_the_stored_texts():
    columns = ("run", "language", "score", "prediction", "answer_language")
    older = pl.DataFrame(
        [
            ("r", "ru", 1.0, "шестьсот сорок два", "undecidable"),
            ("r", "bn", 0.0, "A. 10", "en"),
            ("s", "en", 0.0, "шестьсот сорок два", "en"),
            ("r", "ru", 1.0, "шестьсот сорок два", "undecidable"),
            ("r", "de", 1.0, "yes", None),
        ],
        schema=columns,
        orient="row",
    )
    built = relabel(older, {"r": "en", "s": "ru"})
    assert built["answer_language"].to_list() == ["ru", "undecidable", "ru", "ru", None]
    assert built.drop("answer_language").equals(older.drop("answer_language"))
