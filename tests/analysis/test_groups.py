import statistics
import subprocess
import sys

import polars as pl
import pytest

from crosstune.analysis.answer_language import CORRECT, SOURCE, UNDECIDED
from crosstune.analysis.groups import family_order, group_means, group_of, language_rates
from crosstune.analysis.transfer import language_scores
from crosstune.errors import UserError
from crosstune.languages.table import find
from records import as_record

SCORES = {"en": 0.9, "de": 0.8, "hi": 0.5, "sw": 0.4, "zu": 0.2, "zh": 0.6, "xx-unlisted": 0.1}


@pytest.fixture
def scores() -> pl.DataFrame:
    run = {
        "id": "a",
        "model": "m",
        "method": {"name": "lora"},
        "label": "lora",
        "task": {"name": "toy", "version": 1, "metrics": ["accuracy"], "options": {}},
        "source_language": "en",
        "seed": 0,
        "train": None,
        "trained_parameters": 1,
        "zero_shot": True,
        "dtype": "float32",
        "fingerprints": {"train": None, "test": dict.fromkeys(SCORES, "d")},
    }
    rows = [{"run": "a", "language": code, "example": "0", "score": value} for code, value in SCORES.items()]
    return language_scores([as_record(run)], pl.DataFrame(rows))


@pytest.mark.parametrize("by", ["family", "branch", "script", "resource", "seen_script", "macroarea"])
def test_group_means_match_plain_python(scores: pl.DataFrame, by: str) -> None:
    expected: dict[str, list[float]] = {}
    for code, value in SCORES.items():
        if code != "en":  # the source is no target
            expected.setdefault(group_of(code, by), []).append(value)  # type: ignore[arg-type]
    out = group_means(scores, by)  # type: ignore[arg-type]
    assert {row["group"]: row["languages"] for row in out.rows(named=True)} == {
        group: len(values) for group, values in expected.items()
    }
    for row in out.rows(named=True):
        values = expected[row["group"]]
        assert row["score"] == pytest.approx(statistics.fmean(values))
        assert (row["lowest"], row["highest"]) == (min(values), max(values))


def test_a_language_the_table_lacks_is_unknown_and_last(scores: pl.DataFrame) -> None:
    assert group_means(scores, "family")["group"].to_list()[-1] == "unknown"
    assert family_order(["xx-unlisted", *SCORES])[-1] == "xx-unlisted"


def test_a_group_is_what_the_language_table_says() -> None:
    assert group_of("sw", "family") == find("sw").family
    assert group_of("zh", "resource") == f"class {find('zh').resource}"


def test_wrong_grouping_names_the_near_one(scores: pl.DataFrame) -> None:
    with pytest.raises(UserError, match='did you mean "family"'):
        group_means(scores, "famly")  # type: ignore[arg-type]


def test_analysis_and_report_import_without_a_model_library() -> None:
    code = (
        "import sys, crosstune.analysis.groups, crosstune.report.page.html, crosstune.report.terminal;"
        "sys.exit(any(m.split('.')[0] in ('torch', 'transformers') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_seen_script_is_that_of_the_source() -> None:
    assert group_of("sw", "seen_script", "en") == "seen script"
    assert group_of("hi", "seen_script", "en") == "unseen script"
    assert group_of("mr", "seen_script", "hi") == "seen script"  # both Devanagari
    assert group_of("zh-Hant", "seen_script", "zh") == "unseen script"
    assert group_of("xx-unlisted", "seen_script", "en") == "unknown"


def test_the_groups_of_seen_scripts_follow_the_source(scores: pl.DataFrame) -> None:
    codes = {row["group"]: row["codes"] for row in group_means(scores, "seen_script").rows(named=True)}
    assert codes == {
        "seen script": ["de", "sw", "zu"],
        "unseen script": ["hi", "zh"],
        "unknown": ["xx-unlisted"],
    }


def written(told: dict[str, list[str]]) -> pl.DataFrame:
    """Scores of one run whose answers were identified as these languages."""
    run = {
        "id": "a", "model": "m", "method": {"name": "lora"}, "label": "lora", "source_language": "en",
        "task": {"name": "toy", "version": 1, "metrics": ["exact"], "options": {}}, "seed": 0, "train": None,
        "trained_parameters": 1, "zero_shot": True, "dtype": "float32",
        "fingerprints": {"train": None, "test": dict.fromkeys(told, "d")},
    }  # fmt: skip
    rows = [
        {"run": "a", "language": code, "example": str(i), "score": 0.0, "answer_language": label}
        for code, labels in told.items()
        for i, label in enumerate(labels)
    ]
    return language_scores(
        [as_record(run)], pl.DataFrame(rows, schema_overrides={"answer_language": pl.String})
    )


def test_rates_of_answer_languages_by_group() -> None:
    scores = written(
        {
            "en": ["en", "en"],
            "de": ["de", "en"],
            "sw": ["undecidable", "undecidable"],
            "hi": ["en", "en"],
            "th": ["th", "undecidable"],
        }
    )
    rows = {row["group"]: row for row in language_rates(scores, "seen_script").rows(named=True)}
    seen, unseen = rows["seen script"], rows["unseen script"]
    assert (seen["languages"], seen["decided"], seen["examples"]) == (2, 1, 4)
    assert (seen[CORRECT], seen[SOURCE], seen[UNDECIDED]) == (0.5, 0.5, 0.5)
    assert (unseen["languages"], unseen["decided"], unseen["codes"]) == (2, 2, ["hi", "th"])
    assert (unseen[CORRECT], unseen[SOURCE], unseen[UNDECIDED]) == (0.5, 0.5, 0.25)
    (together,) = language_rates(scores).rows(named=True)
    assert (together["group"], together["languages"], together["decided"]) == ("all", 4, 3)
    assert together[SOURCE] == pytest.approx((0.5 + 1 + 0) / 3)


def test_choices_have_no_rates(scores: pl.DataFrame) -> None:
    assert language_rates(scores).is_empty()
    assert language_rates(scores, "family").is_empty()
