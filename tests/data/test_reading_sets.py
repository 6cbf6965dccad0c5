import csv
import json
import os
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.data.hub import HubFiles, hub_entry
from crosstune.data.reading_sets import SETS
from crosstune.errors import UserError
from crosstune.tasks.benchmarks.belebele import Belebele

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()


def put(root, name, body):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body if isinstance(body, str) else json.dumps(body, indent=1), encoding="utf-8")
    return path


def task(root, **options):
    return Belebele(Belebele.Options(data=str(root), **options))


def questions(root, split="train", **options):
    """Prompt and answer by id."""
    return {e.id: (e.prompt, e.answers[0]) for e in task(root, **options).examples(split, "en")}


def mctest(root, split="train", letters="A\tB\tC\tD"):
    questions_ = [f'one: What {n}?\ta{n}\t"b" {n}\tc{n}\td{n}' for n in range(4)]
    fields = [f"mc1.{split}.0", "Author: x", "It rained.\\newline\\tabIt stopped.", *questions_]
    put(root, f"mctest/mc1.{split}.tsv", "\t".join(fields) + "\r\n")
    return put(root, f"mctest/mc1.{split}.ans", letters + "\r\n")


DREAM = [
    [
        ["M: Tea?", "W: Please."],
        [{"question": "What?", "choice": ["Tea", "Milk", "Ale"], "answer": "Milk"}],
        "1",
    ]
]
RACE = {
    "article": "A cat\nsat.",
    "questions": ["Who sat?", "The cat _ ."],
    "options": [["A dog", "A cat", "A cow", "I"], ["sat", "ran", "hid", "ate"]],
    "answers": ["B", "A"],
    "id": "high1.txt",
}
MULTIRC = {
    "text": "<b>Sent 1: </b>Ann ran.<br><b>Sent 2: </b>Bob &amp; I sat.<br>",
    "questions": [
        {
            "question": "Who ran?",
            "answers": [{"text": "Ann", "isAnswer": True}, {"text": "Bob", "isAnswer": False}],
        },
        {
            "question": "Who?",
            "answers": [{"text": "Ann", "isAnswer": True}, {"text": "Bob", "isAnswer": True}],
        },
    ],
}
SCIQ = {"question": "What is wet?", "correct_answer": "water", "support": "Water is wet."}
SCIQ |= {f"distractor{n}": text for n, text in enumerate(("sand", "stone", "salt"), start=1)}
RECLOR = {
    "context": "All is well.",
    "question": "So?",
    "answers": ["no", "yes", "x", "y"],
    "label": 1,
    "id_string": "t",
}
SCRIPT = """<?xml version="1.0" encoding="UTF-8"?>
<data><instance id="0" scenario="tea"><text>I made tea &amp; drank.</text><questions>
<question id="0" text="What?" type="text"><answer correct="False" id="0" text="milk"/>
<answer correct="True" id="1" text="tea"/></question></questions></instance></data>"""


def test_dream(tmp_path):
    put(tmp_path, "dream/train.json", DREAM)
    assert questions(tmp_path) == {
        "dream/1": ("P: M: Tea?\nW: Please.\nQ: What?\nA: Tea\nB: Milk\nC: Ale\nAnswer:", "B")
    }


def test_mctest_is_not_read_as_quoted(tmp_path):
    mctest(tmp_path)
    examples = questions(tmp_path)
    assert examples["mctest/2"] == (
        'P: It rained.\n\tIt stopped.\nQ: What 1?\nA: a1\nB: "b" 1\nC: c1\nD: d1\nAnswer:',
        "B",
    )
    assert [examples[f"mctest/{n}"][1] for n in range(1, 5)] == ["A", "B", "C", "D"]


def test_race_without_its_blanks(tmp_path):
    put(tmp_path, "RACE/train/high/1.txt", RACE)
    put(tmp_path, "RACE/train/middle/1.txt", RACE | {"article": "Another."})
    examples = questions(tmp_path)
    assert set(examples) == {"race/1", "race/3"}  # numbers count the questions left out
    assert examples["race/1"] == (
        "P: A cat\nsat.\nQ: Who sat?\nA: A dog\nB: A cat\nC: A cow\nD: I\nAnswer:",
        "B",
    )


