"""Tables for papers: methods by languages and by tasks; the best in bold, significantly worse ones marked."""

import json
from pathlib import Path

import polars as pl
import pytest
from synthetic import METHODS, TASKS, frame, make_predictions, make_run

from crosstune.analysis.predictions import as_predictions
from crosstune.api import Results, import_results
from crosstune.report.contents import contents
from crosstune.report.sections import Section, sections
from crosstune.report.tables import latex, paper


@pytest.fixture(scope="module")
def results() -> Results:
    """Two tasks; the third method is far below the best one, as a fourth is not."""
    languages = ["en", "de", "ru", "ar"]
    runs = [
        make_run(task, n, seed, languages=languages)
        for task in TASKS[:2]
        for n in (2, 3, 4)
        for seed in (0, 1)
    ]
    reach = {METHODS[2][1]: 3, METHODS[3][1]: 8, METHODS[4][1]: 9}
    rows = [
        row | {"score": float((7 * place) % 10 < reach[run.label])}
        for run in runs
        for place, row in enumerate(make_predictions(run, 100))
    ]
    return Results(runs, as_predictions(frame(rows)))


@pytest.fixture(scope="module")
def parts(results: Results) -> list[Section]:
    return results.sections


def test_methods_by_languages(parts: list[Section]) -> None:
    (part, _) = parts
    table = paper.by_languages(part)
    assert [column.title for column in table.columns] == ["Method", "English", "ar", "de", "ru", "Mean"]
    assert table.columns[0].cells[0] == "lora r4 q,v"
    # The second has a small p value too, but the two have fewer than 100 wrong answers: it is not tested.
    tests = {row["a"]: row for row in part.against("lora r4 q,v").rows(named=True)}
    assert [bool(tests[method]["not_enough_data"]) for method in part.methods[1:]] == [True, False]
    pairs = part.pairs()
    assert pairs.pair(part.methods[1], "lora r4 q,v").p_at(0.0) < 0.05
    assert table.columns[-1].cells == ["90.0", "80.0", "30.0*"]
    assert table.columns[-1].best == [True, False, False]
    assert r"\textbf{90.0}" in latex.table(table, "x")
    assert "de German" in table.caption
    (item,) = [item for item in contents(part) if item.id == "paper"]
    assert item.table is not None
    assert item.table().data.equals(table.data)


def test_many_languages_become_families(
    runs: list, predictions: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "MOST_LANGUAGES", 10)
    part = sections(runs, predictions)[0]
    titles = [column.title for column in paper.by_languages(part).columns]
    assert "Indo-European" in titles
    assert "de" not in titles


def test_methods_by_tasks(parts: list[Section]) -> None:
    table = paper.over_tasks(parts)
    assert [column.title for column in table.columns] == ["Method", "number-words", "topics", "Mean"]
    for place, part in enumerate(parts, 1):
        means = dict(part.table.select("method", "target_mean").iter_rows())
        shown = dict(zip(table.columns[0].cells, table.columns[place].cells, strict=True))
        assert {m: f"{100 * mean:.1f}" for m, mean in means.items()} == {
            m: c.rstrip("*") for m, c in shown.items()
        }
    both = [
        float(a.rstrip("*")) + float(b.rstrip("*"))
        for a, b in zip(*(c.cells for c in table.columns[1:3]), strict=True)
    ]
    assert [float(cell) for cell in table.columns[3].cells] == pytest.approx(
        [total / 2 for total in both], abs=0.1
    )
    # A method that one task lacks has no mean over both.
    few = list(parts)
    without = few[1].table.filter(pl.col("method") != "lora r4 q,v")
    changed = Section(
        **{
            **{k: getattr(few[1], k) for k in ("model", "task", "protocol", "note", "runs", "scores")},
            "table": without,
        }
    )
    partial = paper.over_tasks([few[0], changed])
    at = list(partial.columns[0].cells).index("lora r4 q,v")
    assert (partial.columns[2].cells[at], partial.columns[3].cells[at]) == ("–", "–")


def test_files_of_lm_evaluation_harness_read_back_the_same(results: Results, tmp_path: Path) -> None:
    files = results.export(tmp_path / "out", ["lm-eval"])
    samples = [file for file in files if file.suffix == ".jsonl"]
    assert len(samples) == 12 * 4
    again = import_results(
        [file for file in samples if "topics" in file.name], tmp_path / "store", model="demo:tiny"
    )
    (of_topics,) = [part for part in results.sections if part.task == "topics"]
    keys = ["language", "score"]
    mine = of_topics.scores.select(keys).sort(keys)
    assert again.scores.select(keys).sort(keys).equals(mine)
    (first, *_) = [file for file in files if file.name.startswith("results_")]
    entry = json.loads(first.read_text(encoding="utf-8"))
    run = next(run for run in results.runs if run.id == entry["config"]["model_args"].removeprefix("run="))
    metric = run.task.metrics[0]
    scores = results.predictions.filter(run=run.id, language="de")["score"]
    shown = entry["results"][f"{run.task.name}_de"]
    assert shown[f"{metric},none"] == pytest.approx(scores.mean())
    assert shown[f"{metric}_stderr,none"] == pytest.approx(scores.std() / len(scores) ** 0.5)


def test_results_show_a_table_in_a_notebook(results: Results) -> None:
    html = results._repr_html_()
    assert html.count("<table>") == 2
    assert "<th>Mean of 3</th>" in html
    assert "<td>lora r4 q,v</td>" in html
    assert (
        repr(results)
        == "<crosstune.Results: 12 runs on topics, number-words; see .transfer, .scores, .predictions>"
    )
