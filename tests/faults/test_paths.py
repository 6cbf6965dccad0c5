"""A path is never a pattern: folders named with ``[ ] * ?`` hold their own files, whatever is beside them."""

from pathlib import Path

import polars as pl
import pytest

from crosstune import api
from crosstune.data.tables import read_rows
from crosstune.errors import UserError
from crosstune.store import store
from crosstune.store.audit import audit
from simulated import simulate, write_store

SIBLINGS = [("exp[1]", "exp1"), ("a*", "ab"), ("q?", "qx"), ("{a,b}", "a"), ("[!x]", "y"), ("**", "deep")]


@pytest.mark.parametrize(("name", "sibling"), SIBLINGS)
def test_a_store_reads_its_own_predictions(tmp_path: Path, name: str, sibling: str) -> None:
    runs, rows = simulate({"lora": 0.5}, seeds=(0,), examples=5, languages=["en", "de"])
    write_store(tmp_path / sibling, runs, rows.with_columns(score=pl.lit(1.0)))
    write_store(tmp_path / name, runs, rows.with_columns(score=pl.lit(0.0)))
    assert set(api.results(tmp_path / name).scores["score"]) == {0.0}
    assert set(api.results(tmp_path / sibling).scores["score"]) == {1.0}
    assert store.read_table(tmp_path / name, runs[0].id).columns[0] == "language"
    assert audit(tmp_path / name).problems == ()


@pytest.mark.parametrize(("name", "sibling"), SIBLINGS)
def test_a_store_without_a_sibling_is_no_damaged_one(tmp_path: Path, name: str, sibling: str) -> None:
    runs, rows = simulate({"lora": 0.5}, seeds=(0,), examples=5, languages=["en", "de"])
    write_store(tmp_path / name, runs, rows)
    assert audit(tmp_path / name).problems == ()
    assert api.results(tmp_path / name).scores.height == 2


@pytest.mark.parametrize(("name", "sibling"), SIBLINGS)
def test_a_users_parquet_is_the_file_that_was_named(tmp_path: Path, name: str, sibling: str) -> None:
    for folder, text in ((sibling, "of the sibling"), (name, "its own")):
        (tmp_path / folder).mkdir()
        # Written under a plain name: what is tested is reading.
        pl.DataFrame({"text": [text]}).write_parquet(tmp_path / "plain.parquet")
        (tmp_path / "plain.parquet").rename(tmp_path / folder / f"{folder}.parquet")
    (row,) = read_rows(tmp_path / name / f"{name}.parquet", ["text"])
    assert not isinstance(row, UserError)
    assert row["text"] == "its own"


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").mkdir()
    pl.DataFrame({"text": ["inside"]}).write_parquet(tmp_path / "t.parquet" / "part.parquet")
    with pytest.raises(UserError, match="not a readable parquet file: "):
        read_rows(tmp_path / "t.parquet", ["text"])
