"""What stands beside every number: intervals, levels of guessing, effort; one pair, one set of numbers."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import crosstune
from crosstune.analysis.predictions import Predictions
from crosstune.api import Results
from crosstune.claims.file import Claim, PlacedClaim
from crosstune.claims.judge import judge
from crosstune.metrics.corpus import CORPUS
from crosstune.report.contents import contents
from crosstune.report.effort import expected_validation
from crosstune.report.findings import finding
from crosstune.report.levels import levels
from crosstune.report.page.opening import at_a_glance
from crosstune.report.sections import Section, sections
from crosstune.report.tables import latex
from crosstune.report.tables.tables import all_differences, differences_from, transfer
from crosstune.report.tables.verdicts import interval
from crosstune.report.terminal import results_table
from crosstune.report.text import csv_text, points
from crosstune.store.record import SearchRecord
from simulated import simulate, write_store

SEARCH = {
    "runs": ["a", "b", "c"],
    "scores": [
        {"learning_rate": rate, "dev_score": score} for rate, score in ((3e-3, 0.2), (1e-3, 0.6), (3e-4, 0.4))
    ],
    "chosen": 1e-3,
}
CODES = ["en", "de", "fr", "sw", "fi", "hi"]


def with_choices(rows: pl.DataFrame, labels: int = 4) -> pl.DataFrame:
    """Predictions of a task with fixed labels, the first of them right for half of the examples."""
    number = pl.col("example").cast(pl.Int64)
    gold = pl.when(number % 2 == 0).then(0).otherwise(1 + number % (labels - 1)).cast(pl.String)
    return rows.with_columns(
        gold=gold, prediction=gold, choice_logprobs=pl.lit([[-1.0] * labels]).list.first()
    )


@pytest.fixture(scope="module")
def store() -> tuple[list[Any], pl.DataFrame]:
    runs, rows = simulate(
        {"prefix": {"chance": 0.7, "search": SEARCH}, "lora": 0.6, "none": 0.4}, languages=CODES, examples=30
    )
    return runs, with_choices(rows)


@pytest.fixture(scope="module")
def section(store: tuple[list[Any], pl.DataFrame]) -> Section:
    (part,) = sections(*store)
    return part


def test_one_pair_has_the_same_numbers_everywhere(store: Any, tmp_path: Path) -> None:
    """Terminal, CSV, LaTeX, page, notebook: difference, interval and p value of prefix and LoRA."""
    folder = write_store(tmp_path / "runs", *store)
    results = crosstune.results(folder)
    (part,) = results.sections
    row = results.differences.filter(
        pl.col("a").is_in(["prefix", "lora"]), pl.col("b").is_in(["prefix", "lora"])
    )
    (pair,) = row.rows(named=True)
    sign = 1 if pair["a"] == "prefix" else -1
    low, high = sorted((sign * pair["low"], sign * pair["high"]))
    shown = [points(sign * pair["difference"]), f"{points(low)} to {points(high)}"]
    # Every way of asking gives the pair itself.
    for table in (part.against("lora"), results.charts.table("differences")):
        found = table.filter(pl.col("a").is_in(["prefix", "lora"]), pl.col("b").is_in(["prefix", "lora"]))
        assert found["p"].item() == pair["p"]
        assert abs(found["difference"].item()) == abs(pair["difference"])
    back = part.against("prefix").filter(a="lora")
    assert (back["p"].item(), back["low"].item()) == pytest.approx((pair["p"], -high))
    text = csv_text(differences_from(part, "lora").data)
    (line,) = (entry for entry in csv.DictReader(io.StringIO(text)) if entry["a"] == "prefix")
    assert (float(line["low"]), float(line["high"]), float(line["p"])) == (low, high, pair["p"])
    page = crosstune.report(folder, tmp_path / "page.html").read_text(encoding="utf-8")
    tex = latex.table(all_differences(part), "x")
    assert all(number in page for number in shown)
    forward = (
        shown
        if sign > 0
        else [points(pair["difference"]), f"{points(pair['low'])} to {points(pair['high'])}"]
    )
    assert all(number.replace("−", "$-$") in tex for number in forward)
    out = io.StringIO()
    Console(file=out, width=300).print(results_table([part]))
    terminal = out.getvalue()
    lower = (
        f"lora {100 * abs(pair['difference']):.1f} lower ("
        + f"{100 * low:.1f} to {100 * high:.1f})".replace("-", "−")
    )
    assert lower in terminal
    assert pair["methods"] == 3
    assert pair["p"] > pair["p_alone"]
    # A claim takes the pair from the same family of tests, in either direction.
    claims = [
        crosstune.Claim(claim="c", method=a, beats=b)
        for a, b in (("prefix", "lora"), ("lora", "prefix"), ("prefix", "none"))
    ]
    names = ["difference", "low", "high", "p", "detectable"]
    for row in results.verdict(claims).rows(named=True):
        shown_row = part.against(row["b"]).row(by_predicate=pl.col("a") == row["a"], named=True)
        verdict_row = row | {"p": row["p_corrected"]}
        assert [verdict_row[name] for name in names] == [shown_row[name] for name in names]


def test_tables_hold_out_the_seed_that_chose(store: Any) -> None:
    """Prefix is the best of three rates by its first seed: its two others are tested against one rate."""
    (part,) = sections(*store)
    row = part.against("lora").row(by_predicate=pl.col("a") == "prefix", named=True)
    assert (row["seeds_a"], row["seeds_b"], row["methods"]) == (2, 3, 3)
    runs, rows = store
    lucky = next(run.id for run in runs if run.label == "prefix" and run.seed == 0)
    (other,) = sections(runs, rows.with_columns(score=pl.when(run=lucky).then(1.0).otherwise("score")))
    again = other.against("lora").row(by_predicate=pl.col("a") == "prefix", named=True)
    assert (again["difference"], again["p"]) == (row["difference"], row["p"])
    assert (
        other.against_by_language("lora")
        .filter(method="prefix")
        .equals(part.against_by_language("lora").filter(method="prefix"))
    )
    (equal,) = sections(
        [run.model_copy(update={"search": None}) if run.label == "prefix" else run for run in runs], rows
    )
    assert equal.against("lora").filter(a="prefix")["seeds_a"].item() == 3
    note = "seed 0 chose the rate of prefix: means are over all seeds, differences from"
    assert any(line.startswith(note) for line in transfer(part).notes)
    assert not any("means are over all seeds" in line for line in transfer(equal).notes)
    # A search that ran with a seed of its own costs none of those that are tested.
    search = {"search": SearchRecord(**SEARCH, seed=7)}
    (apart,) = sections([run.model_copy(update=search) if run.search else run for run in runs], rows)
    assert apart.against("lora").filter(a="prefix")["seeds_a"].item() == 3


def test_means_have_intervals_that_cover_the_truth_they_name(section: Section) -> None:
    table = transfer(section)
    titles = [column.title for column in table.shown("terminal")]
    assert titles.index("95% interval") == titles.index("Mean of 5") + 1
    for row in section.table.rows(named=True):
        low, high = section.intervals[row["method"]]
        assert 0 <= low < row["target_mean"] < high <= 1
    assert "over exactly these languages: other test examples and training seeds" in table.caption
    runs, rows = simulate({"lora": 0.6}, seeds=[0], languages=CODES)
    (once,) = sections(runs, with_choices(rows))
    assert "other test examples alone (one seed each)" in transfer(once).caption


def test_chance_and_the_most_frequent_label_stand_by_every_score(section: Section) -> None:
    assert section.levels.chance == 0.25
    assert section.levels.majority == pytest.approx(0.5, abs=0.02)
    said = str(section.levels)
    assert said.startswith("chance 25.0, most frequent label 5")
    for item in contents(section):
        if item.table is not None and item.id in ("transfer", "languages", "differences"):
            table = item.table()
            assert said in " ".join([table.caption, *table.notes]), item.id
        if item.id in ("gap", "heatmap", "family"):
            assert item.chart is not None
            assert said in str(item.chart(400).to_dict()), item.id


@pytest.mark.parametrize("metric", ["macro_f1", "mcc"])
def test_levels_are_those_of_the_metric(metric: str) -> None:
    runs, rows = simulate({"lora": 0.6}, languages=CODES, examples=200)
    rows = with_choices(rows, labels=5)
    task = runs[0].task.model_copy(update={"metrics": [metric, "accuracy"]})
    guessed = levels([runs[0].model_copy(update={"task": task})], Predictions(rows), ["de", "sw"])
    golds = rows.filter(run=runs[0].id, language="de")["gold"].to_list()
    assert sorted(set(golds)) == ["0", "2", "4"], "three of five classes"

    def score(answers: list[str]) -> float:
        each = [CORPUS[metric].sums(a, [g], list("01234")) for a, g in zip(answers, golds, strict=True)]
        return float(CORPUS[metric].value(np.sum(each, axis=0)))

    draws = np.random.default_rng(0)
    blind = [score(draws.choice(list("01234"), len(golds)).tolist()) for _ in range(50)]
    assert guessed.chance == pytest.approx(np.mean(blind), abs=0.012)
    assert guessed.majority == pytest.approx(score(["0"] * len(golds)))


def test_free_answers_have_no_level(section: Section) -> None:
    (part,) = sections(*simulate({"lora": 0.6}, written=True, languages=CODES, examples=20))
    assert str(part.levels) == ""


def test_a_run_that_always_says_the_same_is_named(store: Any) -> None:
    runs, rows = store
    dull = next(run for run in runs if run.label == "lora" and run.seed == 1)
    one = rows.with_columns(
        prediction=pl.when(pl.col("run") == dull.id).then(pl.lit("2")).otherwise("prediction")
    )
    (part,) = sections(runs, one)
    line = "lora, seed 1, gives one and the same answer to all examples in 5 of 5 target languages"
    assert line in part.warnings
    assert not any("one and the same answer" in text for text in sections(runs, rows)[0].warnings)


def test_methods_with_the_very_same_answers_are_named(store: Any) -> None:
    """In the report, in results and in verdicts; not where all are right, or where only scores are alike."""
    runs, rows = store
    twins = {run.id: run for run in runs if run.label in ("lora", "prefix") and run.seed == 1}
    right = pl.col("score") == 1
    wrong = rows.with_columns(prediction=pl.when(right).then("gold").otherwise(pl.lit("none of them")))
    copied = wrong.filter(run=next(iter(twins)))
    alike = pl.concat(
        [wrong.filter(~pl.col("run").is_in(list(twins)))]
        + [copied.with_columns(run=pl.lit(run_id)) for run_id in twins]
    )
    (part,) = sections(runs, alike)
    (line,) = [text for text in part.warnings if "the same answers to all examples" in text]
    assert line.startswith(("lora and prefix give", "prefix and lora give"))
    assert not any("same answers to all" in text for text in sections(runs, wrong)[0].warnings)
    rates = [
        run.model_copy(
            update={"train": {**(run.train or {}), "learning_rate": 0.1 if run.label == "lora" else 0.2}}
        )
        for run in runs
    ]
    one_method = [run.model_copy(update={"method": runs[0].method}) for run in rates]
    assert any("same answers to all" in text for text in sections(one_method, alike)[0].warnings)
    same_rate = [run.model_copy(update={"train": runs[0].train, "method": runs[0].method}) for run in runs]
    assert not any("same answers to all" in text for text in sections(same_rate, alike)[0].warnings)
    claim = PlacedClaim(Claim.model_validate({"claim": "c", "method": "prefix", "beats": "lora"}), "x:1")
    assert "prefix and lora give the same answers to all" in judge([claim], runs, alike)[0].cell.note
    assert "same answers" not in judge([claim], runs, wrong)[0].cell.note


def test_effort_stands_beside_each_comparison(section: Section, store: Any) -> None:
    table = differences_from(section, "lora")
    efforts = dict(
        zip(table.columns[0].cells, next(c.cells for c in table.columns if c.title == "Effort"), strict=True)
    )
    assert efforts == {
        "prefix": "best of 3 rates against one rate, without the seed that chose",
        "none": "equal",
    }
    tried = next(column for column in transfer(section).columns if column.title == "Rates tried")
    assert list(tried.cells) == ["3", "1", "–"]
    runs, rows = store
    more = [
        run.model_copy(update={"train": {**run.train, "steps": 1000}}) if run.label == "lora" else run
        for run in runs
    ]
    (part,) = sections(more, rows)
    assert any(line.startswith("steps is not the same for all methods (") for line in part.warnings)
    assert "steps" in part.effort("prefix", "lora")


def test_expected_validation_performance_is_the_mean_of_the_best_of_n(section: Section) -> None:
    table = expected_validation(section.runs)
    assert table["method"].unique().to_list() == ["prefix"]
    scores, rng = np.array([0.2, 0.6, 0.4]), np.random.default_rng(0)
    for tried, expected in table.select("tried", "expected").iter_rows():
        drawn = rng.choice(scores, (20_000, tried)).max(axis=1).mean()
        assert expected == pytest.approx(drawn, abs=0.005)
    (item,) = (item for item in contents(section) if item.id == "expected-validation")
    assert item.chart is not None
    assert item.chart(400).to_dict()["$schema"]


def test_the_untuned_model_counts_no_seeds(store: Any) -> None:
    from crosstune.report.findings import finding

    runs, rows = store
    (part,) = Results(runs, Predictions(rows)).sections
    assert "3 seeds per method" in finding(part)
    assert "1 to 3" not in finding(part)


def test_the_chart_by_language_stars_what_holm_leaves() -> None:
    from crosstune.report.figures.differences import by_language

    (part,) = sections(*simulate({"prefix": 0.7, "lora": 0.6}, seeds=[0], examples=60))
    table = part.against_by_language("lora")
    assert table.filter(pl.col("p") < 0.05).height > table.filter(pl.col("p_holm") < 0.05).height
    chart = str(by_language(part, "lora").to_dict())
    assert chart.count("*'") == table.filter(pl.col("p_holm") < 0.05).height


def test_a_pair_with_too_few_right_answers_is_not_enough_data_everywhere(tmp_path: Path) -> None:
    """Of 300 answers, some 12 right ones: the tests would find little, and nothing is said of the methods."""
    runs, rows = simulate({"prefix": 0.03, "lora": 0.05}, languages=CODES, examples=30)
    folder = write_store(tmp_path / "runs", runs, with_choices(rows))
    results = crosstune.results(folder)
    (part,) = results.sections
    few = part.pairs().pair("lora", "prefix").not_enough_data
    assert re.fullmatch(r"\d+ right answers of lora and prefix, fewer than 100", few)
    page = crosstune.report(folder, tmp_path / "page.html").read_text(encoding="utf-8")
    out = io.StringIO()
    Console(file=out, width=400).print(results_table([part]))
    table = all_differences(part)
    texts = [page, " ".join(out.getvalue().split()), latex.table(table, "x"), csv_text(table.data)]
    (verdict,) = results.verdict([crosstune.Claim(claim="c", method="lora", beats="prefix")]).rows(named=True)
    assert (verdict["verdict"], verdict["reason"]) == ("not enough data", few)
    assert [few in text for text in texts] == [True] * 4
    (judged,) = results.verdicts([crosstune.Claim(claim="c", method="lora", beats="prefix")])
    assert interval(judged.cell).endswith("\nnot tested")
    # No interval, mark or p value of it stands anywhere as if it had been tested.
    assert "80% power" not in finding(part)
    opening = {column.title: column.cells[0] for column in at_a_glance([part])}
    assert (opening["Difference (95%)"].endswith("not tested"), opening["p"]) == (True, "–")
    assert "not tested" in page
    assert "n.s. (" not in page


def test_a_method_that_is_nearly_always_wrong_is_told_from_one_that_is_not(tmp_path: Path) -> None:
    """Of 200 answers, 6 right ones against 120: rare for one method, and not for the two together."""
    runs, rows = simulate({"prefix": 0.03, "lora": 0.6}, languages=CODES, examples=40)
    results = crosstune.results(write_store(tmp_path / "runs", runs, with_choices(rows)))
    (part,) = results.sections
    assert part.pairs().pair("lora", "prefix").not_enough_data == ""
    (verdict,) = results.verdict([crosstune.Claim(claim="c", method="lora", beats="prefix")]).rows(named=True)
    assert verdict["verdict"] == "supported"
