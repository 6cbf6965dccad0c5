"""`crosstune check`: every kind of damage is named, a sound store is said to be sound."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from crosstune.data.forms import FORMS
from crosstune.errors import UserError
from crosstune.files import sha256_of
from crosstune.store import failures, store
from crosstune.store.audit import audit
from records import as_record

ID, OTHER = "0123456789abcdef", "fedcba9876543210"
TABLE = pl.DataFrame(
    {"language": ["en"], "example": ["1"], "prediction": ["a"], "gold": ["a"], "score": [1.0]}
)


def put(home: Path, run_id: str = ID, table: pl.DataFrame = TABLE, **changes: Any) -> Path:
    run = as_record({"id": run_id, "started": "2025-01-01T00:00:00+00:00", "label": "x", **changes})
    return store.save(home, run, table, lambda at: save_file({"w": torch.arange(4.0)}, at))


def reseal(folder: Path) -> None:
    """Checksums of what lies there now, so that only its form can be wrong."""
    names = ("run.json", "predictions.parquet", "weights.safetensors")
    sums = {name: sha256_of(folder / name) for name in names}
    (folder / "checksums.json").write_text(json.dumps(sums))


def test_a_sound_store(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, OTHER, kind="search")
    audited = audit(tmp_path)
    assert (audited.results, audited.searches, audited.problems, audited.notes) == (1, 1, (), ())
    assert audited.bytes == sum(file.stat().st_size for file in tmp_path.glob("*/*"))


@pytest.mark.parametrize("name", ["run.json", "predictions.parquet", "weights.safetensors", "checksums.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "remove"])
def test_every_file_is_looked_at(tmp_path: Path, name: str, harm: str) -> None:
    folder = put(tmp_path)
    put(tmp_path, OTHER)
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes({"flip": content, "cut": content[:-3], "empty": b""}[harm])
    audited = audit(tmp_path)
    assert audited.results == 1
    (problem,) = audited.problems
    # A bit flipped in checksums.json accuses the file that it no longer fits.
    assert str(folder) in problem


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("run.json", b'{"id": "', "is no JSON"),
        ("run.json", as_record({"id": OTHER}).model_dump_json().encode(), "its id is not its folder's name"),
        ("predictions.parquet", b"PAR1", "is damaged"),
        ("weights.safetensors", b"\x00" * 40, "is no safetensors file"),
    ],
)
def test_form_is_looked_at_too(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    folder = put(tmp_path)
    (folder / name).write_bytes(content)
    reseal(folder)
    (problem,) = audit(tmp_path).problems
    assert says in problem
    assert str(folder / name) in problem


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (TABLE.drop("gold"), "has no column gold"),
        (TABLE.with_columns(score=float("nan")), "an example without a score"),
        (TABLE.with_columns(score=pl.lit(None, pl.Float64)), "an example without a score"),
        (TABLE.with_columns(score=pl.lit("1")), "has a column score of String, not of numbers"),
        (TABLE.with_columns(language=pl.lit(3)), "has a column language of Int32, not of texts"),
        (TABLE.with_columns(example=pl.lit(None, pl.String)), "an example without an id or a language"),
        (TABLE.with_columns(language=pl.lit("de")), "has the language de, which its run.json has not"),
        (TABLE.with_columns(run=pl.lit("x")), "has a column run"),
        (TABLE.clear(), "has no example in en"),
        (pl.concat([TABLE, TABLE]), "has an example twice"),
    ],
)
def test_predictions_have_their_columns_and_scores(tmp_path: Path, table: pl.DataFrame, says: str) -> None:
    put(tmp_path, table=table)
    (problem,) = audit(tmp_path).problems
    assert says in problem


def test_a_form_of_answers_that_nothing_reads(tmp_path: Path) -> None:
    put(tmp_path, task={"kind": "choise"})
    assert audit(tmp_path).problems == ()
    (problem,) = audit(tmp_path, FORMS).problems
    assert problem.endswith('run.json: unknown form of answer "choise"; did you mean "choice"?')


def test_a_stranger_among_the_files(tmp_path: Path) -> None:
    folder = put(tmp_path)
    (folder / "notes.txt").write_text("mine")
    (problem,) = audit(tmp_path).problems
    assert problem.startswith(f"{folder / 'notes.txt'} is not of this run")


def test_what_lies_beside_is_named(tmp_path: Path) -> None:
    put(tmp_path)
    store.set_aside(put(tmp_path, OTHER))
    failures.keep(tmp_path, OTHER, "sib200 · lora · seed 0", UserError("the loss became nan"))
    (tmp_path / store.WORK / OTHER).mkdir(parents=True)
    (tmp_path / f".tmp-{OTHER}-1-aa").mkdir()
    audited = audit(tmp_path)
    assert audited.problems == ()
    assert [note.partition(":")[0] for note in audited.notes] == [
        "failed", "unfinished", "set aside", "left half-written by a process that was killed"
    ]  # fmt: skip
    assert "sib200 · lora · seed 0: the loss became nan" in audited.notes[0]


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no store"):
        audit(tmp_path / "none")
    with pytest.raises(UserError, match="is no store: it holds no runs"):
        audit(tmp_path)
