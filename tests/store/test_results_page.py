"""docs/results.md: its DuckDB query gives what `crosstune.results` gives."""

import re
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

import crosstune
from crosstune.running.runner import run_study
from crosstune.study.spec import Study
from saved_model import study_of

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


def test_the_query_of_the_page(model: Path, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    (query,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    folder = tmp_path / "runs" / "demo"
    study = Study(**study_of(model, folder, tasks=["number-words", "cldr-names"], methods=["none", "lora"]))
    run_study(study, console=Console(quiet=True))
    rows = duckdb.connect().execute(query.replace("'runs/demo/", f"'{folder}/")).fetchall()
    scores = crosstune.results(folder).scores
    # The page's query takes all tasks of a method together.
    expected = {
        (method, language): (total / n, n)
        for method, language, total, n in scores.group_by("method", "language")
        .agg((pl.col("score") * pl.col("n")).sum().alias("total"), pl.col("n").sum())
        .iter_rows()
    }
    assert {(method, language) for method, language, _, _ in rows} == set(expected)
    for method, language, score, n in rows:
        assert (pytest.approx(score), n) == expected[method, language]
