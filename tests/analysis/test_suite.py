"""XTREME-R's tasks and mean against a plain computation; what is missing is said by task and language."""

import io

import polars as pl
import pytest
from rich.console import Console

from crosstune.analysis.suite import XTREME_R, suite_averages, suite_scores
from crosstune.report.contents import across_tasks
from crosstune.report.tables.latex import table as latex
from crosstune.report.terminal import _drawn

# How many languages the paper has for each task.
COUNTS = {
    "xnli": 15, "xcopa": 11, "udpos": 38, "panx": 48, "xquad": 12, "mlqa": 7, "tydiqa": 9, "tatoeba": 41,
    "mewsli-x": 11, "lareqa": 11,
}  # fmt: skip
MEASURE = {"udpos": "xtreme_f1", "panx": "xtreme_f1", "mewsli-x": "mrr_at_20", "lareqa": "map_at_20"}
QA = {"xquad": "squad", "tydiqa": "squad", "mlqa": "mlqa"}


def value(*parts):
    """A number in [0, 1] of some names."""
    return (sum(map(ord, "".join(map(str, parts)))) * 7919 % 997) / 997


def rows(model="m", method="lora", tasks=COUNTS, seeds=(0, 1), without=()):
    result = []
    for task in XTREME_R:
        if task.name not in tasks:
            continue
        for seed in seeds:
            for language in [*task.languages.split(), "xx"]:  # a language that is not of the suite
                if (task.name, language) in without:
                    continue
                about = (task.name, language, seed, method)
                row = {
                    "model": model, "method": method, "task": task.name, "protocol": "p", "setup": "s",
                    "run": f"{model}{method}{task.name}{seed}", "language": language,
                    "measure": "squad_f1" if task.name in QA else MEASURE.get(task.name, "accuracy"),
                    "score": value(*about), "n": task.examples or 100,
                }  # fmt: skip
                if task.name in QA:
                    row |= {f"metric.{kind}_{name}": value(*about, kind, name)
                            for kind in ("squad", "mlqa") for name in ("exact", "f1")}  # fmt: skip
                    row["score"] = row["metric.squad_f1"]
                result.append(row)
    return result


def frame(*parts):
    return pl.DataFrame([row for part in parts for row in part], infer_schema_length=None)


def plain(task, seed, method="lora", without=()):
    languages = [code for code in task.languages.split() if (task.name, code) not in without]
    if task.name not in QA:
        return sum(value(task.name, code, seed, method) for code in languages) / len(languages)
    kind = QA[task.name]
    sums = [
        sum(value(task.name, code, seed, method, kind, name) for code in languages)
        for name in ("exact", "f1")
    ]
    return sum(sums) / 2 / len(languages)


def test_the_suite_is_the_papers():
    assert {task.name: len(set(task.languages.split())) for task in XTREME_R} == COUNTS


def test_tasks_and_mean_are_those_of_a_plain_computation():
    scores = suite_scores(frame(rows()))
    expected = [(plain(task, 0) + plain(task, 1)) / 2 for task in XTREME_R]
    assert scores["score"].to_list() == pytest.approx(expected)
    assert len(set(expected)) == 10
    (average,) = suite_averages(scores).rows(named=True)
    assert average["average"] == pytest.approx(sum(expected) / 10)
    assert (average["tasks"], average["complete"]) == (10, True)


def test_what_is_missing_is_said_by_task_and_language():
    without = {("xnli", "sw"), ("xnli", "ur")}
    table = frame(
        rows(tasks=set(COUNTS) - {"mewsli-x", "lareqa"}, without=without),
        rows(method="full", tasks={"xnli", "xcopa", "panx"}),  # too few to be the suite
    )
    scores = suite_scores(table)
    assert scores["method"].unique().to_list() == ["lora"]
    xnli = scores.row(0, named=True)
    assert (xnli["languages"], xnli["expected"], xnli["missing"]) == (13, 15, "sw ur")
    assert xnli["score"] == pytest.approx(sum(plain(XTREME_R[0], s, without=without) for s in (0, 1)) / 2)
    (average,) = suite_averages(scores).rows(named=True)
    assert (average["tasks"], average["complete"]) == (8, False)
    (item,) = across_tasks(table)
    shown = item.table()
    (note,) = shown.notes
    assert "no Mewsli-X, LAReQA; XNLI without sw ur (lora)" in note
    cells = {column.title: column.cells[0] for column in shown.shown("page")}
    assert cells["XNLI"] == f"{100 * xnli['score']:.1f} (13/15)"
    assert cells["Mean"].endswith(" (8/10)")
    assert cells["LAReQA"] == "–"
    assert "Mewsli-X" in latex(shown, "xtreme-r")
    out = io.StringIO()
    Console(file=out, width=110).print(_drawn(shown))
    assert f"{100 * xnli['score']:.1f}*" in out.getvalue()


def test_a_seed_with_fewer_languages_gives_none_another_weight():
    second = pl.col("run").str.ends_with("1")
    table = frame(rows()).filter(~second | pl.col("language").is_in(["en", "de", "qu"]))
    expected = [
        sum(
            (plain_one(task, 0, code) + plain_one(task, 1, code)) / 2
            if code in ("en", "de", "qu")
            else plain_one(task, 0, code)
            for code in task.languages.split()
        )
        / len(task.languages.split())
        for task in XTREME_R
    ]
    assert suite_scores(table)["score"].to_list() == pytest.approx(expected)


def plain_one(task, seed, code):
    others = {(task.name, other) for other in task.languages.split() if other != code}
    return plain(task, seed, without=others)


def test_a_part_of_a_test_set_is_no_complete_suite():
    table = frame(rows()).with_columns(
        n=pl.when((pl.col("task") == "xquad") & (pl.col("language") == "th")).then(40).otherwise("n")
    )
    (average,) = suite_averages(suite_scores(table)).rows(named=True)
    assert (average["tasks"], average["complete"]) == (10, False)
    (item,) = across_tasks(table)
    assert "XQuAD on 40 examples a language (lora)" in item.table().notes[0]


def test_a_task_with_another_metric_has_no_official_score():
    table = frame(rows()).with_columns(
        measure=pl.when(pl.col("task") == "udpos").then(pl.lit("tag_accuracy")).otherwise("measure")
    )
    assert suite_scores(table).filter(pl.col("task") == "udpos")["score"].to_list() == [None]


def test_of_several_settings_the_one_with_the_most_languages_is_taken():
    fewer = frame(rows(without={("xnli", "sw")})).with_columns(setup=pl.lit("t"), score=pl.lit(0.0))
    both = pl.concat([fewer.with_columns(run="run" + pl.lit("t")), frame(rows())], how="diagonal")
    first = suite_scores(both).row(0, named=True)
    assert (first["settings"], first["languages"]) == (2, 15)
    assert first["score"] == pytest.approx((plain(XTREME_R[0], 0) + plain(XTREME_R[0], 1)) / 2)


def test_results_of_other_tasks_are_no_suite():
    assert across_tasks(frame(rows(tasks={"xnli", "tatoeba"}))) == []
