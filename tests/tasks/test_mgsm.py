import json
import os
import re
from pathlib import Path

import polars as pl
import pytest

from crosstune.data.hub import HubFiles
from crosstune.errors import UserError
from crosstune.metrics.numbers import ANSWER_WORDS
from crosstune.tasks.benchmarks.mgsm import Mgsm

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
needs_data = pytest.mark.skipif(
    not ((DATA / "mgsm").is_dir() and (DATA / "gsm8k").is_dir()),
    reason=f"MGSM and GSM8K are not under {DATA} (set CROSSTUNE_DATA)",
)
SOLUTION = "Two and three are 2+3=<<2+3=5>>5.\n\nTen times that is $<<5*10=50>>50.\n#### 50"


def mgsm_file(root, body, language="en"):
    path = root / "mgsm" / f"mgsm_{language}.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(body, encoding="utf-8")


def train_file(root, rows):
    (root / "gsm8k").mkdir(exist_ok=True)
    (root / "gsm8k" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def task(root, **options):
    return Mgsm(Mgsm.Options(data=str(root), **options))


def some(n):
    return [{"question": f"How many are {k} and {k}?", "answer": SOLUTION} for k in range(n)]


def test_direct_answers(tmp_path):
    mgsm_file(tmp_path, 'He said "two". How many?\t2\nAnd {now}?\t2,125\n')
    train_file(tmp_path, some(200))
    mgsm = task(tmp_path)
    by_id = {e.id: e for e in mgsm.examples("test", "en")}
    assert by_id["1"].prompt == 'Question: He said "two". How many?\nAnswer:'
    assert by_id["2"].prompt == "Question: And {now}?\nAnswer:"
    assert by_id["2"].answers == ("2,125",)
    assert [
        mgsm.score(by_id["2"], answer)["number_match"] for answer in ("2125", "It is 2,125.", "2.125", "no")
    ] == [
        1,
        1,
        0,
        0,
    ]
    assert (mgsm.max_answer_tokens, mgsm.stop) == (16, ("\n",))
    assert {e.answers for e in mgsm.examples("train", "en")} == {("50",)}


def test_steps(tmp_path):
    mgsm_file(tmp_path, "Combien ?\t50\n", "fr")
    train_file(tmp_path, some(200))
    mgsm = task(tmp_path, answers="steps")
    example = mgsm.examples("train", "en")[0]
    assert example.answers == (
        "Two and three are 2+3=5.\nTen times that is $50.\nThe answer is 50.",
        "50",
    )
    assert example.prompt.endswith("?\nStep-by-Step Answer:")
    assert not any(stop in example.answers[0] for stop in mgsm.stop)
    assert {"\n\n", "\nQuestion:", "\nQuestion :", "\n問題："} <= set(mgsm.stop)
    assert mgsm.max_answer_tokens == 256
    assert mgsm.score(example, example.answers[0]) == {"number_match": 1.0}
    (french,) = mgsm.examples("test", "fr")
    assert french.answers == ("50",)
    assert mgsm.score(french, "5 fois 10. La réponse est 50. Et 7 ?") == {"number_match": 1.0}


def test_train_and_dev_are_parts_of_gsm8k_train_whatever_its_order(tmp_path):
    rows = some(2000)
    train_file(tmp_path, rows)
    parts = {split: task(tmp_path).examples(split, "en") for split in ("train", "dev")}
    prompts = {split: {e.prompt for e in examples} for split, examples in parts.items()}
    assert len(prompts["train"] | prompts["dev"]) == 2000
    assert not prompts["train"] & prompts["dev"]
    assert 60 < len(prompts["dev"]) < 140
    train_file(tmp_path, [row | {"question": row["question"].replace(" ", "  ")} for row in rows[::-1]])
    again = task(tmp_path).examples("dev", "en")
    assert {e.prompt.replace("  ", " ") for e in again} == prompts["dev"]


def test_the_test_split_of_gsm8k_is_never_read(tmp_path):
    train_file(tmp_path, some(200))
    (tmp_path / "gsm8k" / "test.jsonl").write_text("not JSON")
    mgsm = task(tmp_path)
    mgsm.examples("dev", "en")
    assert mgsm.sources == [
        {"split": "train", "language": "en", "files": ["gsm8k/train.jsonl"]},
        {"split": "dev", "language": "en", "part": "1 in 20 of GSM8K train"},
    ]
    with pytest.raises(UserError, match="training data in en only"):
        mgsm.examples("dev", "de")


def test_from_the_hub(tmp_path, monkeypatch):
    tables = {
        "juletxara/mgsm": [
            {"question": "Ngapi?", "answer": None, "answer_number": 18, "equation_solution": None}
        ],
        "openai/gsm8k": some(200),
    }

    def fetch(repo, pattern, revision):
        path = tmp_path / f"{repo.replace('/', '-')}.parquet"
        pl.DataFrame(tables[repo]).write_parquet(path)
        return HubFiles([path], repo, "0" * 40)

    monkeypatch.setattr("crosstune.data.hub.fetch_files", fetch)
    mgsm = task(tmp_path, source="hub")
    assert len(mgsm.languages()) == 11
    assert [e.answers for e in mgsm.examples("test", "sw")] == [("18",)]
    assert len(mgsm.examples("train", "en")) + len(mgsm.examples("dev", "en")) == 200


@pytest.mark.parametrize("answers", ["direct", "steps"])
def test_prompts_in_every_language(answers):
    target = Mgsm(Mgsm.Options(answers=answers, prompt_language="target"))
    frames = {language: target.template(language) for language in ANSWER_WORDS}
    assert len(set(frames.values())) == 11
    for frame in frames.values():
        assert re.fullmatch(r"[^\n]+[:：] ?\{question\}\n[^\n]+[:：]", frame)
    russian = {"direct": "Задача: {question}\nОтвет:", "steps": "Задача: {question}\nПошаговое решение:"}
    assert frames["ru"] == russian[answers]


def test_the_prompt_can_stay_english(tmp_path):
    mgsm_file(tmp_path, "何個？\t7\n", "ja")
    (source,) = task(tmp_path).examples("test", "ja")
    (target,) = task(tmp_path, prompt_language="target").examples("test", "ja")
    assert source.prompt == "Question: 何個？\nAnswer:"
    assert target.prompt == "問題：何個？\n答え："


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a?\t1\nb?\n", "1 fields where 2 were expected"),
        ("a?\t1\nb?\ttwo\n", "'two' where a number was expected"),
        ("a?\t1\nb?\t1,00\n", "'1,00' where a number was expected"),
        ("a?\t1\n \t1\n", "empty question"),
    ],
)
def test_damaged_test_rows(tmp_path, body, message):
    mgsm_file(tmp_path, body)
    with pytest.raises(UserError, match=rf"mgsm_en\.tsv:2: {message}"):
        task(tmp_path).examples("test", "en")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("It is 5.", r'no "####" and number'),
        ("It is 5.\n#### five", "'five' where a number was expected"),
        ("", "empty answer"),
    ],
)
def test_damaged_training_rows(tmp_path, answer, message):
    train_file(tmp_path, [*some(3), {"question": "How many?", "answer": answer}])
    with pytest.raises(UserError, match=rf"train\.jsonl:4: {message}"):
        task(tmp_path).examples("train", "en")