def test_sciq_answers_are_in_an_order_of_their_own(tmp_path):
    items = [SCIQ | {"question": f"What is wet, {n}?"} for n in range(400)]
    put(tmp_path, "SciQ/train.json", [*items, SCIQ | {"support": ""}, SCIQ | {"question": "Wet is _ ."}])
    examples = questions(tmp_path)
    assert len(examples) == 400
    for prompt, letter in examples.values():
        assert f"\n{letter}: water\n" in prompt
    assert min(Counter(letter for _, letter in examples.values()).values()) > 60


def test_multirc_in_both_forms(tmp_path):
    expected = {"multirc/1": ("P: Ann ran. Bob & I sat.\nQ: Who ran?\nA: Ann\nB: Bob\nAnswer:", "A")}
    put(tmp_path / "a", "splitv2/train_456-fixedIds.json", {"data": [{"id": "x", "paragraph": MULTIRC}]})
    assert questions(tmp_path / "a") == expected
    other = json.loads(
        json.dumps(MULTIRC).replace("isAnswer", "label").replace("true", "1").replace("false", "0")
    )
    put(tmp_path / "b", "MultiRC/train.jsonl", json.dumps({"idx": 0, "passage": other}) + "\n")
    assert questions(tmp_path / "b") == expected


def test_reclor_and_mcscript(tmp_path):
    put(tmp_path, "reclor/train.json", [RECLOR])
    put(tmp_path, "mcscript/train-data.xml", SCRIPT)
    assert questions(tmp_path) == {
        "reclor/1": ("P: All is well.\nQ: So?\nA: no\nB: yes\nC: x\nD: y\nAnswer:", "B"),
        "mcscript/1": ("P: I made tea & drank.\nQ: What?\nA: milk\nB: tea\nAnswer:", "B"),
    }


ASSEMBLED = ["", "dataset", "split", "passage_id", "question_id", "passage", "question"]
ASSEMBLED += ["answer1", "answer2", "answer3", "answer4", "correct_answer", "correct_answer_num"]


def assembled(root, *rows):
    path = root / "belebele_training_set.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([ASSEMBLED, *rows])
    return path


@given(text=st.text(alphabet=st.characters(blacklist_categories=("Cs",)), min_size=1))
def test_the_assembled_file_keeps_any_text(tmp_path_factory, text):
    root = tmp_path_factory.mktemp("set")
    good = ["0", "RACE", "train", "h1", "0", 'One\n\n"two"\tthree', "Q?", "a", "b", "c", "d", "c", "3"]
    wild = ["1", "RACE", "train", "h2", "0", text, "Q?", "a", "b", "c", "d", "c", "4.0"]
    assembled(root, good, wild, [*good[:2], "dev", *good[3:]])
    if not text.strip():
        with pytest.raises(UserError, match=r"belebele_training_set\.tsv:5: empty passage"):
            questions(root)
        return
    text = re.sub("\r(?!\n)", " ", text)
    examples = questions(root)
    assert examples["assembled/1"][0].startswith('P: One\n\n"two"\tthree\nQ: Q?\nA: a')
    assert examples["assembled/1"][1] == "C"
    assert examples["assembled/2"] == (f"P: {text.strip()}\nQ: Q?\nA: a\nB: b\nC: c\nD: d\nAnswer:", "D")
    assert set(questions(root, "dev")) == {"assembled/3"}


