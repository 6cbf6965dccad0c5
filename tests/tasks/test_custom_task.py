"""A task of the user's own: what its file may say, what comes of it, and how mistakes are told."""

import json
import math
import re
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstune.analysis.groups import group_of
from crosstune.errors import UserError
from crosstune.languages import table
from crosstune.metrics.corpus import CORPUS
from crosstune.metrics.language_id import measurable
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.task_data import read_data
from crosstune.study.runs import expand
from crosstune.study.spec import read_study
from crosstune.tasks.custom.definition import Definition
from crosstune.tasks.custom.load import load_task
from crosstune.tasks.custom.task import METRICS

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = [
    {"key": "a", "text": "The door is open.", "label": "calm"},
    {"key": "b", "text": 'She said "now", again;\nand left.', "label": "angry"},
    {"key": "c", "text": "Wo ist {text}?", "label": "calm"},
]
CHOICE = """\
name: tone
kind: choice
prompt: "{text}\\nTone:"
choices: [calm, angry]
answer: label
id: key
train: train_{code}.csv
test: test_{code}.csv
"""
WRITTEN = """\
name: fetch
kind: generation
prompt: "{question}\\nAnswer:"
answer: answer
train: en.jsonl
test: "{code}.jsonl"
"""


def write_rows(path, rows):
    """Rows in the format the file's name ends in."""
    if path.suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    elif path.suffix == ".tsv":
        pl.DataFrame(rows).write_csv(path, separator="\t", quote_style="never")
    elif path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def define(folder, text, name="task.yaml"):
    (folder / name).write_text(text, encoding="utf-8")
    return load_task(folder / name)


def make(folder, text, **options):
    task = define(folder, text).task
    return task(task.Options(**options))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_examples(tmp_path, suffix):
    rows = ROWS if suffix != "tsv" else [{**row, "text": row["text"].replace("\n", " ")} for row in ROWS]
    for code in ("train_en", "test_en", "test_deu_Latn"):
        write_rows(tmp_path / f"{code}.{suffix}", rows)
    task = make(tmp_path, CHOICE.replace(".csv", f".{suffix}"))
    assert task.languages() == ["en", "de"]
    found = {example.id: example for example in task.examples("test", "de")}
    assert {key: example.prompt for key, example in found.items()} == {
        row["key"]: f"{row['text']}\nTone:" for row in rows
    }
    assert [found[key].answers for key in "abc"] == [("calm",), ("angry",), ("calm",)]
    assert found["a"].choices == ("calm", "angry")
    assert found["a"].fields == (("text", "The door is open."),)
    assert found["a"].language == "de"
    assert task.sources == [{"split": "test", "language": "de", "files": [f"test_deu_Latn.{suffix}"]}]
    order = [example.id for example in task.examples("test", "en")]
    assert order == [example.id for example in task.examples("test", "de")]
    assert task.score(found["a"], "calm") == {"accuracy": 1.0}
    assert task.score(found["a"], "angry") == {"accuracy": 0.0}


def test_a_column_may_say_which_rows_depend_on_each_other(tmp_path):
    for code in ("train_en", "test_en"):
        write_rows(tmp_path / f"{code}.csv", [{**row, "story": row["key"] == "c"} for row in ROWS])
    found = {e.id: e.cluster for e in make(tmp_path, CHOICE + "cluster: story\n").examples("test", "en")}
    assert found["a"] == found["b"] != found["c"]
    assert {e.cluster for e in make(tmp_path, CHOICE).examples("test", "en")} == {""}


