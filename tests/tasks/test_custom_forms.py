"""A user's own tasks of tags and of retrieval: files as people have them, whole runs, and mistakes."""

import io
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from crosstune.errors import UserError
from crosstune.exporting.lm_eval_tasks import write_tasks
from crosstune.running.predict import predict
from crosstune.running.runner import run_study
from crosstune.store import store as stored
from crosstune.study.spec import read_study
from crosstune.tasks.base import Task
from crosstune.tasks.custom.load import load_task
from saved_model import save_model, study_of, write_study
from tiny_encoders import save_encoder

SENTENCES = {
    "train_en": [("Ada Lovelace met Babbage .", "B-PER I-PER O B-PER O"), ("no one came", "O O O")],
    "en": [("Bob ran", "B-PER O"), ("it rained", "O O"), ("we saw Eve", "O O B-PER")],
    "deu_Latn": [("Bob lief", "B-PER O"), ("es regnete", "O O"), ("wir sahen Eva", "O O B-PER")],
}
TAGS = "name: names\nkind: tags\nchoices: [O, B-PER, I-PER]\nmetric: strict_f1\n"
FIELDS = "words: tokens\nanswer: ner.tags\n"
FILES = "train: train/train_en.EXT\ntest: test/{code}.EXT\n"
PAIRS = {
    "en": [
        ("Where is it?", ["On the hill.", "Up there."]),
        ("Who?", ["Ada."]),
        ("And who was it?", ["Ada."]),
    ],
    "de": [("Wo ist es?", ["Auf dem Berg."]), ("Wer?", ["Eva."]), ("Und wer war es?", ["Ada."])],
}
PAGE = Path(__file__).parents[2] / "docs" / "custom-tasks.md"
RETRIEVAL = "name: faq\nkind: retrieval\n"
PYTHON = '''\
from crosstune.tasks.base import Example, Task

class Caps(Task):
    """Which words begin with a capital?"""

    name, version, kind, metrics, summary = "caps", 1, "tags", ("tag_accuracy",), "capitals"
    tags = ("Upper", "Lower")
    split_names = {"train": "made", "test": "made"}

    def languages(self):
        return ["en", "de"]

    def examples(self, split, language):
        texts = [f"{name} saw {what}" for name in ("Ada", "eve") for what in ("it", "Rome")]
        tagged = {t: " ".join("Upper" if w[0].isupper() else "Lower" for w in t.split()) for t in texts}
        return [Example(t, language, t, (tags,), self.tags) for t, tags in tagged.items()]
'''


def written(folder: Path, suffix: str) -> None:
    """The sentences as tables, or with a word a line."""
    for name, sentences in SENTENCES.items():
        file = folder / ("train" if name.startswith("train") else "test") / f"{name}.{suffix}"
        file.parent.mkdir(exist_ok=True, parents=True)
        pairs = [(words.split(), tags.split()) for words, tags in sentences]
        if suffix in ("jsonl", "parquet"):
            table = pl.DataFrame([{"tokens": words, "ner": {"tags": tags}} for words, tags in pairs])
            table.write_parquet(file) if suffix == "parquet" else table.write_ndjson(file)
        elif suffix == "tsv":
            rows = "".join(f"{words}\t{tags}\n" for words, tags in sentences)
            file.write_text(f"tokens\tner.tags\n{rows}", encoding="utf-8")
        else:
            blocks = ["\n".join(f"{w} NN x {t}" for w, t in zip(*pair, strict=True)) for pair in pairs]
            blocks[0] = f"# id {name}\n{blocks[0]}"
            file.write_text("-DOCSTART- -X- O O\n\n" + "\n\n".join(blocks) + "\n", encoding="utf-8")


def task_of(folder: Path, text: str, **options: Any) -> Task:
    (folder / "task.yaml").write_text(text, encoding="utf-8")
    task = load_task(folder / "task.yaml").task
    return task(task.Options(**options))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "tsv", "conll"])
def test_tags_from_every_format(tmp_path: Path, suffix: str) -> None:
    written(tmp_path, suffix)
    fields = "" if suffix == "conll" else FIELDS
    task = task_of(tmp_path, TAGS + fields + FILES.replace("EXT", suffix))
    assert task.languages() == ["en", "de"]
    for split, code, name in (("train", "en", "train_en"), ("test", "de", "deu_Latn")):
        examples = task.examples(split, code)  # type: ignore[arg-type]
        assert {(e.prompt, e.answers) for e in examples} == {(w, (t,)) for w, t in SENTENCES[name]}
        assert {e.choices for e in examples} == {("O", "B-PER", "I-PER")}
    ids = {code: [e.id for e in task.examples("test", code)] for code in ("en", "de")}
    assert ids["en"] == ids["de"] != sorted(ids["en"]), "the same order of sentences, and not the file's"
    (example,) = [e for e in task.examples("test", "en") if e.prompt == "Bob ran"]
    assert task.score(example, "B-PER O") == {"strict_f1": 1.0}
    assert task.score(example, "I-PER O") == {"strict_f1": 0.0}


