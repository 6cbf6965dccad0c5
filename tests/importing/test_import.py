"""Results of other programs get the same tests, page and verdicts."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import crosstune
from crosstune.cli import main as cli
from crosstune.errors import UserError
from crosstune.store.audit import audit

LANGUAGES = {"eng_Latn": "en", "deu_Latn": "de", "swh_Latn": "sw", "hin_Deva": "hi", "fin_Latn": "fi"}


def sample(number: int, right: bool, **changes: Any) -> dict[str, Any]:
    """A line as lm-evaluation-harness 0.4.13 writes it for a multiple-choice task of four choices."""
    gold = number % 4
    answer = gold if right else (gold + 1) % 4
    choices = [[str(-0.5 if choice == answer else -2.0 - choice), "False"] for choice in range(4)]
    return {
        "doc_id": number,
        "doc": {"question": f"Which? {number}", "correct_answer_num": str(gold + 1)},
        "target": str(gold),
        "arguments": {"gen_args_0": {"arg_0": "P: ...\nAnswer:", "arg_1": " A"}},
        "resps": [[choice] for choice in choices],
        "filtered_resps": choices,
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": f"{number:064x}",
        "prompt_hash": "1" * 64,
        "target_hash": "2" * 64,
        "acc": float(right),
        "acc_norm": 0.0,
        **changes,
    }


def write_samples(output: Path, skill: float, draw: int, examples: int = 120) -> Path:
    """Samples of Belebele in five languages, as one call of the harness leaves them."""
    folder = output / "org__Model-8B"
    folder.mkdir(parents=True)
    for code in LANGUAGES:
        rng = random.Random(f"{draw}{code}")
        rows = [sample(number, rng.random() < skill) for number in range(examples)]
        name = f"samples_belebele_{code}_2026-11-02T10-20-30.123456.jsonl"
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm_eval")
    write_samples(folder / "none", 0.4, 1)
    write_samples(folder / "lora-r4", 0.8, 2)
    return folder


def test_samples_of_the_harness(harness: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    store = tmp_path / "runs"
    command = ["crosstune", "import", str(harness), "--store", str(store), "--model", "org/Model-8B"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"runs: 2, in 1 set that can be compared, in {store}\n")
    results = crosstune.results(store)
    assert sorted((run.label, run.model, run.task.name) for run in results.runs) == [
        ("lora-r4", "org/Model-8B", "belebele"),
        ("none", "org/Model-8B", "belebele"),
    ]
    assert set(results.scores["language"]) == set(LANGUAGES.values())
    first = results.predictions.filter(example="0", language="de")
    assert first["choice_logprobs"].list.len().to_list() == [4, 4]
    assert set(first["gold"]) == {"0"}
    # The scores are the harness's own, and the pairs are tested example by example.
    for run in results.runs:
        file = (
            harness
            / run.label
            / "org__Model-8B"
            / "samples_belebele_deu_Latn_2026-11-02T10-20-30.123456.jsonl"
        )
        accuracy = [json.loads(line)["acc"] for line in file.read_text().splitlines()]
        score = results.scores.filter(run=run.id, language="de")["score"].item()
        assert score == pytest.approx(sum(accuracy) / len(accuracy))
    (test,) = results.differences.rows(named=True)
    assert abs(test["difference"]) == pytest.approx(0.4, abs=0.1)
    claim = crosstune.Claim(claim="c", method="lora-r4", beats="none", seeds=1)
    assert results.verdict(claim)["verdict"].item() == "supported"
    assert crosstune.report(store).read_text(encoding="utf-8").count("belebele") > 3
    assert audit(store).problems == ()
    # Once more changes nothing.
    assert [run.id for run in crosstune.import_results(harness, store, model="org/Model-8B").runs] == [
        run.id for run in results.runs
    ]


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_written_answers_and_filters(tmp_path: Path) -> None:
    lines = [
        sample(
            0,
            True,
            filtered_resps=["18"],
            resps=[["So 18."]],
            metrics=["exact_match"],
            exact_match=score,
            filter=name,
        )
        for name, score in (("strict-match", 0.0), ("flexible-extract", 1.0))
    ]
    file = written(tmp_path / "samples_mgsm_direct_de_2026-11-02T10-20-30.123456.jsonl", *lines)
    with pytest.raises(UserError, match="several filters: flexible-extract, strict-match; add --filter"):
        crosstune.import_results(file, tmp_path / "a")
    read = crosstune.import_results(file, tmp_path / "a", filter="flexible-extract", method="lora", seed=3)
    assert read.predictions.select("prediction", "score", "language").row(0) == ("18", 1.0, "de")
    (run,) = read.runs
    assert (run.task.name, run.task.kind, run.label, run.seed) == ("mgsm_direct", "generation", "lora", 3)


ROWS = [
    {
        "language": code,
        "example": str(i),
        "method": method,
        "score": float((i + len(method)) % 3 > 0),
        "seed": seed,
    }
    for code in ("en", "de", "tlh-made-up")
    for method in ("mine", "theirs")
    for seed in (0, 1)
    for i in range(6)
]


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_a_table_of_answers(tmp_path: Path, form: str) -> None:
    table, file = pl.DataFrame(ROWS), tmp_path / f"answers.{form}"
    {"csv": table.write_csv, "parquet": table.write_parquet, "jsonl": table.write_ndjson}[form](file)
    read = crosstune.import_results(file, tmp_path / "runs", task="quiz")
    assert [(run.label, run.seed) for run in read.runs].count(("mine", 1)) == 1
    assert len(read.runs) == 4
    expected = table.filter(method="mine", seed=1, language="de")["score"].mean()
    assert read.scores.filter(method="mine", seed=1, language="de")["score"].item() == pytest.approx(expected)
    assert "tlh-made-up" in read.scores["language"]


GOOD = {"language": "de", "example": "1", "method": "m", "score": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"score": 37.5}, "t.jsonl:2: score is 37.5; a score is a number from 0 to 1"),
        ({"score": "\x1b[31m"}, "t.jsonl:2: score is"),
        ({"score": True, "seed": "x"}, "t.jsonl:2: seed is 'x'; a seed is a whole number"),
        ({"seed": -1}, "t.jsonl:2: seed is '-1'"),
        ({"seed": 10**30}, "t.jsonl:2: seed is"),
        ({"method": ""}, "t.jsonl:2: empty method"),
        ({"method": ["a"]}, "t.jsonl:2: method is ['a'] where a text was expected"),
        ({"example": "x" * 300}, "t.jsonl:2: example has 300 letters"),
        ({"example": "1"}, "m on task, de: example '1' is there twice"),
    ],
)
def test_a_row_that_cannot_be_used_is_one_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    file = written(tmp_path / "t.jsonl", GOOD, GOOD | {"example": "2"} | row)
    with pytest.raises(UserError) as error:
        crosstune.import_results(file, tmp_path / "runs")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "samples_xnli_2026-11-02T10-20-30.1.jsonl",
            sample(0, True),
            "no language at the end of the task's name, xnli",
        ),
        ("samples_xnli_de.jsonl", sample(0, True, acc=[1, 2]), "acc is [1, 2]; a score is a number"),
        ("samples_xnli_de.jsonl", sample(0, True, metrics=["bleu"]), 'no metric "bleu"'),
        ("samples_xnli_de.jsonl", {"doc_id": 0}, "no column filtered_resps"),
        ("samples_xnli_de.jsonl", {"doc_id": 0, "filtered_resps": []}, "it has no metric"),
        ("samples_xnli_de.jsonl", [1], "where an object was expected"),
        ("x.tsv", {"a": 1}, "no column language, example, method, score"),
        ("x.exe", {"a": 1}, "unknown kind of file"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, name: str, line: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        crosstune.import_results(written(tmp_path / name, line), tmp_path / "runs")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", GOOD)
    with pytest.raises(UserError, match="holds other things and no runs"):
        crosstune.import_results(file, tmp_path)
    (tmp_path / "head.csv").write_text("language,example,method,score\n")
    with pytest.raises(UserError, match=r"head\.csv: no answers in it"):
        crosstune.import_results(tmp_path / "head.csv", tmp_path / "runs")
    with pytest.raises(UserError, match=r"no samples_\*\.jsonl in it"):
        crosstune.import_results(tmp_path, tmp_path / "runs")


def test_hostile_texts_only_show(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x1b[31m\u202e"
    file = written(tmp_path / "t.jsonl", GOOD | {"method": evil, "prediction": "half \ud800", "gold": evil})
    crosstune.import_results(file, tmp_path / "runs", source="de")
    page = crosstune.report(tmp_path / "runs").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "⟨U+202E⟩" in page
