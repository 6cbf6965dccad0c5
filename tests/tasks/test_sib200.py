import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.errors import UserError
from crosstune.languages.table import LANGUAGES
from crosstune.tasks import make_task

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "sib200" / "annotated").is_dir(), reason=f"SIB-200 is not under {DATA} (set CROSSTUNE_DATA)"
)
HEADER = "index_id\tcategory\ttext\n"


def write(root, body, language="eng_Latn", split="test"):
    path = root / "sib200" / "annotated" / language / f"{split}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return path


def task(root):
    return make_task("sib200", {"data": str(root)})


def test_an_example_reads_as_published(tmp_path):
    write(tmp_path, HEADER + '7\thealth\t"She said ""wash your {hands}"" twice."\n')
    (example,) = task(tmp_path).examples("test", "en")
    assert example.prompt == 'She said "wash your {hands}" twice.\nTopic:'
    assert (example.id, example.answers) == ("7", ("health",))
    assert example.gold == 4
    assert len(example.choices) == 7


def test_languages_are_those_with_a_test_file(tmp_path):
    write(tmp_path, HEADER + "1\ttravel\ta\n")
    write(tmp_path, HEADER + "1\ttravel\ta\n", "zho_Hant")
    write(tmp_path, HEADER + "1\ttravel\ta\n", "swh_Latn")
    write(tmp_path, HEADER + "1\ttravel\ta\n", "deu_Latn", "dev")
    assert task(tmp_path).languages() == ["en", "sw", "zh-Hant"]
    with pytest.raises(UserError, match=r'no "zh-Hans" among its 3 languages; did you mean "zh-Hant"\?'):
        task(tmp_path).examples("test", "zh-Hans")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", r"test\.tsv is empty"),
        ("index_id\ttext\n1\ta\n", r"test\.tsv:1: no column category; the first line is "),
        (HEADER + "1\thealth\ta\n2\thealth\n", r"test\.tsv:3: 2 fields where 3 were expected"),
        (HEADER + "1\thealth\ta\n\n2\thealth\tb\n", r"test\.tsv:3: 1 fields where 3"),
        (HEADER + "1\thealth\ta\tb\n", r"test\.tsv:2: 4 fields where 3"),
        (HEADER + "1\thealht\ta\n", r"test\.tsv:2: unknown category 'healht'; known: science"),
        (HEADER + "1\t\x1b[31m\ta\n", r"test\.tsv:2: unknown category '\\x1b\[31m'"),
        (HEADER + "1\thealth\t  \n", r"test\.tsv:2: empty text"),
        (HEADER + " \thealth\ta\n", r"test\.tsv:2: empty index_id"),
        (HEADER + "1\thealth\ta\n1\ttravel\tb\n", r"test\.tsv:3: id '1' again, first on line 2"),
        (
            HEADER.encode() + b"1\thealth\ta\n2\thealth\t\xff\n",
            r"test\.tsv:3: not UTF-8 \(byte 10 of the line\)",
        ),
    ],
)
def test_damage_is_named_with_file_and_line(tmp_path, body, message):
    write(tmp_path, body)
    with pytest.raises(UserError, match=message) as caught:
        task(tmp_path).examples("test", "en")
    assert "\n" not in str(caught.value)


def test_a_missing_folder_or_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no data folder .*gone: set CROSSTUNE_DATA"):
        task(tmp_path / "gone").languages()
    with pytest.raises(UserError, match="task sib200 has no test split under"):
        task(tmp_path).languages()
    write(tmp_path, HEADER + "1\ttravel\ta\n")
    with pytest.raises(UserError, match=r"no train split under .*annotated/\{code\}/train\.tsv"):
        task(tmp_path).examples("train", "en")
    monkeypatch.setenv("CROSSTUNE_DATA", str(tmp_path))
    assert make_task("sib200").languages() == ["en"]


@given(st.text(alphabet=st.characters(blacklist_characters="\n\t", blacklist_categories=("Cs",))))
def test_hostile_text_comes_through_or_is_refused(tmp_path_factory, text):
    root = tmp_path_factory.mktemp("sib")
    quoted = '"' + text.replace('"', '""') + '"'
    write(root, HEADER + f"1\thealth\t{quoted}\n2\ttravel\tfine\n")
    if not text.strip():
        with pytest.raises(UserError, match=":2: empty text"):
            task(root).examples("test", "en")
        return
    examples = {e.id: e for e in task(root).examples("test", "en")}
    expected = text.strip()
    if "\r" in text:  # the csv module refuses a bare carriage return; such a line is taken as it stands
        assert set(examples) == {"1", "2"}
    else:
        assert examples["1"].prompt == f"{expected}\nTopic:"
    assert examples["2"].prompt == "fine\nTopic:"


@needs_data
def test_the_published_files():
    sib = make_task("sib200", {"data": str(DATA)})
    folders = [f.name for f in (DATA / "sib200" / "annotated").iterdir() if f.is_dir()]
    assert {LANGUAGES[code].flores for code in sib.languages()} == set(folders)
    english = {split: sib.examples(split, "en") for split in ("train", "dev", "test")}
    assert [len(examples) for examples in english.values()] == [701, 99, 204]
    gold = [(e.id, e.answers) for e in english["test"]]
    seen = {e.prompt for split in ("train", "dev") for e in english[split]}
    ids = {e.id for split in ("train", "dev") for e in english[split]}
    for language in sib.languages():
        examples = sib.examples("test", language)
        assert [(e.id, e.answers) for e in examples] == gold
        assert not ids & {e.id for e in examples}
        assert not seen & {e.prompt for e in examples}
        assert sum(e.prompt.startswith('"') and '""' in e.prompt for e in examples) <= 12
    # The files are sorted by topic; any first n of ours is a sample of all.
    assert len({answer for _, answer in gold[:30]}) >= 6