@pytest.mark.parametrize(
    ("how", "values"),
    [("text", ["tea", "milk"]), ("index0", [0, 1]), ("index1", ["1", "2"]), ("letter", ["A", "b"])],
)
def test_an_answer_may_be_a_text_a_number_or_a_letter(tmp_path, how, values):
    rows = [{"q": "Which?", "one": "tea", "two": "milk", "gold": value} for value in values]
    write_rows(tmp_path / "x.jsonl", rows)
    task = make(
        tmp_path,
        'name: x\nkind: choice\nprompt: "{q}"\nchoices: ["{one}", "{two}"]\nanswer: gold\n'
        f"answer_is: {how}\ntrain: x.jsonl\ntest: x.jsonl\n",
    )
    found = {example.id: example for example in task.examples("test", "en")}
    assert [found[line].answers for line in "12"] == [("tea",), ("milk",)]
    assert {example.choices for example in found.values()} == {("tea", "milk")}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_may_hold_the_list_of_choices(tmp_path, suffix):
    rows = [{"q": "Which?", "all": ["x", "y", "z"], "gold": 3}]
    write_rows(tmp_path / f"x.{suffix}", rows)
    text = (
        'name: x\nkind: choice\nprompt: "{q}"\nchoices: all\nanswer: gold\nanswer_is: index1\n'
        f"train: x.{suffix}\ntest: x.{suffix}\n"
    )
    (example,) = make(tmp_path, text).examples("test", "en")
    assert (example.choices, example.answers, example.gold) == (("x", "y", "z"), ("z",), 2)


@pytest.mark.parametrize(
    ("metric", "language", "answer", "score"),
    [
        ("exact", "en", "The Red house!", 1),
        ("exact", "en", "red", 0),
        ("squad_f1", "en", "red", 2 / 3),
        ("mlqa_f1", "de", "das rote Haus", 1),
        ("number_match", "de", "Es sind 1.200.", 1),
        ("number_match", "de", "Es sind 1,2.", 0),
    ],
)
def test_metrics_of_written_answers(tmp_path, metric, language, answer, score):
    golds = {"exact": ["red house", "barn"], "squad_f1": "red house", "mlqa_f1": "rote Haus"}
    rows = [{"question": "What?", "answer": golds.get(metric, "1200")}]
    write_rows(tmp_path / "en.jsonl", rows)
    write_rows(tmp_path / "de.jsonl", rows)
    task = make(tmp_path, f"{WRITTEN}metric: {metric}\nmax_answer_tokens: 5\nstop: ['.']\n")
    assert (task.metrics, task.max_answer_tokens, task.stop) == ((metric,), 5, (".",))
    (example,) = task.examples("test", language)
    assert example.choices == ()
    assert task.score(example, answer) == {metric: pytest.approx(score)}


def test_a_prompt_a_language(tmp_path):
    write_rows(tmp_path / "train_en.csv", ROWS[:1])
    write_rows(tmp_path / "test_de.csv", ROWS[:1])
    write_rows(tmp_path / "test_fr.csv", ROWS[:1])
    prompts = 'prompt:\n  English: "{text} Tone:"\n  de: "{text} Ton:"\n'
    text = CHOICE.replace('prompt: "{text}\\nTone:"\n', prompts)
    assert make(tmp_path, text).examples("test", "de")[0].prompt == "The door is open. Tone:"
    target = make(tmp_path, text, prompt_language="target")
    assert target.examples("test", "de")[0].prompt == "The door is open. Ton:"
    assert target.template("de") == "{text} Ton:"
    with pytest.raises(UserError, match="task tone has no prompt in fr, only in en, de; add one to its file"):
        target.examples("test", "fr")


def test_another_source_language(tmp_path):
    write_rows(tmp_path / "train_de.csv", ROWS[:1])
    write_rows(tmp_path / "test_en.csv", ROWS[:1])
    write_rows(tmp_path / "test_de.csv", ROWS[:1])
    task = make(tmp_path, CHOICE + "source_language: deu\n")
    assert task.languages() == ["de", "en"]
    assert len(task.examples("train", "de")) == 1


def test_a_column_of_languages(tmp_path):
    rows = [
        {"key": "a", "text": "Hello.", "label": "calm", "lang": "eng_Latn"},
        {"key": "a", "text": "Hallo.", "label": "calm", "lang": "German"},
        {"key": "b", "text": "Geh!", "label": "angry", "lang": "de"},
    ]
    write_rows(tmp_path / "all.tsv", rows)
    text = CHOICE.replace("train_{code}.csv", "all.tsv").replace("test_{code}.csv", "all.tsv")
    task = make(tmp_path, text + "language: lang\n")
    assert task.languages() == ["en", "de"]
    assert {e.id: e.prompt for e in task.examples("test", "de")} == {"a": "Hallo.\nTone:", "b": "Geh!\nTone:"}
    assert [e.prompt for e in task.examples("train", "en")] == ["Hello.\nTone:"]
    write_rows(tmp_path / "all.tsv", [*rows, {**rows[2], "key": "c", "lang": "Klingonese"}])
    with pytest.raises(UserError, match=r"all\.tsv:5: lang: unknown language 'Klingonese'"):
        make(tmp_path, text + "language: lang\n").examples("test", "de")


