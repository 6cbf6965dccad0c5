"""Choice tasks of one prompt: what an example reads like in each published form, and what is refused."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from crosstune.data.tables import BadRow
from crosstune.errors import UserError
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.task_data import read_data
from crosstune.tasks import make_task

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
STORY = {f"InputSentence{n}": f"Line {n}." for n in range(1, 5)} | {
    "InputStoryid": "s1",
    "RandomFifthSentenceQuiz1": "They left.",
    "RandomFifthSentenceQuiz2": "They {stayed}.",
    "AnswerRightEnding": "2",
}
EXAM = {"question": "How many?", "option_a": "1", "option_b": "2", "option_c": "3", "option_d": "4"}
CSQA = {
    "id": "q1",
    "question": {
        "stem": "Where is milk?",
        "choices": [{"label": x, "text": f"place {x}"} for x in "ABCDE"],
    },
    "answerKey": "C",
}
TOKENS = ["The", "cup", "left", "the", "box", "as", "it", "shook", "."]
PAIR = [["The cup", [0, 2], ["The", "cup"], True], ["the box", [3, 5], ["the", "box"], False]]
LISTED = "How many?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
WINO = {"sentence": "Ann met Eve when _ came.", "option1": "Ann", "option2": "Eve", "answer": "1"}


def table(row: dict) -> str:
    return "\n".join("\t".join(map(str, line)) for line in (row, row.values())) + "\n"


def schema(*, language: str = "jp", tokens: list = TOKENS, pair: list = PAIR, pronoun: str = "it") -> str:
    sentence = "The cup left the box as it shook."
    known = [json.dumps(x) for x in (tokens, [pronoun, [6, 7], [pronoun]], pair)]
    return "\t".join([language, "original", "?", sentence, *known]) + "\n"


def write(root: Path, name: str, content: str | dict) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        pl.DataFrame([content]).write_parquet(path)
    else:
        path.write_text(content, encoding="utf-8")


PAWS = {"id": "7", "sentence1": "A hit B .", "sentence2": "B hit A .", "label": "0"}
CASES = {
    "paws-x": ("x-final/de/test_2k.tsv", table(PAWS), "de", "A hit B .\nB hit A .\nSame meaning?", "No"),
    "paws-x ": ("pawsx/test-de.tsv", "A .\tB .\t1\n", "de", "A .\nB .\nSame meaning?", "Yes"),
    "xstorycloze": (
        "xstorycloze/spring2016.val.ru.tsv.split_20_80_eval.tsv",
        table(STORY),
        "ru",
        "Line 1. Line 2. Line 3. Line 4.",
        "They {stayed}.",
    ),
    "xwinograd": ("xwinograd/dataset.tsv", schema(), "ja", "The cup left the box as", "The cup shook."),
    "x-csqa": (
        "X-CSQA/sw/dev.jsonl",
        json.dumps(CSQA),
        "sw",
        "Where is milk?\n" + "".join(f"{x}. place {x}\n" for x in "ABCDE") + "Answer:",
        "C",
    ),
    "global-mmlu": (
        "global_mmlu/yo/test.parquet",
        EXAM | {"sample_id": "a/1", "answer": "D"},
        "yo",
        LISTED,
        "D",
    ),
    "include": ("include/Albanian/test.parquet", EXAM | {"answer": 1}, "sq", LISTED, "B"),
    "afrixnli": (
        "afrixnli/hau/test.tsv",
        table({"premise": "P", "hypothesis": "H", "label": "neutral"}),
        "ha",
        "P\nH\nRight?",
        "Maybe",
    ),
    "afrimgsm": (
        "afrimgsm/twi/test.tsv",
        table({"question": "2 + 2?", "answer_number": "4"}),
        "tw",
        "Question: 2 + 2?\nAnswer:",
        "4",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_example_reads_as_it_should(name, tmp_path):
    file, content, language, prompt, answer = CASES[name]
    write(tmp_path, file, content)
    task = make_task(name.strip(), {"data": str(tmp_path)})
    assert task.languages() == [language]
    (example,) = task.examples("test", language)
    assert (example.prompt, example.answers) == (prompt, (answer,))
    assert not example.choices or example.choices[example.gold] == answer


def test_xwinograd_trains_on_winogrande_and_holds_some_out(tmp_path):
    rows = [WINO | {"option1": f"Ann {i}"} for i in range(60)]
    write(tmp_path, "winogrande/train_xl.jsonl", "\n".join(map(json.dumps, rows)))
    write(tmp_path, "xwinograd/dataset.tsv", schema(language="en"))
    task = make_task("xwinograd", {"data": str(tmp_path)})
    train, dev = (task.examples(split, "en") for split in ("train", "dev"))
    assert len(train) + len(dev) == 60
    assert len(train) > len(dev) > 0
    assert not {e.id for e in train} & {e.id for e in dev}
    assert train[0].prompt == "Ann met Eve when"
    assert train[0].choices[1] == "Eve came."


def test_twins_of_a_schema_are_one_unit(tmp_path):
    other = [[*PAIR[1][:3], True], [*PAIR[0][:3], False]]
    write(tmp_path, "xwinograd/dataset.tsv", schema() + schema(pair=other))
    first, second = make_task("xwinograd", {"data": str(tmp_path)}).examples("test", "ja")
    assert first.cluster == second.cluster != ""
    assert first.id != second.id
    assert {first.answers, second.answers} == {("The cup shook.",), ("the box shook.",)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (schema(pronoun="he"), "'it' stands where 'he' was expected"),
        (schema(pair=PAIR[:1]), "no Winograd schema"),
        (schema(pair=[*PAIR[:1], PAIR[0]]), "no Winograd schema"),
        ("en\toriginal\n", "no Winograd schema"),
        (schema(pair=[{"a": 1}, 2]), "no Winograd schema"),
        ("en\to\t?\ts\t" + "[" * 100_000 + "\t[]\t[]\n", "no Winograd schema"),
    ],
)
def test_a_line_that_is_no_schema_is_told(line, message, tmp_path):
    write(tmp_path, "xwinograd/dataset.tsv", schema() + line)
    with pytest.raises(BadRow, match=message):
        make_task("xwinograd", {"data": str(tmp_path)}).examples("test", "ja")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("global-mmlu", {"answer": "E"}, "answer is 'E' where A or B or C or D was expected"),
        ("include", {"answer": 4}, "answer is '4' where 0 or 1 or 2 or 3 was expected"),
        ("include", {"option_b": " "}, "empty option_b"),
    ],
)
def test_a_row_that_cannot_be_asked_is_told(name, change, message, tmp_path):
    file, content, language, *_ = CASES[name]
    write(tmp_path, file, content | change)
    with pytest.raises(BadRow, match=message):
        make_task(name, {"data": str(tmp_path)}).examples("test", language)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([{"label": "A", "text": None}, {"label": "C", "text": "x"}], "blank or no text"),
        ([{"label": str(i), "text": "x"} for i in range(30)] + [{"label": "C", "text": "x"}], "31 choices"),
        ([{"label": "C", "text": "x"}, {"label": "C", "text": "y"}], "2 choices with the labels"),
        ([{"label": "A", "text": "x"}], "no choices with label, text and the answer's"),
    ],
)
def test_choices_of_another_shape_are_told(choices, message, tmp_path):
    row = CSQA | {"question": {"stem": "?", "choices": choices}}
    write(tmp_path, "X-CSQA/sw/dev.jsonl", json.dumps(row))
    with pytest.raises(BadRow, match=message):
        make_task("x-csqa", {"data": str(tmp_path)}).examples("test", "sw")


def test_a_file_without_a_usable_row_is_not_one_that_is_not_there(tmp_path):
    write(tmp_path, "xwinograd/dataset.tsv", "en\n")
    with pytest.raises(BadRow, match=r"dataset\.tsv:1: no Winograd schema"):
        make_task("xwinograd", {"data": str(tmp_path)}).languages()


def test_questions_in_another_language_than_the_paragraph(tmp_path):
    for context, question in (("de", "de"), ("de", "hi"), ("en", "hi")):
        qa = {"id": "1", "question": f"asked in {question}?", "answers": [{"text": "dog", "answer_start": 2}]}
        whole = {"data": [{"paragraphs": [{"context": "a dog", "qas": [qa]}]}]}
        name = f"mlqa/test/test-context-{context}-question-{question}.json"
        write(tmp_path, name, json.dumps(whole))
    same, other = (
        make_task("mlqa", {"data": str(tmp_path)} | more) for more in ({}, {"question_language": "hi"})
    )
    assert (same.languages(), other.languages()) == (["de"], ["en", "de"])
    assert other.files_named("mlqa.de.de/test/*.parquet", "de") == "mlqa.de.hi/test/*.parquet"
    assert "asked in hi?" in other.examples("test", "de")[0].prompt
    assert "asked in de?" in same.examples("test", "de")[0].prompt
    # Ids of runs are older than the option.
    assert "question_language" not in same.options.model_dump(mode="json")
    assert other.options.model_dump(mode="json")["question_language"] == "hi"
    with pytest.raises(UserError, match="question_language"):
        make_task("mlqa", {"question_language": "fr"})


@pytest.mark.skipif(not (DATA / "xwinograd").is_dir(), reason="XWinograd is not there (set CROSSTUNE_DATA)")
def test_the_published_schemas():
    task = make_task("xwinograd", {"data": str(DATA)})
    counts = {code: len(task.examples("test", code)) for code in task.languages()}
    assert counts == {"en": 2325, "fr": 83, "ja": 958, "pt": 263, "ru": 315, "zh": 16}
    assert len(task.skipped) == 1  # begins with its pronoun


def test_models_as_they_are_need_no_training_data(tmp_path):
    write(tmp_path, "xwinograd/dataset.tsv", schema())
    task = make_task("xwinograd", {"data": str(tmp_path)})
    data = read_data(task, ["ja"], EvaluateSettings(), False, [None], trains=False)
    assert (data.train_for(None), len(data.test["ja"])) == ([], 1)
    assert data.remarks()[0].startswith("tests are not compared with training data: ")
    with pytest.raises(UserError, match=r"looked for winogrande/train_xl\.jsonl|allenai/winogrande"):
        read_data(task, ["ja"], EvaluateSettings(), False, [None])
