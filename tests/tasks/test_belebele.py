import json
import os
from collections import Counter
from pathlib import Path

import pytest

from crosstune.errors import UserError
from crosstune.tasks.benchmarks.belebele import Belebele

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "belebele").is_dir(), reason=f"Belebele is not under {DATA} (set CROSSTUNE_DATA)"
)

ROW = {
    "link": "https://example.org/rain",
    "question_number": 1,
    "flores_passage": "It rained {all} day.",
    "question": "What fell?",
    "mc_answer1": "Snow",
    "mc_answer2": "Rain",
    "mc_answer3": "Hail",
    "mc_answer4": "Leaves",
    "correct_answer_num": "2",
    "dialect": "eng_Latn",
    "ds": "2023-05-03",
}
ITEM = {
    "question": "What fell?",
    "answers": [
        {"text": text, "correct": text == "Rain", "prediction": None}
        for text in ("Snow", "Rain", "Hail", "Leaves")
    ],
    "multiple": False,
}
GROUPED = {
    "text": "It rained {all} day.",
    "items": [ITEM, ITEM | {"question": "What did?"}],
    "metadata": {"dataset": "belebele", "extra": {"url": "https://example.org/rain", "language": "eng_Latn"}},
}


def write(root, *rows, language="eng_Latn", folder="belebele"):
    path = root / folder / f"{language}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def task(root, **options):
    return Belebele(Belebele.Options(data=str(root), **options))


@pytest.mark.parametrize("folder", ["belebele", "Belebele", "data"])
def test_the_released_layout(tmp_path, folder):
    write(tmp_path, ROW, folder=folder)
    (example,) = task(tmp_path).examples("test", "en")
    assert example.id == "https://example.org/rain#1"
    assert example.prompt == (
        "P: It rained {all} day.\nQ: What fell?\nA: Snow\nB: Rain\nC: Hail\nD: Leaves\nAnswer:"
    )
    assert (example.answers, example.choices, example.gold) == (("B",), ("A", "B", "C", "D"), 1)
    assert dict(example.fields) == {"passage": "It rained {all} day.", "question": "What fell?"}


def test_grouped_by_passage_gives_the_same(tmp_path):
    write(tmp_path, ROW, ROW | {"question_number": 2, "question": "What did?"})
    write(tmp_path, GROUPED, language="deu_Latn")
    both = task(tmp_path)
    released, grouped = both.examples("test", "en"), both.examples("test", "de")
    assert len(released) > len({example.cluster for example in (*released, *grouped)}) == 1
    assert [(e.id, e.prompt, e.answers) for e in released] == [(e.id, e.prompt, e.answers) for e in grouped]
    assert len(released) == 2
    assert both.languages() == ["en", "de"]


def test_texts_instead_of_letters(tmp_path):
    write(tmp_path, ROW | {"correct_answer_num": 4})
    texts = task(tmp_path, answers="texts")
    (example,) = texts.examples("test", "en")
    assert example.prompt == "P: It rained {all} day.\nQ: What fell?\nAnswer:"
    assert (example.answers, example.choices) == (("Leaves",), ("Snow", "Rain", "Hail", "Leaves"))
    assert texts.template("en") == "P: {passage}\nQ: {question}\nAnswer:"
    assert "{options}" in task(tmp_path).template("en")


def test_there_is_an_english_prompt_only(tmp_path):
    write(tmp_path, ROW, language="deu_Latn")
    with pytest.raises(UserError, match="no prompt in de, only in en"):
        task(tmp_path, prompt_language="target").examples("test", "de")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW | {"correct_answer_num": 0}, "correct_answer_num '0'; it must be 1, 2, 3 or 4"),
        (ROW | {"correct_answer_num": None}, "correct_answer_num 'None'"),
        (ROW | {"mc_answer3": " "}, "empty mc_answer3"),
        (ROW | {"flores_passage": ""}, "empty flores_passage"),
        ({key: value for key, value in ROW.items() if key != "question"}, "question is missing"),
        ({key: value for key, value in ROW.items() if key != "link"}, "link is missing"),
        (
            {key: value for key, value in ROW.items() if key != "question_number"},
            "question_number is missing",
        ),
        (ROW, "id 'https://example.org/rain#1' again, first on line 1"),
        (GROUPED | {"metadata": {}}, "no passage with its questions .*'extra'"),
        (GROUPED | {"items": [ITEM | {"answers": ITEM["answers"][:1]}]}, r"correct_answer_num '\[\]'"),
        (GROUPED | {"items": [3]}, "no passage with its questions"),
    ],
)
def test_damage_is_named_with_file_and_line(tmp_path, row, message):
    write(tmp_path, ROW, row)
    with pytest.raises(UserError, match=rf"eng_Latn\.jsonl:2: {message}") as caught:
        task(tmp_path).examples("test", "en")
    assert "\n" not in str(caught.value)
    assert len(task(tmp_path, on_bad_rows="skip").examples("test", "en")) == 1


@needs_data
def test_the_published_files():
    belebele = task(DATA)
    assert {"en", "de"} <= set(belebele.languages())
    english = belebele.examples("test", "en")
    assert len(english) == 900
    assert len({dict(e.fields)["passage"] for e in english}) == 488
    # The paper: answers are spread over the four places.
    assert all(190 < count < 260 for count in Counter(e.gold for e in english).values())
    for language in belebele.languages():
        assert [(e.id, e.answers) for e in belebele.examples("test", language)] == [
            (e.id, e.answers) for e in english
        ]