def test_too_few_questions_for_a_dev_split(tmp_path):
    train_file(tmp_path, some(2)[1:])
    with pytest.raises(
        UserError, match=r"none of the 1 training questions falls in its dev part; about 1 in 20"
    ):
        task(tmp_path).examples("dev", "en")


@needs_data
def test_the_published_files():
    direct, steps = task(DATA), task(DATA, answers="steps")
    train, dev = direct.examples("train", "en"), direct.examples("dev", "en")
    assert len(train) + len(dev) == 7473
    assert 300 < len(dev) < 450
    english = direct.examples("test", "en")
    assert len(english) == 250
    for language in direct.languages():
        examples = direct.examples("test", language)
        assert [(e.id, e.answers) for e in examples] == [(e.id, e.answers) for e in english]
        assert all(direct.score(e, e.answers[0])["number_match"] for e in examples)
    worked = steps.examples("dev", "en")
    assert [e.answers[1:] for e in worked] == [e.answers for e in dev]
    for example in worked:
        assert steps.score(example, example.answers[0])["number_match"]
        assert "<<" not in example.answers[0]
        assert not any(stop in example.answers[0] for stop in steps.stop)
    questions = {dict(e.fields)["question"] for e in (*train, *dev)}
    assert not questions & {dict(e.fields)["question"] for e in english}