def test_the_development_split_and_data_elsewhere(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train_en.csv", ROWS[:1])
    write_rows(data / "dev_en.csv", ROWS[1:])
    task = make(tmp_path, CHOICE + "dev: dev_{code}.csv\n", data=str(data), evaluate_on="dev")
    assert task.languages() == ["en"]
    assert {example.id for example in task.examples("test", "en")} == {"b", "c"}
    # Where the definition lies is no part of the options, which a run's id is made of.
    assert make(tmp_path, CHOICE).options.model_dump()["data"] is None
    with pytest.raises(UserError, match=f"no rows in test_{{code}}.csv below {tmp_path}; correct"):
        make(tmp_path, CHOICE).languages()
    with pytest.raises(UserError, match='task tone has no dev split; add "dev:" to its file'):
        make(tmp_path, CHOICE, evaluate_on="dev").languages()


def test_rows_of_several_files_are_numbered_apart(tmp_path):
    """As large datasets of the hub come; first on the line as where there is one file."""
    for name, rows in (("0000", ROWS), ("0001", ROWS[:2])):
        (tmp_path / "en").mkdir(exist_ok=True)
        write_rows(tmp_path / "en" / f"{name}.parquet", rows)
    text = CHOICE.replace("id: key\n", "").replace("test_{code}.csv", '"{code}/*.parquet"')
    examples = make(tmp_path, text).examples("test", "en")
    assert {example.id for example in examples} == {"1", "2", "3", "1:1", "1:2"}


def test_a_file_in_no_known_language_is_not_passed_over(tmp_path):
    write_rows(tmp_path / "test_en.csv", ROWS)
    write_rows(tmp_path / "test_everyone.csv", ROWS)
    with pytest.raises(
        UserError, match=r"test_everyone\.csv: no known language in its name, where test_{code}"
    ):
        make(tmp_path, CHOICE).languages()


BAD_ROWS = [
    ({"key": "z", "text": "x", "label": "clam"}, "label 'clam' is none of the choices: calm, angry"),
    ({"key": "z", "text": " ", "label": "calm"}, "empty text"),
    ({"key": "z", "text": ["x"], "label": "calm"}, r"text is \['x'\] where a text was expected"),
    ({"key": "z", "text": "x", "label": None}, "label is missing"),
    ({"key": "a", "text": "x", "label": "calm"}, "id 'a' again, first on line 1"),
    ({"key": "z", "text": "x"}, "no column label; it has key, text"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_stops_or_is_counted(tmp_path, row, message):
    write_rows(tmp_path / "test_en.jsonl", [ROWS[0], row, ROWS[1]])
    text = CHOICE.replace(".csv", ".jsonl")
    with pytest.raises(UserError, match=rf"test_en\.jsonl:2: {message}.* \(or set on_bad_rows: skip\)"):
        make(tmp_path, text).examples("test", "en")
    for task in (make(tmp_path, text, on_bad_rows="skip"), make(tmp_path, text + "on_bad_rows: skip\n")):
        assert {example.id for example in task.examples("test", "en")} == {"a", "b"}
        assert len(task.skipped) == 1


@pytest.mark.parametrize(
    ("how", "value", "message"),
    [
        ("index0", 2, r"gold '2' names none of the 2 choices \(the first is 0\)"),
        ("index1", 0, r"gold '0' names none of the 2 choices \(the first is 1\)"),
        ("index0", "-1", "gold '-1' names none"),
        ("index0", True, "gold is True where a text was expected"),
        ("letter", "C", r"gold 'C' names none of the 2 choices \(the first is A\)"),
        ("letter", "AB", "gold 'AB' names none"),
        ("text", "same", "two choices are the same: same, same"),
    ],
)
def test_an_answer_that_names_no_choice(tmp_path, how, value, message):
    two = "same" if value == "same" else "y"
    write_rows(tmp_path / "x.jsonl", [{"q": "?", "one": "same", "two": two, "gold": value}])
    task = make(
        tmp_path,
        'name: x\nkind: choice\nprompt: "{q}"\nchoices: ["{one}", "{two}"]\nanswer: gold\n'
        f"answer_is: {how}\ntrain: x.jsonl\ntest: x.jsonl\n",
    )
    with pytest.raises(UserError, match=rf"x\.jsonl:1: {message}"):
        task.examples("test", "en")


@pytest.mark.parametrize(
    ("answer", "message"),
    [([], "answer is an empty list"), (["x", " "], r"empty answer\[1\]"), ("seven", "'seven' has no number")],
)
def test_a_gold_that_cannot_be_scored(tmp_path, answer, message):
    write_rows(tmp_path / "en.jsonl", [{"question": "?", "answer": answer}])
    with pytest.raises(UserError, match=rf"en\.jsonl:1: .*{message}"):
        make(tmp_path, WRITTEN + "metric: number_match\n").examples("test", "en")


@pytest.mark.parametrize(("stop", "answer"), [("", "two\nlines"), ('stop: ["\\n", "."]\n', "approx. 7")])
def test_an_answer_that_holds_a_stop_string_can_never_be_matched(tmp_path, stop, answer):
    write_rows(tmp_path / "en.jsonl", [{"question": "?", "answer": ["seven", answer]}])
    with pytest.raises(UserError, match=r"en\.jsonl:1: answer .* holds the stop string .* never be matched"):
        make(tmp_path, WRITTEN + stop).examples("test", "en")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_have_is_no_text(tmp_path, number):
    (tmp_path / "en.jsonl").write_text('{"question": "?", "answer": ' + number + "}\n")
    with pytest.raises(UserError, match=rf"en\.jsonl:1: not JSON: {number} is no number"):
        make(tmp_path, WRITTEN).examples("test", "en")


def test_nan_in_parquet_is_no_text(tmp_path):
    write_rows(
        tmp_path / "en.parquet", [{"question": "?", "answer": 1.5}, {"question": "!", "answer": math.nan}]
    )
    text = WRITTEN.replace("jsonl", "parquet")
    with pytest.raises(UserError, match=r"en\.parquet:2: answer is nan, which is no number"):
        make(tmp_path, text).examples("test", "en")


def test_a_word_is_one_label_in_either_unicode_form(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    text = CHOICE.replace("[calm, angry]", f'["{composed}", tea]').replace(".csv", ".jsonl")
    write_rows(tmp_path / "test_en.jsonl", [{"key": "a", "text": "x", "label": apart}])
    (example,) = make(tmp_path, text).examples("test", "en")
    assert example.answers == (composed,)
    assert example.gold == 0
    two = text.replace(", tea]", f', "{apart}"]')
    with pytest.raises(UserError, match="two choices are the same"):
        make(tmp_path, two).examples("test", "en")


def test_written_answers_are_composed_where_the_task_says_so(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    write_rows(tmp_path / "en.jsonl", [{"question": "?", "answer": apart}])
    for extra, score in (("", 0.0), ("normalise: NFC\n", 1.0)):
        task = make(tmp_path, WRITTEN + extra)
        (example,) = task.examples("test", "en")
        assert task.score(example, composed) == {"exact": score}
        assert task.score(example, apart) == {"exact": 1.0}


BATAK = "languages:\n  bts: {name: Simalungun Batak, family: Austronesian, script: Latn, resource: 0}\n"


@pytest.fixture
def clean_table():
    yield
    for code in list(table.ADDED):
        del table.ADDED[code], table.LANGUAGES[code], table._ALIASES[code]
    table._index.cache_clear()


@pytest.mark.usefixtures("clean_table")
def test_a_language_that_the_table_lacks_is_added_in_the_tasks_file(tmp_path):
    write_rows(tmp_path / "test_en.csv", ROWS)
    write_rows(tmp_path / "test_bts.csv", ROWS)
    with pytest.raises(UserError, match=r"test_bts\.csv: no known language in its name"):
        make(tmp_path, CHOICE).languages()
    task = make(tmp_path, CHOICE + BATAK)
    assert task.languages() == ["en", "bts"]
    assert {e.language for e in task.examples("test", "bts")} == {"bts"}
    assert table.find("Simalungun Batak").code == table.find("bts_Latn").code == "bts"
    assert group_of("bts", "resource") == "class 0"
    assert group_of("bts", "family") == group_of("id", "family") == "Austronesian"
    assert not measurable("bts", "en")  # in Latin letters, and unknown to the identifier
    assert measurable("bts", "ru")
    assert make(tmp_path, CHOICE + BATAK).languages() == ["en", "bts"]  # once more is no mistake
    toba = "languages:\n  bbc: {name: Toba, family: Austronesian, script: Latn, resource: 0}\n"
    make(tmp_path, CHOICE + toba)  # nor is one of a file from before the table had it, and the table stands
    assert table.find("bbc").name == "Batak Toba"


@pytest.mark.usefixtures("clean_table")
def test_a_language_is_defined_once_for_all_studies_of_a_project(tmp_path):
    write_rows(tmp_path / "test_en.csv", ROWS)
    write_rows(tmp_path / "test_bts.csv", ROWS)
    (tmp_path / "task.yaml").write_text(CHOICE)
    (tmp_path / "ours.yaml").write_text("new_" + BATAK)
    study = tmp_path / "study.yaml"
    study.write_text(
        "include: ours.yaml\nname: s\nmodel: demo:gemma-3-270m\nmethods: [none]\ntasks: [task.yaml]\n"
        "languages: [Simalungun Batak]\n"
    )
    read = read_study(study)
    assert next(read.combinations()).languages == ("en", "bts")
    assert yaml.safe_load(read.to_yaml())["new_languages"]["bts"]["script"] == "Latn"
    (tmp_path / "ours.yaml").write_text("new_languages:\n  de: {name: D, family: x, script: Latn}\n")
    with pytest.raises(UserError, match=r"ours\.yaml:2: new_languages: 'de' is in the language table"):
        read_study(study)


@pytest.mark.usefixtures("clean_table")
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("de: {name: Dutchish, family: x, script: Latn}", "'de' is in the language table: German"),
        ("bts: {name: German, family: x, script: Latn}", "'German' is in the language table"),
        ("bts: {name: B, family: x, script: Latin}", "unknown script 'Latin'; give an ISO 15924 code"),
        ("toba: {name: B, family: x, script: Latn}", "two or three letters such as bbc; found 'toba'"),
        ("bts: {name: B, script: Latn}", "bts needs a name, a family and a script"),
        ("bts: {name: B, family: x, script: Latn, resource: 6}", "the resource class is 0 to 5; found 6"),
        ("bts: Batak", "bts needs a name, a family and a script"),
    ],
)
def test_a_language_that_cannot_be_added(tmp_path, entry, message):
    with pytest.raises(UserError, match=rf"task\.yaml:\d+: .*{message}"):
        make(tmp_path, f"{CHOICE}languages:\n  {entry}\n")
    assert not table.ADDED


MISTAKES = [
    (
        "kind: choice",
        "kind: chioce",
        '2: task: kind should be one of choice, generation, tags, retrieval; found "chioce"',
    ),
    ("kind: choice", "kind: choice\nversion: 0", "3: task: version should be greater than or equal to 1"),
    ("kind: choice", "kind: choice\nversion: true", "3: task: version cannot be true"),
    (
        "kind: choice",
        "kind: choice\nmetric: exact",
        '3: task: metric of a choice task should be accuracy or macro_f1 or mcc; found "exact"',
    ),
    (
        "choices: [calm, angry]",
        'choices: ["{key}", angry]\nmetric: mcc',
        "5: task: metric mcc needs choices that are the same in every row",
    ),
    ("kind: choice", "kind: generation", "4: task: choices has no meaning for a task of kind generation"),
    ("choices: [calm, angry]\n", "", '2: task: a task of kind choice needs "choices:"'),
    ("[calm, angry]", "[{a}, {b}]", "4: task: choices: entry 1 is no text; put quotes around it"),
    ("[calm, angry]", "[calm, calm]", "4: task: choices: two or more different ones are wanted"),
    ("answer: label", "answr: label", '5: unknown key "answr" in a task; did you mean "answer"?'),
    ("answer: label\n", "", '1: a task needs "answer:", the column of the right answer'),
    ("answer: label", "answer: [label]", "5: task: answer should be text; found a list"),
    ("id: key", "answer_is: word", "6: task: answer_is should be 'text', 'index0', 'index1' or 'letter'"),
    ("id: key", "id: key\nid: again", '7: key "id" again; first on line 6'),
    ('"{text}\\nTone:"', "Tone?", "3: task: prompt: no {column} in it"),
    ('"{text}\\nTone:"', '\n  en: "{text}"\n  qq: "{text}"', "5: task: prompt: unknown language 'qq'"),
    ('"{text}\\nTone:"', '\n  fr: "{text}"', "3: task: prompt: none in en, the source language"),
    ('"{text}\\nTone:"', '\n  en: "{text}"\n  eng: "{text}"', "3: task: prompt: a language is there twice"),
    ("name: tone", "name: ../tone", '1: task: name should be letters, digits, "-" and "_"; found "../tone"'),
    ("test_{code}.csv", "/etc/{code}.csv", "8: task: test should be a path below the definition's folder"),
    ("test_{code}.csv", "a/../../x.csv", "8: task: test should be a path below the definition's folder"),
    (
        "test_{code}.csv",
        "x_{lang}.csv",
        "8: task: test has the unknown placeholder {lang}; {code} stands",
    ),
    ("test_{code}.csv", "{code}/{code}.csv", "8: "),
    ("test_{code}.csv", "x/**/x.csv", "8: task: test should have {code} at most once, * within a name"),
    (CHOICE, "- name", "1: a task is a mapping of keys"),
    (CHOICE, "", "1: a task is a mapping of keys"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES, ids=[wrong for _, wrong, _ in MISTAKES])
def test_a_mistake_in_the_definition_names_its_line(tmp_path, right, wrong, message):
    assert right in CHOICE
    with pytest.raises(UserError) as caught:
        define(tmp_path, CHOICE.replace(right, wrong, 1))
    assert str(caught.value).startswith(f"{tmp_path / 'task.yaml'}:{message}")
    assert "\n" not in str(caught.value)


KEYS = st.sampled_from(["name", "kind", "prompt", "answer", "choices", "train", "test", "stop"])
TEXTS = st.text(max_size=8)
VALUES = (
    st.none()
    | st.integers()
    | TEXTS
    | st.lists(TEXTS, max_size=3)
    | st.dictionaries(TEXTS, TEXTS, max_size=2)
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, VALUES))
def test_nothing_but_a_user_error_comes_of_a_strange_file(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("strange") / "task.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    try:
        load_task(file)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 - anything else fails by itself


def test_a_file_is_known_by_its_content(tmp_path):
    first = define(tmp_path, CHOICE)
    assert load_task(tmp_path / "task.yaml") == first
    copy = define(tmp_path, CHOICE, "copy.yml")
    assert copy.sha256 == first.sha256
    assert define(tmp_path, CHOICE + "# a word\n").sha256 != first.sha256
    for name, message in [("task.json", r"ends in \.yaml, \.yml, \.py"), ("none.yaml", "none.yaml: no such")]:
        with pytest.raises(UserError, match=message):
            load_task(tmp_path / name)


@pytest.mark.parametrize(("file", "counts"), [("mood.yaml", [12, 4, 6]), ("larger_number.py", [200, 40, 60])])
def test_the_examples_of_the_documentation(file, counts):
    kind = load_task(EXAMPLES / file).task
    task = kind()
    assert task.languages() == ["en", "de", "es"]
    splits = [task.examples(split, "en") for split in ("train", "dev", "test")]
    assert [len(split) for split in splits] == counts
    prompts = [example.prompt for split in splits for example in split]
    assert len(set(prompts)) == len(prompts)
    tested = {code: task.examples("test", code) for code in task.languages()}
    assert len({tuple((e.id, e.answers) for e in examples) for examples in tested.values()}) == 1
    assert len({tuple(e.prompt for e in examples) for examples in tested.values()}) == 3
    assert {example.gold for example in splits[2]} == {0, 1}


def test_the_documentation_shows_what_there_is(tmp_path):
    text = (EXAMPLES.parent / "docs" / "custom-tasks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code in (EXAMPLES / "larger_number.py").read_text(encoding="utf-8")
    first, second, *_ = (
        block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind:" in block
    )
    assert first in (EXAMPLES / "mood.yaml").read_text(encoding="utf-8")
    assert define(tmp_path, second).task.metrics == ("mlqa_f1",)
    table = text.partition("### Keys")[2].partition("**Files.**")[0]
    keys = {
        key for row in table.splitlines()[4:] for key in re.findall(r"`(\w+)`", (row + "||").split("|")[1])
    }
    assert keys == set(Definition.model_fields)
    custom = [name for name, metric in CORPUS.items() if metric.of_choices is not None]
    assert all(f"| `{metric}` |" in text for metric in (*METRICS, *custom))


NESTED = """name: nested
kind: generation
prompt: "{context.text} {question}"
answer: answers.text
id: meta.ids.0
test: "{code}/test{suffix}"
"""
NESTED_ROWS = [
    {
        "context": {"text": f"Text {n}."},
        "question": f"Question {n}?",
        "answers": [{"text": f"a{n}", "start": 1}, {"text": f"b{n}", "start": 2}],
        "meta": {"ids": [f"id{n}", "other"]},
    }
    for n in range(3)
]


def write_nested(folder, suffix):
    folder.mkdir(exist_ok=True)
    file = folder / f"test{suffix}"
    frame = pl.DataFrame(NESTED_ROWS)
    if suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in NESTED_ROWS))
    elif suffix == ".json":
        file.write_text(json.dumps({"version": 1, "data": NESTED_ROWS}))
    elif suffix == ".parquet":
        frame.write_parquet(file)
    else:  # as datasets.save_to_disk writes it
        frame.write_ipc_stream(file)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".arrow"])
def test_fields_inside_others(tmp_path, suffix):
    for code in ("en", "de"):
        write_nested(tmp_path / code, suffix)
    task = make(tmp_path, NESTED.replace("{suffix}", suffix))
    assert task.languages() == ["en", "de"]
    example = {example.id: example for example in task.examples("test", "de")}["id1"]
    assert example.prompt == "Text 1. Question 1?"
    assert example.answers == ("a1", "b1")
    assert not task.has_training
    wrong = make(tmp_path, NESTED.replace("{suffix}", suffix).replace("answers.text", "answers.words"))
    with pytest.raises(UserError, match=r"answers\.words"):
        wrong.examples("test", "de")


def test_a_task_without_training_data_takes_untuned_methods_alone(tmp_path):
    write_nested(tmp_path / "en", ".jsonl")
    (tmp_path / "task.yaml").write_text(NESTED.replace("{suffix}", ".jsonl"), encoding="utf-8")
    study = "name: x\nmodel: demo:gemma-3-270m\ntasks: [task.yaml]\nmethods:\n- none\n"
    (tmp_path / "study.yaml").write_text(study, encoding="utf-8")
    assert len(expand(read_study(tmp_path / "study.yaml"))) == 1
    for method in ("lora", "few-shot"):
        (tmp_path / "study.yaml").write_text(f"{study}- {method}\n", encoding="utf-8")
        with pytest.raises(UserError, match=rf"study.yaml:6: {method}: task nested has no training data"):
            read_study(tmp_path / "study.yaml")
    data = read_data(make(tmp_path, NESTED.replace("{suffix}", ".jsonl")), ["en"], EvaluateSettings(), False)
    assert (data.train, data.of(None)["train"]) == ({"en": []}, {})
    assert data.overlap(None)["prompts"] == 0
