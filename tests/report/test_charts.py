import json
from typing import Any

import polars as pl
import pytest
from synthetic import LANGUAGES, TASKS, frame, make_predictions, make_run

from crosstune.analysis.groups import group_means
from crosstune.report.figures import rates
from crosstune.report.figures import scores as charts
from crosstune.report.figures.style import ON_DARK
from crosstune.report.sections import Section, sections


@pytest.fixture(scope="module")
def section(runs: list[dict[str, Any]], predictions: pl.DataFrame) -> Section:
    return next(part for part in sections(runs, predictions) if part.task == "number-words")


def data(chart: Any, layer: int | None = None) -> list[dict[str, Any]]:
    spec = chart.to_dict()
    source = (spec if layer is None else spec["layer"][layer])["data"]
    return source["values"] if "values" in source else spec["datasets"][source["name"]]


def test_heatmap_holds_every_score_once(section: Section) -> None:
    values = data(charts.heatmap(section), 0)
    assert len(values) == len(LANGUAGES) * len(section.methods)
    expected = {(row["method"], row["language"]): row["score"] for row in section.languages.rows(named=True)}
    for row in values:
        code = row["language"].split("␟")[0]
        assert row["value"] == pytest.approx(100 * expected[row["method"], code], abs=1e-3)


def test_heatmap_names_each_family_once(section: Section) -> None:
    keys = {row["language"] for row in data(charts.heatmap(section), 0)}
    marks = [key.split("␟")[3] for key in keys if key.split("␟")[3]]
    assert len(marks) == len(set(marks)) == group_means(section.scores, "family")["group"].n_unique()


def test_gap_chart_joins_source_and_mean(section: Section) -> None:
    spans = data(charts.gap_chart(section), 0)
    for span, row in zip(spans, section.table.rows(named=True), strict=True):
        assert span["high"] - span["low"] == pytest.approx(100 * row["gap"])


def test_groups_say_how_many_languages(section: Section) -> None:
    labels = {row["group"] for row in data(rates.group_chart(section, "script"))}
    assert "Latin (11)" in labels


def test_loss_curves_leave_out_what_is_not_finite_and_stay_small() -> None:
    curve = [{"step": step, "loss": None if step == 1 else 1 / step} for step in range(1, 10_000)]
    run = make_run(TASKS[0], 2, 0, curve=curve)
    untrained = make_run(TASKS[0], 0, 0)
    [section] = sections([run, untrained], frame([*make_predictions(run), *make_predictions(untrained)]))
    values = data(charts.loss_curves(section))
    assert 50 < len(values) <= charts.CURVE_POINTS
    json.dumps(values, allow_nan=False)


def test_untrained_runs_have_no_curves() -> None:
    run = make_run(TASKS[0], 0, 0)
    [section] = sections([run], frame(make_predictions(run)))
    assert not section.has_losses
    assert not section.has_in_english


def test_many_methods_stay_apart() -> None:
    runs = [
        make_run(TASKS[0], 2, 0, label=f"prefix {n}", method={"name": "prefix", "length": n})
        for n in range(12)
    ]
    [section] = sections(runs, frame([row for run in runs for row in make_predictions(run, 2)]))
    encoding = rates.group_chart(section, "family").to_dict()["encoding"]
    looks = list(zip(encoding["color"]["scale"]["range"], encoding["shape"]["scale"]["range"], strict=True))
    assert len(set(looks)) == 12


def test_colours_stand_out_on_white_and_on_the_dark_page() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for on_white, on_dark in ON_DARK.items():
        assert 1.05 / (light(on_white) + 0.05) >= 4.5
        assert (light(on_dark) + 0.05) / (light("#14181d") + 0.05) >= 4.5
