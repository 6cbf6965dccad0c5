import statistics
import subprocess
import sys

import polars as pl
import pytest

from crosstune.analysis.groups import family_order, group_means, group_of
from crosstune.analysis.transfer import language_scores
from crosstune.errors import UserError
from crosstune.languages.table import find

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
    return language_scores([run], pl.DataFrame(rows))


@pytest.mark.parametrize("by", ["family", "branch", "script", "resource", "macroarea"])
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
        "import sys, crosstune.analysis.groups, crosstune.report.html, crosstune.report.terminal;"
        "sys.exit(any(m.split('.')[0] in ('torch', 'transformers') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
