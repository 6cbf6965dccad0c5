import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from crosstune.data import hub
from crosstune.data.hub import HubFiles, hub_entry
from crosstune.errors import UserError
from crosstune.tasks.benchmarks.xcopa import Xcopa
from crosstune.tasks.prompts import load_prompts

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "xcopa").is_dir(), reason=f"XCOPA is not under {DATA} (set CROSSTUNE_DATA)"
)


def item(
    idx, label, question="cause", premise="The lamp went out.", first="The bulb broke.", second="It rained."
):
    row = {"premise": premise, "choice1": first, "choice2": second, "question": question, "idx": idx}
    return row if label is None else {**row, "label": label}


def write(root, name, *rows):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def make(root, **options):
    return Xcopa(Xcopa.Options(data=str(root), **options))


def only(root, language, **options):
    (example,) = make(root, **options).examples("test", language)
    return example


def test_an_example_reads_as_it_should(tmp_path):
    rows = [item(0, 0), item(1, 1, "effect", first="I saw {it}.")]
    write(tmp_path, "copa_en/test-en.jsonl", *rows)
    by_id = {e.id: e for e in make(tmp_path).examples("test", "en")}
    assert by_id["0"].prompt == "The lamp went out because"
    assert by_id["0"].choices == ("the bulb broke.", "it rained.")
    assert (by_id["0"].gold, by_id["1"].gold) == (0, 1)
    assert by_id["1"].prompt == "The lamp went out so"
    assert by_id["1"].choices[0] == "I saw {it}."
    assert by_id["1"].fields[1] == ("choice1", "I saw {it}.")


@pytest.mark.parametrize(
    ("language", "premise", "first", "prompt", "choice"),
    [
        ("tr", "Lamba söndü.", "Işık bitti.", "Lamba söndü çünkü", "ışık bitti."),
        ("tr", "Lamba söndü.", "İp koptu.", "Lamba söndü çünkü", "ip koptu."),
        ("th", "ไฟดับ", "หลอดขาด", "ไฟดับ เพราะ", "หลอดขาด"),
        ("zh", "灯灭了。", "灯泡坏了。", "灯灭了 因为", "灯泡坏了。"),
        ("ta", "விளக்கு அணைந்தது", "மழை", "விளக்கு அணைந்தது ஏனெனில்", "மழை"),
        ("ht", "Lanp lan mouri.", "Lapli te tonbe.", "Lanp lan mouri paske", "lapli te tonbe."),
        ("et", "Lamp kustus.", "Pirn purunes.", "Lamp kustus sest", "pirn purunes."),
    ],
)
def test_each_language_in_its_own_words(tmp_path, language, premise, first, prompt, choice):
    write(tmp_path, f"xcopa/{language}/test.{language}.jsonl", item(0, 0, premise=premise, first=first))
    example = only(tmp_path, language, prompt_language="target")
    assert example.prompt == prompt
    assert example.answers == (choice,)
    assert only(tmp_path, language).prompt == prompt.rsplit(" ", 1)[0] + " because"


def test_words_are_whole_in_all_languages():
    languages = load_prompts("xcopa")["languages"]
    codes = ["en", "et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"]
    assert sorted(languages) == codes
    for words in languages.values():
        assert words["prompt"].startswith("{premise}")
        assert "{connective}" in words["prompt"]
        assert words["cause"] != words["effect"]


@pytest.mark.parametrize(("name", "hidden"), [("copa_en/test-en.jsonl", 0), ("COPA/test.jsonl", None)])
def test_hidden_labels_come_from_xcopa_by_item(tmp_path, name, hidden):
    write(tmp_path, name, *(item(i, hidden) for i in range(3)))
    with pytest.raises(UserError, match=r"labels are hidden, all the same; .* and none is there"):
        make(tmp_path).examples("test", "en")
    write(tmp_path, "xcopa/it/test.it.jsonl", item(2, 1, "effect"), item(0, 0), item(1, 1))
    task = make(tmp_path)
    assert task.languages() == ["en", "it"]
    english = task.examples("test", "en")
    assert {e.id: e.gold for e in english} == {"0": 0, "1": 1, "2": 1}
    assert {e.prompt.rsplit(" ", 1)[1] for e in english} == {"because"}  # its own question
    assert {"split": "test", "language": "en", "labels": "XCOPA test in it"} in task.sources
    write(tmp_path, "xcopa/it/test.it.jsonl", item(0, 0), item(1, 1))
    with pytest.raises(UserError, match=r":3: label is 'None' where 0 or 1 was expected"):
        make(tmp_path).examples("test", "en")


def test_real_labels_are_used_as_they_are(tmp_path):
    write(tmp_path, "copa_en/test-en.jsonl", item(0, 0), item(1, 1))
    write(tmp_path, "xcopa/it/test.it.jsonl", item(0, 1), item(1, 0))
    assert {e.id: e.gold for e in make(tmp_path).examples("test", "en")} == {"0": 0, "1": 1}


