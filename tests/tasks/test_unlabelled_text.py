"""Unlabelled text: where it comes from, and how it is cut into blocks."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from crosstune.errors import UserError
from crosstune.tasks.text.task import TextOptions, UnlabelledText, blocks


def text(source: Path | str, **options: Any) -> UnlabelledText:
    return UnlabelledText(TextOptions(source=str(source), **options))


def lines(task: UnlabelledText, language: str) -> list[str]:
    return [line for block in task.examples("train", language) for _, line in block.fields]


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "swh.txt").write_text("Habari.\n\n Nyumba \nHabari.\n", encoding="utf-8")
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "a.txt").write_text("Haus", encoding="utf-8")
    (tmp_path / "de" / "b.txt").write_text("Hof", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no language", encoding="utf-8")
    rows = [json.dumps({"body": "un\ndeux"}), json.dumps({"body": "trois"})]
    (tmp_path / "fr.jsonl").write_text("\n".join(rows), encoding="utf-8")
    task = text(tmp_path)
    assert task.languages() == ["de", "fr", "sw"]
    assert (lines(task, "sw"), lines(task, "de")) == (["Habari.", "Nyumba"], ["Haus", "Hof"])
    assert task.sources == [
        {"split": "train", "language": "sw", "files": ["swh.txt"], "lines": 2, "characters": 13},
        {"split": "train", "language": "de", "files": ["de/a.txt", "de/b.txt"], "lines": 2, "characters": 7},
    ]
    assert lines(text(tmp_path, files="{code}.jsonl", column="body"), "fr") == ["un", "deux", "trois"]


def test_tatoeba_and_the_declaration(tmp_path: Path) -> None:
    (tmp_path / "tatoeba").mkdir()
    for pair in ("swh", "tel"):
        for code in (pair, "eng"):
            (tmp_path / "tatoeba" / f"tatoeba.{pair}-eng.{code}").write_text(f"one {code}\ntwo {pair}\n")
    task = text("tatoeba", data=str(tmp_path))
    assert task.languages() == ["en", "sw", "te"]
    assert lines(task, "en") == ["one eng", "two swh", "two tel"], "of all pairs, each once"
    assert lines(task, "sw") == ["one swh", "two swh"]
    (tmp_path / "udhr").mkdir()
    with zipfile.ZipFile(tmp_path / "udhr" / "udhr2.zip", "w") as archive:
        more = ("deu", "ell_monotonic", "ell_polytonic", "aka_akuapem", "aka_asante")
        for name in ("eng", "swh", "deu_1901", "cmn_hant", "por_BR", "por_PT", "007", *more):
            archive.writestr(f"udhr2/{name}.txt", f"Article 1\n{name}")
    task = text("udhr", data=str(tmp_path))
    assert task.languages() == ["ak", "de", "el", "en", "pt", "sw", "tw", "zh-Hant"]
    files = {"pt": "por_BR", "de": "deu", "el": "ell_monotonic", "tw": "aka_asante", "ak": "aka_akuapem"}
    for code, name in files.items():
        assert lines(task, code) == ["Article 1", name]


def test_blocks_hold_whole_lines_and_lose_nothing() -> None:
    given = ["a b c", "dd", "e" * 12, "f", "word and word"]
    made = list(blocks(given, 8))
    assert made == [["a b c", "dd"], ["eeeeeeee"], ["eeee", "f"], ["word and"], ["word"]]
    assert max(len("\n".join(block)) for block in made) <= 8


@pytest.mark.parametrize(
    ("write", "wrong"),
    [
        ({}, "no unlabelled text in it; looked for"),
        ({"sw.txt": b"\n \n"}, "nothing in sw"),
        ({"sw.txt": b"ok\n\xff\n"}, r"sw\.txt:2: not UTF-8"),
        ({"sw.jsonl": b'{"text": 3}\n'}, r"sw\.jsonl:1: text is no text"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, write: dict[str, bytes], wrong: str) -> None:
    for name, content in write.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=wrong):
        text(tmp_path).examples("train", "sw")


def test_a_language_or_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "udhr").mkdir()
    (tmp_path / "udhr" / "udhr2.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="no zip file"):
        text("udhr", data=str(tmp_path)).languages()
    with pytest.raises(UserError, match="needs files:"):
        text("hub:owner/name").languages()
    (tmp_path / "de.txt").write_text("Haus")
    with pytest.raises(UserError, match='task text has no "sw" among its 1 languages'):
        text(tmp_path).examples("train", "sw")
