"""Figures and tables as files, and the same as objects in Python."""

import csv
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest

import crosstune
from crosstune.api import Results
from crosstune.cli import main as cli
from crosstune.errors import UserError
from crosstune.report.contents import contents
from simulated import simulate, write_store

EVIL = "<script>alert(1)</script> & \\input{x} $ % _ \u202e 日本"
LANGUAGES = ["en", "de", "fr", "fi", "et", "hu", "sw", "zu", "hi"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    methods: dict[str, Any] = {
        "prefix": 0.7,
        "lora": {"chance": 0.5, "train": {"learning_rate": 1e-3}},
        "lora lr 0.1": {"chance": 0.5, "english": 0.5, "train": {"learning_rate": 0.1}},
        f"none {EVIL}": 0.3,
    }
    runs, rows = simulate(
        methods, languages=LANGUAGES, examples=20, seeds=(0, 1), task="qa_/\\<b>", written=True
    )
    return write_store(tmp_path_factory.mktemp("export") / "runs", runs, rows)


@pytest.fixture(scope="module")
def results(store: Path) -> Results:
    return crosstune.results(store)


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    files = results.export(tmp_path_factory.mktemp("out"), ["svg", "csv", "tex"])
    return {file.name: file for file in files}


def test_every_figure_and_table_is_there(written: dict[str, Path]) -> None:
    kinds = [
        "heatmap",
        "gap",
        "differences",
        "differences-by-language",
        "family",
        "script",
        "in-source-language",
    ]
    for kind in [*kinds, "answer-languages"]:
        assert f"b-demo-tiny-{kind}.svg" in written, sorted(written)
    assert "b-demo-tiny-curve-learning-rate.svg" in written
    for kind in ("transfer", "languages", "family", "script", "resource", "differences"):
        assert {f"b-demo-tiny-{kind}.csv", f"b-demo-tiny-{kind}.tex"} <= set(written)
    assert {"verdicts.csv", "verdicts.tex", "settings.csv", "settings.tex", "all.tex"} <= set(written)


def test_page_export_and_notebook_offer_the_same(store: Path, results: Results, tmp_path: Path) -> None:
    items = contents(results.sections[0])
    figures = {item.id for item in items if item.chart is not None}
    tables = {item.id: item.table for item in items if item.table is not None}
    assert {"in-source-language-by-family", "in-source-language-by-script", "curve-learning-rate"} <= figures
    page = crosstune.report(store, tmp_path / "page.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<figure data-content="([^"]+)"', page)) == figures
    assert set(re.findall(r'<table[^>]* data-content="([^"]+)"', page)) == set(tables) - {"paper"}
    files = results.export(tmp_path / "out", ["svg", "csv"])
    names = {
        form: {f.stem.removeprefix("b-demo-tiny-") for f in files if f.suffix == form}
        for form in (".svg", ".csv")
    }
    assert names[".svg"] == figures
    assert names[".csv"] - {"verdicts", "settings", "all-tasks"} == set(tables)
    assert set(results.charts.ids()) == figures | set(tables)
    for name in figures:
        assert results.charts.draw(name).to_dict(), name
    for name, table in tables.items():
        assert results.charts.table(name).equals(table().data)


def test_figures_are_inert_and_ask_for_nothing(written: dict[str, Path]) -> None:
    for name, file in written.items():
        if name.endswith(".svg"):
            root = ET.fromstring(file.read_text(encoding="utf-8"))
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            for node in root.iter():
                assert node.tag.rpartition("}")[2] not in ("script", "image", "foreignObject")
                assert not any(key.endswith("href") or key.startswith("on") for key in node.attrib)


def test_csv_holds_the_numbers_in_full(written: dict[str, Path], results: Results) -> None:
    read = pl.read_csv(written["b-demo-tiny-transfer.csv"])
    assert read["target_mean"].to_list() == pytest.approx(results.transfer["target_mean"].to_list(), abs=0)
    with written["b-demo-tiny-differences.csv"].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["difference"]) for row in rows] == results.differences["difference"].to_list()
    assert len(rows) == 6
    settings = pl.read_csv(written["settings.csv"])
    assert settings.height == 4
    assert sum(len(ids.split()) for ids in settings["runs"]) == len(results.runs)


def test_latex_shows_the_numbers_of_the_tables(written: dict[str, Path], results: Results) -> None:
    text = written["b-demo-tiny-languages.tex"].read_text(encoding="ascii")
    means = results.sections[0].languages
    finnish = means.filter(language="fi", method="prefix")["score"][0]
    line = next(line for line in text.splitlines() if line.startswith("Finnish"))
    assert f"{100 * finnish:.1f}" in line.split(" & ")
    for name, file in written.items():
        if name.endswith(".tex"):
            assert "\\input{x}" not in file.read_text(encoding="ascii")


@pytest.mark.parametrize(("form", "start"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_other_formats(results: Results, tmp_path: Path, form: str, start: bytes) -> None:
    from crosstune.report.export import save

    save(results.charts.gap(), tmp_path / "x", form)
    assert (tmp_path / "x").read_bytes().startswith(start)


def test_the_command(store: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["crosstune", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    assert call(store, tmp_path / "out", "--format", "csv") == 0
    listed = capsys.readouterr().out.splitlines()
    assert sorted(listed) == sorted(str(file) for file in (tmp_path / "out").rglob("*.csv"))
    assert call(store, tmp_path / "out", "--format", "gif") == 2
    assert capsys.readouterr().err.startswith('error: no format "gif"')
    (tmp_path / "file").write_text("")
    assert call(store, tmp_path / "file", "--format", "csv") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_charts_and_tables_in_two_lines(results: Results) -> None:
    for chart in (
        results.charts.heatmap(),
        results.charts.heatmap(metric="in_source_language"),
        results.charts.gap(),
        results.charts.groups("family"),
        results.charts.differences(),
        results.charts.curve("learning_rate"),
    ):
        assert isinstance(chart, alt.TopLevelMixin)
        assert chart.to_dict()["$schema"]
    assert results.groups("family")["group"].n_unique() == 3
    assert {"a", "b", "difference", "low", "high", "p", "detectable", "model"} <= set(
        results.differences.columns
    )


def test_charts_say_what_they_need(results: Results) -> None:
    with pytest.raises(UserError, match='no results of "sib200"'):
        results.charts.heatmap("sib200")
    with pytest.raises(UserError, match='no metric "exakt"'):
        results.charts.heatmap(metric="exakt")
    with pytest.raises(UserError, match='no grouping "famly"; did you mean "family"'):
        results.charts.groups("famly")  # type: ignore[arg-type]
    with pytest.raises(UserError, match='no figure or table "losses"'):
        results.charts.losses()
    one, other = simulate({"lora": 0.5}, task="a", examples=4), simulate({"lora": 0.5}, task="b", examples=4)
    from crosstune.analysis.predictions import Predictions

    both = Results(one[0] + other[0], Predictions(pl.concat([one[1], other[1]])))
    with pytest.raises(UserError, match="several sets of results: a demo:tiny; b demo:tiny; name the task"):
        both.charts.gap()
    assert both.charts.gap("a")