def test_questions_as_published_or_as_in_copa(tmp_path):
    write(tmp_path, "xcopa/th/test.th.jsonl", item(0, 0, "effect"), item(1, 1, "effect"))
    with pytest.raises(UserError, match='no "en" among its 1 languages'):
        make(tmp_path, question="copa").examples("test", "th")
    assert "question" not in str(make(tmp_path).sources)
    write(tmp_path, "copa_en/test-en.jsonl", item(0, 0), item(1, 1, "effect"))
    counts = []
    for question, endings in (("published", ["so", "so"]), ("copa", ["because", "so"])):
        task = make(tmp_path, question=question)
        examples = sorted(task.examples("test", "th"), key=lambda e: e.id)
        assert [e.prompt.rsplit(" ", 1)[1] for e in examples] == endings
        counts += [s["question_not_as_in_copa"] for s in task.sources if "question_not_as_in_copa" in s]
    assert counts == [1, 1]


def test_on_the_hub_english_is_copas(tmp_path, monkeypatch):
    def fetch(repo, pattern, revision):
        hidden = "copa/test" in pattern
        rows = [item(0, -1 if hidden else 0), item(1, -1 if hidden else 1)]
        path = tmp_path / f"{repo.split('/')[1]}.parquet"
        pl.DataFrame(rows).write_parquet(path)
        return HubFiles([path], repo, "c" * 40)

    monkeypatch.setattr(hub, "fetch_files", fetch)
    task = Xcopa(Xcopa.Options(source="hub"))
    assert [e.gold for e in sorted(task.examples("test", "qu"), key=lambda e: e.id)] == [0, 1]
    assert len(task.examples("train", "en")) == len(task.examples("dev", "en")) == 2
    assert [s["repo"] for s in task.sources] == ["cambridgeltl/xcopa", "aps/super_glue", "aps/super_glue"]
    copa = replace(hub_entry("copa"), files={**hub_entry("copa").files, "test": "copa/test-*.parquet"})
    monkeypatch.setattr(hub, "hub_entry", lambda name: copa if name == "copa" else hub_entry(name))
    task = Xcopa(Xcopa.Options(source="hub", question="copa"))
    assert task.languages()[:2] == ["en", "et"]
    assert [e.gold for e in sorted(task.examples("test", "en"), key=lambda e: e.id)] == [0, 1]
    assert [e.gold for e in sorted(task.examples("test", "th"), key=lambda e: e.id)] == [0, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (item(1, 2), r"test\.it\.jsonl:2: label is '2' where 0 or 1"),
        (item(1, 1.0), r"test\.it\.jsonl:2: label is '1\.0' where 0 or 1"),
        (item(1, [1]), r"test\.it\.jsonl:2: label is '\[1\]' where 0 or 1"),
        (item(1, "1"), r"test\.it\.jsonl:2: label is '1' where 0 or 1"),
        (item(1, 0, "reason"), r"test\.it\.jsonl:2: unknown question 'reason'; known: cause, effect"),
        (item(1, 0, first="  "), r"test\.it\.jsonl:2: empty choice1"),
        (item(1, 0, first="it rained."), r"test\.it\.jsonl:2: choice1 and choice2 are the same"),
        (item(0, 0), r"test\.it\.jsonl:2: id '0' again, first on line 1"),
        (item(1, None), r"test\.it\.jsonl:2: no column label"),
    ],
)
def test_damage_is_named_with_file_and_line(tmp_path, row, message):
    write(tmp_path, "xcopa/it/test.it.jsonl", item(0, 1), row)
    with pytest.raises(UserError, match=message):
        make(tmp_path).examples("test", "it")
    task = make(tmp_path, on_bad_rows="skip")
    assert len(task.examples("test", "it")) == len(task.skipped) == 1


@needs_data
def test_the_published_files():
    task = make(DATA)
    assert task.languages() == ["en", "et", "id", "it", "sw", "ta", "th", "tr", "vi", "zh"]
    english = task.examples("test", "en")
    assert Counter(e.gold for e in english) == {0: 250, 1: 250}
    for language in task.languages():
        examples = task.examples("test", language)
        assert [(e.id, e.gold) for e in examples] == [(e.id, e.gold) for e in english]
    differ = {s["language"]: s["question_not_as_in_copa"] for s in task.sources if "question" in s}
    assert {k: n for k, n in differ.items() if n} == {"id": 4, "it": 4, "sw": 37, "th": 250, "tr": 51}
    assert Counter(e.gold for e in task.examples("train", "en")) == {0: 195, 1: 205}
    assert Counter(e.gold for e in task.examples("dev", "en")) == {0: 55, 1: 45}
    thai = make(DATA, question="copa", prompt_language="target").examples("test", "th")
    assert Counter(e.prompt.rsplit(" ", 1)[1] for e in thai) == {"เพราะ": 250, "ดังนั้น": 250}