def test_auto_takes_the_assembled_file_or_all_sets_in_order(tmp_path):
    for split, name in (("train", "train"), ("dev", "dev")):
        put(tmp_path, f"dream/{name}.json", DREAM)
        mctest(tmp_path, split)
    put(tmp_path, "reclor/train.json", [RECLOR])
    belebele = task(tmp_path)
    assert len(belebele.examples("train", "en")) == 6
    assert belebele.sources == [
        {"split": "train", "language": "en", "set": name, "questions": count, "files": [files]}
        for name, count, files in (
            ("mctest", 4, "mctest/mc*.train.tsv"),
            ("reclor", 1, "reclor/train.json"),
            ("dream", 1, "dream/train.json"),
        )
    ]
    assert len(belebele.examples("dev", "en")) == 5  # ReClor's is not there
    assert set(questions(tmp_path, train_sets=("dream", "reclor"))) == {"dream/1", "reclor/1"}
    row = ["0", "RACE", "train", "h1", "0", "P", "Q?", "a", "b", "c", "d", "c", "3"]
    assembled(tmp_path, row)
    assert set(questions(tmp_path)) == {"assembled/1"}


def test_a_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"no training set under .*RACE/train.*dream/train\.json; set CROSSTUNE_DATA"
    ):
        questions(tmp_path)
    put(tmp_path, "dream/train.json", DREAM)
    with pytest.raises(UserError, match=r"has no race under .*looked for RACE/train"):
        questions(tmp_path, train_sets=("dream", "race"))
    with pytest.raises(UserError, match="no usable row in its dev split"):
        questions(tmp_path, "dev")
    with pytest.raises(UserError, match="training data in en only"):
        task(tmp_path).examples("train", "de")


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("dream/train.json", "[\n[[], ]", r"train\.json:2: not JSON"),
        ("dream/train.json", {"data": []}, r"train\.json:1: no list"),
        ("dream/train.json", [*DREAM, [1, 2]], r"train\.json:20: no dialogue of DREAM"),
        (
            "dream/train.json",
            [*DREAM, [["a"], [{"question": "Q", "choice": ["a", "b"], "answer": "c"}], "2"]],
            r"train\.json:20: answer 'c' is none of the options",
        ),
        (
            "reclor/train.json",
            [RECLOR, RECLOR | {"label": 4}],
            r"train\.json:14: answer number 5 of 4 options",
        ),
        (
            "reclor/train.json",
            [RECLOR | {"answers": ["a", " "]}],
            r"train\.json:2: option ' ' is no text or empty",
        ),
        ("reclor/train.json", ["x"], r"train\.json:2: not an object"),
        ("RACE/train/high/1.txt", RACE | {"answers": ["B"]}, r"1\.txt:1: no passage of RACE"),
        ("RACE/train/high/1.txt", RACE | {"answers": ["E", "A"]}, r"1\.txt:1: answer number 5 of 4"),
        (
            "RACE/train/high/1.txt",
            RACE | {"answers": ["b", "A"]},
            r"1\.txt:1: answer 'b'; it must be a letter",
        ),
        (
            "splitv2/train_456-fixedIds.json",
            {"data": [{"paragraph": {"text": "a"}}]},
            r":3: no passage of MultiRC",
        ),
        ("mcscript/train-data.xml", SCRIPT.replace("True", "No"), r"xml:3: 0 answers marked correct"),
        ("mcscript/train-data.xml", SCRIPT[:-10], r"xml:4: not XML"),
        (
            "mcscript/train-data.xml",
            '<?xml version="1.0"?>\n<!DOCTYPE d [<!ENTITY a "aaaa">]><d>&a;</d>',
            r"xml:2: an entity declaration",
        ),
        ("belebele_training_set.tsv", "a\tb\n1\t2\n", r"set\.tsv:1: no column answer1"),
        ("belebele_training_set.tsv", "\t".join(ASSEMBLED) + "\n1\t2\n", r"set\.tsv:2: 2 fields where 13"),
        ("belebele_training_set.tsv", "\t".join(ASSEMBLED) + '\n1\t"2\n', r"set\.tsv:2: not a quoted table"),
    ],
)
def test_damage_is_named_with_file_and_line(tmp_path, name, body, message):
    put(tmp_path, name, body)
    with pytest.raises(UserError, match=message) as caught:
        questions(tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_questions_can_be_left_out(tmp_path):
    put(tmp_path, "reclor/train.json", [RECLOR | {"label": 9}, RECLOR])
    belebele = task(tmp_path, on_bad_rows="skip")
    assert [e.id for e in belebele.examples("train", "en")] == ["reclor/2"]
    assert len(belebele.skipped) == 1
    assert belebele.sources[0]["questions"] == 1


@pytest.mark.parametrize(
    ("letters", "message"), [("A\tB", "23 fields and 2 answers"), ("A\tB\tC\tE", "number 5 of 4")]
)
def test_damaged_mctest(tmp_path, letters, message):
    ans = mctest(tmp_path, letters=letters)
    with pytest.raises(UserError, match=rf"mc1\.train\.tsv:1: .*{message}"):
        questions(tmp_path)
    ans.write_text("A\tB\tC\tD\n" * 2)
    with pytest.raises(UserError, match="1 stories, but 2 lines"):
        questions(tmp_path)


def test_sets_from_the_hub(tmp_path, monkeypatch):
    race = {
        "example_id": "h",
        "article": "A cat.",
        "question": "Who?",
        "options": list("wxyz"),
        "answer": "D",
    }
    idx = [{"paragraph": 0, "question": q, "answer": a} for q, a in ((0, 0), (0, 1), (1, 0), (1, 1))]
    multirc = [
        {
            "paragraph": "Ann ran.",
            "question": f"Q{i['question']}",
            "answer": "xy"[i["answer"]],
            "idx": i,
            "label": label,
        }
        for i, label in zip(idx, (0, 1, 1, 1), strict=True)
    ]
    options = dict(zip("ABCD", ("a", "b", "c", "d"), strict=True))
    story = {"story": "Rain.", "question": "What?", "answer_options": options, "answer": "C"}
    dream = {
        "dialogue_id": "1",
        "dialogue": ["M: Hi"],
        "question": "?",
        "choice": ["a", "b", "c"],
        "answer": "a",
    }
    tables = {"race": [race], "sciq": [SCIQ], "multirc": multirc, "mctest": [story], "dream": [dream]}
    paths = {hub_entry(SETS[name].hub).repo: tmp_path / f"{name}.parquet" for name in tables}
    for name, rows in tables.items():
        pl.DataFrame(rows).write_parquet(tmp_path / f"{name}.parquet")

    def fetch(repo, pattern, revision):
        return HubFiles([paths[repo]], repo, "0" * 40)

    monkeypatch.setattr("crosstune.data.hub.fetch_files", fetch)
    by_id = questions(tmp_path, source="hub")
    assert {name: answer for name, (_, answer) in by_id.items() if "sciq" not in name} == {
        "race/1": "D",
        "multirc/1": "B",
        "mctest/1": "C",
    }
    assert by_id["multirc/1"][0] == "P: Ann ran.\nQ: Q0\nA: x\nB: y\nAnswer:"
    assert len(by_id) == 4
    dreams = task(tmp_path, source="hub", train_sets=("dream",))
    assert [e.answers for e in dreams.examples("train", "en")] == [("A",)]
    assert dreams.sources[0]["commit"] == "0" * 40
    with pytest.raises(UserError, match="reclor cannot be fetched from the hub; put the files"):
        questions(tmp_path, source="hub", train_sets=("reclor",))


@pytest.mark.skipif(not (DATA / "dream").is_dir(), reason=f"DREAM is not under {DATA} (set CROSSTUNE_DATA)")
def test_the_published_dream():
    for split, count in (("train", 6116), ("dev", 2040)):
        examples = task(DATA, train_sets=("dream",)).examples(split, "en")
        assert len(examples) == count
        gold = Counter(e.answers[0] for e in examples)
        assert set(gold) == {"A", "B", "C"}
        assert min(gold.values()) > count / 4


@pytest.mark.skipif(not (DATA / "mctest").is_dir(), reason=f"MCTest is not under {DATA} (set CROSSTUNE_DATA)")
def test_the_published_mctest():
    for split, stories in (("train", 70 + 300), ("dev", 30 + 50)):
        examples = task(DATA, train_sets=("mctest",)).examples(split, "en")
        assert len(examples) == stories * 4
        assert all(len(e.choices) == 4 and "\\newline" not in e.prompt for e in examples)
        assert not any(dict(e.fields)["question"].startswith(("one:", "multiple:")) for e in examples)
