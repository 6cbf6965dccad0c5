"""Tasks of a user's own scored by a metric of the whole test set, from the file to the verdict on a claim."""

import io
import random
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

import crosstune
from crosstune.claims.file import Claim
from crosstune.metrics.corpus import CORPUS
from crosstune.running.runner import run_study
from crosstune.study.spec import read_study
from saved_model import study_of, write_study

TONE = """\
name: tone
kind: choice
prompt: "{text}\\nTone:"
choices: [calm, angry, sad]
answer: label
metric: macro_f1
train: tone.csv
test: tone_{code}.csv
"""
ECHO = """\
from crosstune.tasks.base import Example, Task


class Echo(Task):
    name = "echo"
    version = 1
    kind = "generation"
    metrics = ("chrf",)
    summary = "a test's own"
    split_names = {"train": "made", "test": "made"}
    max_answer_tokens = 4

    def languages(self):
        return ["en", "de", "fr"]

    def examples(self, split, language):
        words = ["the sea", "the yes", "they", "he eats", "this", "thesis"]
        return [Example(word, language, f"{split} {word}:", (word,)) for word in words]
"""


def plain_macro_f1(table: pl.DataFrame) -> float:
    scores = []
    for name in set(table["gold"]) | set(table["prediction"]):
        both = ((pl.col("gold") == name) & (pl.col("prediction") == name)).sum()
        either = ((pl.col("gold") == name).sum() + (pl.col("prediction") == name).sum())  # fmt: skip
        scores.append(table.select(2 * both / either).item())
    return sum(scores) / len(scores)


@pytest.fixture(scope="module")
def results(model: Path, tmp_path_factory: pytest.TempPathFactory) -> crosstune.api.Results:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "tone.yaml").write_text(TONE)
    (folder / "echo.py").write_text(ECHO)
    draw = random.Random(0)
    for name in ("tone", "tone_en", "tone_de", "tone_fr"):
        rows = [
            (f"{name} {i} {draw.random()}", draw.choices(["calm", "angry", "sad"], (5, 2, 1))[0])
            for i in range(30)
        ]
        pl.DataFrame(rows, ["text", "label"], orient="row").write_csv(folder / f"{name}.csv")
    facts = study_of(
        model, folder / "store", tasks=["tone.yaml", "echo.py"], methods=["none", "lora"], languages="all",
        train={"steps": 3, "batch_size": 4, "learning_rate": 0.1}, evaluate={"limit": 30},
    )  # fmt: skip
    study = read_study(write_study(folder / "study.yaml", facts))
    run_study(study, console=Console(file=io.StringIO()))
    return crosstune.results(study.folder)


def test_scores_are_of_the_whole_test_set(results: crosstune.api.Results) -> None:
    told = {(row["run"], row["language"]): row for row in results.scores.rows(named=True)}
    tasks = {run.id: run.task for run in results.runs}
    assert {(task.name, *task.metrics, task.sums) for task in tasks.values()} == {
        ("tone", "macro_f1", "accuracy", 9), ("echo", "chrf", 18)
    }  # fmt: skip
    for (run, language), table in results.predictions.partition_by("run", "language", as_dict=True).items():
        if tasks[str(run)].name == "tone":
            expected = plain_macro_f1(table)
            assert told[run, language]["metric.accuracy"] == (table["gold"] == table["prediction"]).mean()
        else:
            pairs = table.select("prediction", "gold").rows()
            sums = [CORPUS["chrf"].sums(answer, (gold,), ()) for answer, gold in pairs]
            expected = float(CORPUS["chrf"].value(pl.DataFrame(sums, orient="row").sum().to_numpy()[0]))
        assert told[run, language]["score"] == pytest.approx(expected, abs=1e-12)
        assert told[run, language]["se"] >= 0
    assert any(abs(row["score"] - row["metric.accuracy"]) > 0.05 for row in told.values() if row["sums"] == 9)


@pytest.mark.parametrize(("task", "metric"), [("tone", "macro_f1"), ("tone", "accuracy"), ("echo", "chrf")])
def test_a_claim_is_held_against_the_metric_it_names(
    results: crosstune.api.Results, task: str, metric: str
) -> None:
    few = {"at_least": 2, "seeds": 1}
    claim = Claim.model_validate(
        {"claim": "c", "task": task, "method": "lora", "beats": "none", "metric": metric} | few
    )
    (verdict,) = results.verdicts(claim)
    (cell,) = verdict.cells
    column = "metric.accuracy" if metric == "accuracy" else "score"
    scores = results.scores.filter(pl.col("task") == task, ~pl.col("is_source"))
    means = dict(scores.group_by("method").agg(pl.col(column).mean()).iter_rows())
    assert cell.difference == pytest.approx(means["lora"] - means["none"], abs=1e-6)