@pytest.mark.parametrize("code", ["", "de:"])
def test_wikiann_as_xtreme_has_it_and_as_it_was_published(tmp_path: Path, code: str) -> None:
    words = "".join(f"{code}{word}\t{tag}\n" for word, tag in (("de:Bob", "B-PER"), (":", "O")))
    (tmp_path / "train-en.tsv").write_text("Bob\tB-PER\n", encoding="utf-8")
    (tmp_path / "test-de.tsv").write_text(f"{words}\n{words}", encoding="utf-8")
    task = task_of(tmp_path, TAGS + 'train: "train-{code}.tsv"\ntest: "test-{code}.tsv"\n')
    examples = task.examples("test", "de")
    assert [(e.prompt, e.answers) for e in examples] == [("de:Bob :", ("B-PER O",))] * 2


@pytest.mark.parametrize("name", ["my-names", "my-hub-names", "my-questions", "my-translations"])
def test_the_page_as_it_stands(tmp_path: Path, name: str) -> None:
    (text,) = re.findall(rf"```yaml\n(name: {name}\n.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    words = {"conll/train.conll": "a O\n", "conll/test/de.conll": "Rom B-LOC\n\nda O\n"}
    row = json.dumps({"tokens": ["Rom", "da"], "ner_tags": [3, 0]})
    words |= dict.fromkeys(("tables/train.jsonl", "tables/test_de.jsonl"), row)
    words |= {f"questions/{code}.tsv": "question\tpassage\nWo?\tDa.\n" for code in ("en", "de")}
    words |= {"flores/eng_Latn.devtest": "Here.\n", "flores/deu_Latn.devtest": "Hier.\n"}
    for file, content in words.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    assert {(e.prompt, *e.answers) for e in task_of(tmp_path, text).examples("test", "de")} == {
        "my-names": {("Rom", "B-LOC"), ("da", "O")},
        "my-hub-names": {("Rom da", "B-LOC O")},
        "my-questions": {("query: Wo?", "passage: Da.")},
        "my-translations": {("Hier.", "Here.")},
    }[name]


def test_tags_by_number_and_of_a_treebank(tmp_path: Path) -> None:
    (tmp_path / "en.jsonl").write_text(json.dumps({"tokens": ["Bob", "ran"], "ner": {"tags": [1, 0]}}))
    (example,) = task_of(tmp_path, f"{TAGS}{FIELDS}answer_is: index0\ntest: en.jsonl\n").examples(
        "test", "en"
    )
    assert example.answers == ("B-PER O",)
    row = "1\tRain\train\tNOUN\tNN\t_\t0\troot\t_\t_\n"
    (tmp_path / "en.conllu").write_text(f"# sent_id = w7\n{row}\n")
    text = "name: pos\nkind: tags\nchoices: [NOUN, VERB]\ntest: '{code}.conllu'\n"
    (example,) = task_of(tmp_path, text).examples("test", "en")
    assert (example.id, example.prompt, example.answers) == ("w7", "Rain", ("NOUN",))


def test_a_text_may_answer_several_questions_and_a_question_have_several(tmp_path: Path) -> None:
    for code, pairs in PAIRS.items():
        rows = [{"q": q, "a": {"texts": texts}} for q, texts in pairs]
        (tmp_path / f"{code}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RETRIEVAL + 'prompt: "query: {q}"\nanswer: a.texts\ntrain: en.jsonl\ntest: "{code}.jsonl"\n'
    task = task_of(tmp_path, text, layer=2)
    examples = [e for code in ("en", "de") for e in task.examples("test", code)]
    assert task.layer == 2
    english, german = task.searches(examples)
    assert {t.text for t in english.texts} == {"On the hill.", "Up there.", "Ada."}
    assert len(english.texts) == len(german.texts) == len({t.id for t in english.texts}) == 3
    by_id = {e.id: e for e in examples if e.language == "en"}
    assert by_id["2"].prompt == "query: Who?"
    for text, scores in {"Ada.": [0, 1, 1], "Up there.": [1, 0, 0], "Eva.": [0, 0, 0]}.items():
        assert [task.score(by_id[i], text)["accuracy"] for i in "123"] == scores


def test_a_text_of_training_data_and_of_test_data_is_told_from_others(tmp_path: Path) -> None:
    """What an answer is called must not depend on what was read before."""
    rows = {"train": "a\tAda.\nb\tEva.\n", "en": "c\tIda.\nd\tAda.\n"}
    for name, text in rows.items():
        (tmp_path / f"{name}.tsv").write_text(f"q\ta\n{text}")
    task = task_of(tmp_path, RETRIEVAL + 'prompt: "{q}"\nanswer: a\ntrain: train.tsv\ntest: "{code}.tsv"\n')
    task.examples("train", "en")
    examples = task.examples("test", "en")
    (search,) = task.searches(examples)
    right = {e.prompt: [t.text for t in search.texts if task.score(e, t.id)["accuracy"]] for e in examples}
    assert right == {"c": ["Ida."], "d": ["Ada."]}


def test_parallel_files_of_lines_and_of_tables(tmp_path: Path) -> None:
    for code, pairs in PAIRS.items():
        (tmp_path / f"{code}.devtest").write_text("".join(f"{question}\n" for question, _ in pairs))
        rows = [{"key": i, "text": q} for i, (q, _) in enumerate(pairs)]
        pl.DataFrame(rows if code == "en" else rows[::-1]).write_parquet(tmp_path / f"{code}.parquet")
    lines = 'parallel: true\nprompt: "{line}"\nanswer: "passage: {source.line}"\ntest: "{code}.devtest"\n'
    tables = 'parallel: true\nid: key\nprompt: "{text}"\nanswer: source.text\ntest: "{code}.parquet"\n'
    for more, front in ((lines, "passage: "), (tables, "")):
        task = task_of(tmp_path, RETRIEVAL + more)
        assert task.languages() == ["de"], "the source language's texts are what is searched"
        assert not task.has_training
        assert {(e.prompt, e.answers[0]) for e in task.examples("test", "de")} == {
            (german, front + english)
            for (german, _), (english, _) in zip(PAIRS["de"], PAIRS["en"], strict=True)
        }
    with (tmp_path / "de.devtest").open("a") as file:
        file.write("Noch eine.\n")
    with pytest.raises(UserError, match=r"de\.devtest:4: no such line in the file in en; lines are"):
        task_of(tmp_path, RETRIEVAL + lines).examples("test", "de")
    (tmp_path / "de.devtest").write_text("Wo ist es?\n")
    with pytest.raises(UserError, match=r"en\.devtest:2: no such line in the file in de; lines are"):
        task_of(tmp_path, RETRIEVAL + lines).examples("test", "de")
    pl.DataFrame([{"key": "a", "text": text} for text in "xy"]).write_parquet(tmp_path / "en.parquet")
    with pytest.raises(UserError, match=r"en\.parquet:2: key 'a' again, first on line 1"):
        task_of(tmp_path, RETRIEVAL + tables).examples("test", "de")


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_whole_runs(family: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model") if family == "decoder" else save_encoder(tmp_path / "model")
    written(tmp_path, "conll")
    (tmp_path / "names.yaml").write_text(TAGS + FILES.replace("EXT", "conll"))
    (tmp_path / "caps.py").write_text(PYTHON)
    (tmp_path / "faq").mkdir()
    for code, pairs in PAIRS.items():
        rows = "".join(f"{question}\t{texts[0]}\n" for question, texts in pairs)
        (tmp_path / "faq" / f"{code}.tsv").write_text(f"q\ta\n{rows}")
    (tmp_path / "faq.yaml").write_text(
        RETRIEVAL + 'prompt: "{q}"\nanswer: a\ntrain: faq/en.tsv\ntest: "faq/{code}.tsv"\n'
    )
    content = study_of(
        model,
        tmp_path / "store",
        tasks=["names.yaml", "caps.py", "faq.yaml"],
        methods=["lora"],
        languages="all",
        evaluate={"limit": 2},
    )
    run_study(read_study(write_study(tmp_path / "s.yaml", content)), console=Console(file=io.StringIO()))
    runs = {run.task.name: run for run in stored.read_runs(tmp_path / "store")}
    for name, run in runs.items():
        rows = stored.read_predictions(tmp_path / "store", [run])
        assert rows.group_by("language").len().sort("language").rows() == [("de", 2), ("en", 2)]
        assert rows["score"].is_between(0, 1).all()
        if name != "faq":
            assert all(len(p.split()) == len(g.split()) for p, g in rows.select("prediction", "gold").rows())
    again = predict(tmp_path / "store" / runs["names"].id, "Bob lief", language="de")
    assert set(again.answer.split()) <= {"O", "B-PER", "I-PER"}
    with pytest.raises(UserError, match="task faq searches texts"):
        predict(tmp_path / "store" / runs["faq"].id, "Wer?")
    with pytest.raises(UserError, match="names is left out: it has tags for answers, which the harness"):
        write_tasks(tmp_path / "store", tmp_path / "tasks")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TAGS + "test: 'en.jsonl'\n", r'task\.yaml:5: task: en\.jsonl is a table; add "words:"'),
        (TAGS + "words: w\ntest: en.jsonl\n", r'task\.yaml:5: task: words needs "answer:" beside it'),
        (TAGS + "id: key\ntest: en.conll\n", r'task\.yaml:5: task: id is of tables; add "words:"'),
        (TAGS + 'prompt: "{w}"\ntest: en.conll\n', "prompt has no meaning for a task of kind tags"),
        (
            TAGS.replace("[O, B-PER, I-PER]", "['{a}', O]") + "test: x\n",
            "choices: a list of all tags is",
        ),
        (
            TAGS.replace("choices: [O, B-PER, I-PER]\n", "") + "test: x\n",
            r'needs "choices:", all tags, such',
        ),
        (
            TAGS.replace("strict_f1", "f1") + "test: x\n",
            "metric of a tags task should be tag_acc",
        ),
        (TAGS.replace("B-PER", "PER") + "test: x\n", r"yaml:4: task: strict_f1 reads .*, and PER would be"),
        (TAGS.replace("B-PER, ", "") + "test: x\n", "each I-X with a B-X, and I-PER would be in no name"),
        (
            TAGS.replace("B-PER", "ORG").replace("strict", "xtreme") + "test: x\n",
            "a first letter O for no name, and ORG has it",
        ),
        (
            TAGS.replace("choices", "labels"),
            r'unknown key "labels" in a task; all of them are called choices',
        ),
        ("name: x\nkind: ner\ntest: x\n", r'yaml:2: task: kind should be one of choice, .*; found "ner"'),
        (RETRIEVAL + "answer: a\ntest: x.tsv\n", 'a task needs "prompt:"'),
        (
            RETRIEVAL + 'prompt: "{q}"\nanswer: a\nwords: w\ntest: x.tsv\n',
            "words has no meaning for a task",
        ),
        (
            RETRIEVAL + 'prompt: "{q}"\nanswer: source.q\nparallel: true\ntrain: x.tsv\ntest: "{code}.tsv"\n',
            "train of parallel files would be a text and itself",
        ),
        (RETRIEVAL + 'prompt: "{q}"\nanswer: q\nparallel: true\ntest: "{code}.tsv"\n', "such as source.text"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        task_of(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ({"tokens": ["a"], "ner": {"tags": ["O", "O"]}}, "", "en.jsonl:1: 1 words and 2 tags"),
        (
            {"tokens": ["a"], "ner": {"tags": ["B-LOC"]}},
            "",
            "unknown tag 'B-LOC'; known: O, B-PER, I-PER",
        ),
        ({"tokens": ["a"], "ner": {"tags": [1]}}, "", "unknown tag '1'; known: .*; if it is the number of a"),
        ({"tokens": ["a"], "ner": {"tags": [3]}}, "answer_is: index0\n", "unknown tag '3'; known: "),
        ({"tokens": ["a", None], "ner": {"tags": ["O", "O"]}}, "", r"tokens\[1\] is missing"),
        ({"tokens": ["a"]}, "", "no column ner.tags; it has tokens"),
        (
            {"tokens": ["a"], "ner": {"tags": ["I-PER"]}},
            "",
            "en.jsonl:1: I-PER begins a name, which strict_f1",
        ),
    ],
)
def test_mistakes_in_the_data(tmp_path: Path, row: dict[str, Any], more: str, message: str) -> None:
    (tmp_path / "en.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message):
        task_of(tmp_path, f"{TAGS}{FIELDS}{more}test: en.jsonl\n").examples("test", "en")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('    tags = ("Upper", "Lower")\n', ""), "tags is missing; give a tuple of all tags"),
        (("t.split())", "t.split()[1:])"), "3 words and 2 tags, each parted by one space"),
        (('"Upper" if', '"Big" if'), "unknown tag 'Big'"),
        (("(tags,), self.tags)", '(tags,), ("Lower",))'), "its choices should be the task's tags"),
        (('("tag_accuracy",)', '("macro_f1",)'), "macro_f1 is of a whole test set of choices"),
    ],
)
def test_mistakes_in_python(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "caps.py").write_text(PYTHON.replace(*change))
    with pytest.raises(UserError, match=message):
        load_task(tmp_path / "caps.py").task().examples("test", "en")
