"""The store: whole runs or none, and damage is named."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from crosstune.errors import UserError
from crosstune.languages.table import ADDED, LANGUAGES, _index
from crosstune.models.tensor_file import write_tensors
from crosstune.store import store
from crosstune.store.record import RunRecord
from records import as_record

ID, OTHER = "0123456789abcdef", "fedcba9876543210"
TABLE = pl.DataFrame({"language": ["en"], "example": ["1"], "score": [1.0]})


def record(run_id: str = ID, **facts: Any) -> RunRecord:
    return as_record({"id": run_id, "started": "2025-01-01T00:00:00+00:00", "label": "x", **facts})


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    store.save(tmp_path, record(), TABLE)
    wider = TABLE.with_columns(pl.lit(0.5).alias("metric.f1"))
    store.save(tmp_path, record(OTHER), wider, lambda at: at.write_bytes(b"weights") and None)
    runs = store.read_runs(tmp_path)
    assert [run.id for run in runs] == [ID, OTHER]
    table = store.read_predictions(tmp_path, runs)
    assert table.columns == ["run", "language", "example", "score", "metric.f1"]
    assert table["metric.f1"].to_list() == [None, 0.5]
    assert sorted(p.name for p in (tmp_path / OTHER).iterdir()) == [
        "checksums.json", "predictions.parquet", "run.json", "weights.safetensors"
    ]  # fmt: skip
    assert store.finished(tmp_path) == {ID, OTHER}


def test_a_run_made_again_takes_the_old_ones_place(tmp_path: Path) -> None:
    store.save(tmp_path, record(), TABLE)
    store.save(tmp_path, record(label="y"), TABLE)
    assert [run.label for run in store.read_runs(tmp_path)] == ["y"]
    assert [p.name for p in tmp_path.iterdir()] == [ID]


@pytest.mark.parametrize("name", ["run.json", "predictions.parquet"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_named(tmp_path: Path, name: str, harm: str) -> None:
    store.save(tmp_path, record(), TABLE)
    file = tmp_path / ID / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(content if harm == "flip" else content[:-3])
    with pytest.raises(UserError) as error:
        store.read_predictions(tmp_path, store.read_runs(tmp_path))
    what = "is missing" if harm == "remove" else "is damaged (its checksum differs)"
    assert str(error.value) == f"{file} {what}; run the study again, or delete {tmp_path / ID}"


def test_damaged_weights_are_seen_when_asked_for(tmp_path: Path) -> None:
    folder = store.save(tmp_path, record(), TABLE, lambda at: at.write_bytes(b"weights") and None)
    (folder / "weights.safetensors").write_bytes(b"weighty")
    assert store.damage(folder) is None
    assert "weights.safetensors is damaged" in str(store.damage(folder, (store.WEIGHTS,)))


def test_a_run_under_another_name_is_refused(tmp_path: Path) -> None:
    store.save(tmp_path, record(), TABLE).rename(tmp_path / OTHER)
    with pytest.raises(UserError, match="its id is not its folder's name"):
        store.read_runs(tmp_path)


@pytest.mark.parametrize("run_id", ["../escape", "", "0123", ID.upper(), f"{ID}\n", "a/../../bcdefgh1"])
def test_an_id_cannot_leave_the_store(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UserError, match="is not a run's id"):
        store.save(tmp_path / "s", record(run_id), TABLE)
    with pytest.raises(UserError, match="is not a run's id"):
        store.read_predictions(tmp_path, [record(run_id)])
    assert not any(tmp_path.iterdir())


def test_other_things_in_a_store_are_left_out(tmp_path: Path) -> None:
    store.save(tmp_path, record(), TABLE)
    (tmp_path / "notes").mkdir()
    (tmp_path / OTHER).mkdir()  # no checksums: not finished
    assert store.finished(tmp_path) == {ID}


def test_leftovers_of_a_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    home = tmp_path / "store"
    store.save(home, record(), TABLE)
    (home / f".tmp-{OTHER}-1-aa").mkdir()
    (home / f".tmp-{OTHER}-1-aa" / "run.json").write_text("{}")
    (home / f".tmp-{OTHER}-link").symlink_to(outside)
    (home / f".tmp-{ID}-1-aa").mkdir()
    store.clean(home, OTHER)
    assert {p.name for p in home.iterdir()} == {ID, f".tmp-{ID}-1-aa"}
    assert outside.is_dir()


def test_a_damaged_run_is_moved_out_of_the_way(tmp_path: Path) -> None:
    folder = store.save(tmp_path, record(), TABLE)
    (folder / "run.json").write_text("{}")
    first = store.set_aside(folder)
    second = store.set_aside(store.save(tmp_path, record(), TABLE))
    assert store.finished(tmp_path) == set()
    assert first != second
    assert (first / "run.json").read_text() == "{}"


def test_all_files_are_looked_at_when_asked(tmp_path: Path) -> None:
    folder = store.save(tmp_path, record(), TABLE, lambda at: at.write_bytes(b"weights") and None)
    assert store.damage(folder, None) is None
    (folder / "weights.safetensors").write_bytes(b"")
    assert "weights.safetensors is damaged" in str(store.damage(folder, None))
    for sums in ('{"../x": ""}', "{}", "[]", "{"):
        (folder / "checksums.json").write_text(sums)
        assert store.damage(folder, None) is not None, sums


def test_runs_that_only_search_are_no_results(tmp_path: Path) -> None:
    store.save(tmp_path, record(kind="search"), TABLE)
    with pytest.raises(UserError, match="holds no finished runs"):
        store.read_runs(tmp_path)
    store.save(tmp_path, record(OTHER), TABLE)
    assert [run.id for run in store.read_runs(tmp_path)] == [OTHER]
    assert [run.id for run in store.read_runs(tmp_path, "search")] == [ID]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.save(tmp_path, record(OTHER), TABLE)
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"no room on disk: .*\(finished runs are kept"):
        store.save(tmp_path, record(), TABLE)
    assert [p.name for p in tmp_path.iterdir()] == [OTHER]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20 kB: the kernel says so, as it does when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("what", ["text", "weights"])
def test_a_file_size_limit_is_a_full_disk_too(tmp_path: Path, what: str) -> None:
    """The real thing, through Python and through safetensors."""
    weights = partial(write_tensors, {"w": torch.zeros(10_000)}) if what == "weights" else None
    with pytest.raises(UserError, match="no room on disk: "):
        store.save(tmp_path, record(label="x" * (30_000 if what == "text" else 1)), TABLE, weights)
    assert not any(tmp_path.iterdir())


def test_no_store_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no store .*run a study first"):
        store.read_runs(tmp_path / "none")
    with pytest.raises(UserError, match="holds no finished runs"):
        store.read_runs(tmp_path)


def test_the_store_needs_no_torch() -> None:
    code = "import sys, crosstune.store.store, crosstune; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_languages_that_a_tasks_file_added_are_known_to_whoever_reads_the_run(tmp_path: Path) -> None:
    added = {"bts": {"name": "Simalungun Batak", "family": "Austronesian", "script": "Latn"}, "de": {
        "name": "Deutsch", "family": "x", "script": "Latn"}}  # fmt: skip
    store.save(tmp_path, record(added_languages=added), TABLE)
    try:
        store.read_runs(tmp_path)
        assert LANGUAGES["bts"].family == "Austronesian"
        assert LANGUAGES["de"].name == "German"  # the table wins
    finally:
        del LANGUAGES["bts"], ADDED["bts"]
        _index.cache_clear()
