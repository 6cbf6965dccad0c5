"""Results with little in them: report, export and terminal draw what there is, and leave out the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crosstune import api
from crosstune.analysis.curves import curve
from crosstune.cli.printing import show
from crosstune.report import export as exporting
from crosstune.report.terminal import results_table
from simulated import simulate, write_store

SHOTS: dict[str, Any] = {
    f"few-shot k {k}": {"chance": 0.5, "method": {"name": "few-shot", "k": k}, "train": None} for k in (2, 8)
}
RATES: dict[str, Any] = {
    f"lora {rate}": {"chance": 0.5, "train": {"learning_rate": rate, "steps": 10, "batch_size": 8, "seed": 0}}
    for rate in (1e-3, 1e-2)
}
METHODS = {"shots": SHOTS, "shots and lora": SHOTS | {"lora": 0.5}, "rates": RATES, "lora": {"lora": 0.5}}
TOLD = {
    "no language": pl.lit(False),
    "the source's alone": pl.col("language") == "en",
    "one target's": pl.col("language") == "de",
    "all": pl.lit(True),
}


def results(folder: Path, methods: Mapping[str, Any], languages: list[str], told: pl.Expr) -> api.Results:
    runs, rows = simulate(methods, seeds=(0,), examples=6, languages=languages, written=True)
    answers = pl.when(told).then(pl.lit("en")).otherwise(pl.lit("undecidable"))
    return api.results(write_store(folder, runs, rows.with_columns(answer_language=answers)))


@pytest.mark.parametrize(
    ("methods", "languages", "told"),
    [
        ("shots", ["en", "de", "sw"], "no language"),
        ("shots and lora", ["en", "de", "sw"], "all"),
        *[("rates", ["en", "de", "sw"], told) for told in TOLD if told != "all"],
        *[("lora", languages, told) for languages in (["en"], ["de"]) for told in ("no language", "all")],
    ],
)
def test_everything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: str, languages: list[str], told: str
) -> None:
    # What is tried is making a chart, not drawing it, which takes longer than all the rest.
    monkeypatch.setattr(exporting, "save", lambda chart, file, form: file.write_text(chart.to_json()))
    found = results(tmp_path / "s", METHODS[methods], languages, TOLD[told])
    assert api.report(tmp_path / "s").stat().st_size > 100_000
    names = {path.name for path in found.export(tmp_path / "out", ["csv", "tex", "svg"])}
    assert "all.tex" in names
    show(results_table(found.sections))
    # What is drawn of answer languages is of targets, and only where some could be told.
    told_of_targets = told in ("all", "one target's") and languages != ["en"] and "de" in languages
    drawn = any("in-source-language" in name or "answer-languages" in name for name in names)
    assert drawn == told_of_targets


def test_shots_are_a_curve(tmp_path: Path) -> None:
    """Few-shot prompting trains nothing, but the number of its examples is a setting like any other."""
    found = results(tmp_path, SHOTS | {"none": 0.3}, ["en", "de", "sw"], TOLD["all"])
    table = curve(found.runs, found.scores, "k")
    assert table.select("line", "value").rows() == [("few-shot", 2.0), ("few-shot", 8.0), ("none", None)]
