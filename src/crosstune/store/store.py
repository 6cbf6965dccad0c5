"""The store: one folder a run, written whole or not at all, with checksums. Needs no torch.

``<store>/<run id>/``
    run.json             what was asked, on what machine, what it cost
    predictions.parquet  one row an example (`crosstune.outputs.evaluate`)
    weights.safetensors  what was trained, for methods that train
    checksums.json       SHA-256 of each of these

Beside the runs: ``study.yaml``, ``.claims`` (who makes which run), ``.work`` (what unfinished runs go on
from), ``.failed`` (runs that failed, and why) and ``.damaged`` (runs whose files were found harmed).
"""

import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from crosstune.errors import UserError
from crosstune.files import (
    SUMS,
    TMP,
    DamagedError,
    checksums,
    disk_errors,
    draft,
    mend,
    put,
    read_verified,
    sha256_of,
    sync,
    verify,
    write_synced,
    write_whole,
)
from crosstune.languages.table import add
from crosstune.store.record import Kind, RunRecord

RUN = "run.json"
PREDICTIONS = "predictions.parquet"
WEIGHTS = "weights.safetensors"
CHECKSUMS = SUMS
RUN_ID = re.compile(r"[0-9a-f]{16}")
DAMAGED = ".damaged"
WORK = ".work"
CLAIMS = ".claims"
STUDY = "study.yaml"
_TEXTS = ("language", "example", "cluster", "prompt_hash", "prompt", "prediction", "gold", "answer_language")
"""Columns of texts in a table of predictions."""


def open_store(store: Path, study: str) -> None:
    """Make a folder a store, or continue one, and put the study's text into it.

    Raises:
        UserError: Its ``study.yaml`` is not a store's, something in it is a symbolic link through which files
            elsewhere would be written, or it cannot be written.
    """
    text = store / STUDY
    if os.path.lexists(text) and not (store / CLAIMS).is_dir() and not finished(store):
        raise UserError(
            f"{text} is there already, but {store} is no store: the study's text would overwrite it; name "
            "another folder (--store, or store: in the study)"
        )
    for path in _strange(store):
        what = "a symbolic link, and what a run writes would follow it" if path.is_symlink() else "no file"
        raise UserError(f"{path} is {what}; remove it")
    with disk_errors(store):
        (store / CLAIMS).mkdir(parents=True, exist_ok=True)
        write_whole(text, study)


def _strange(store: Path) -> Iterator[Path]:
    """Links, pipes and devices among the files and folders that a run writes beside the finished runs."""
    for name in (CLAIMS, WORK, DAMAGED, ".failed", ".workers", "trackers"):
        walk = [] if name in (DAMAGED, "trackers") else os.walk(store / name)
        inside = (Path(folder, entry) for folder, folders, files in walk for entry in (*folders, *files))
        for path in (store / name, *inside):
            if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
                yield path


def save(
    store: Path,
    run: RunRecord,
    predictions: pl.DataFrame,
    write_weights: Callable[[Path], str | None] | None = None,
) -> Path:
    """Write a finished run, and give its folder; a run of the same id is replaced.

    ``predictions`` has one row an example; ``write_weights`` writes the trained tensors to the path it is
    given, and returns the file's SHA-256 if that is known.

    Raises:
        UserError: The disk is full or cannot be written; nothing of the run is left then.
    """
    run_id = _checked(run.id)
    target = store / run_id
    with disk_errors(store), draft(target) as work:
        work.mkdir(parents=True)
        content = run.model_dump(mode="json")
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        write_synced(work / RUN, text.encode())
        # Through memory, so that a full disk is one kind of error and not each library's own.
        table = io.BytesIO()
        predictions.write_parquet(table, compression="zstd")
        write_synced(work / PREDICTIONS, table.getvalue())
        known: dict[str, str | None] = {}
        if write_weights is not None:
            known[WEIGHTS] = write_weights(work / WEIGHTS)
            # safetensors makes it its owner's only; let it be as open as the files beside it.
            (work / WEIGHTS).chmod((work / RUN).stat().st_mode)
            sync(work / WEIGHTS)
        sums = {file.name: known.get(file.name) or sha256_of(file) for file in sorted(work.iterdir())}
        write_synced(work / CHECKSUMS, json.dumps(sums, indent=1).encode())
        put(work, target)
    return target


def finished(store: Path) -> set[str]:
    """Ids of the runs in a store.

    Raises:
        UserError: Something else than a folder has its name.
    """
    if not store.is_dir():
        if os.path.lexists(store):
            raise UserError(f"{store} is no folder; name another store")
        return set()
    return {
        folder.name
        for folder in store.iterdir()
        if RUN_ID.fullmatch(folder.name) and (folder / CHECKSUMS).is_file()
    }


def damage(folder: Path, files: Sequence[str] | None = (RUN, PREDICTIONS)) -> str | None:
    """What is wrong with a run's files (None: all that its checksums name), in one line; None if nothing is.

    Raises:
        UserError: A file exists and cannot be read, which says nothing about its content.
    """
    try:
        verify(folder, (RUN, PREDICTIONS) if files is None else files, others=files is None)
    except DamagedError as error:
        return str(error)
    return None


def set_aside(folder: Path) -> Path:
    """Move a damaged run into ``.damaged`` of its store, and give its new path. The caller holds its lock.

    Raises:
        UserError: The store cannot be written.
    """
    with disk_errors(folder.parent):
        target = folder.parent / DAMAGED / f"{folder.name}-{secrets.token_hex(4)}"
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
    return target


def read_run(folder: Path) -> RunRecord:
    """The record of one run, its checksum verified.

    Raises:
        UserError: No such run, a damaged run.json, or a record that is none (each named).
    """
    if not (folder / CHECKSUMS).is_file():
        hint = "give a run's folder, such as runs/demo/<id>"
        if finished(folder):
            hint = f"it is a store; give one of its runs, such as {folder / min(finished(folder))}"
        raise UserError(f"{folder} is not a finished run: {hint}")
    content = read_verified(folder / RUN)
    run = RunRecord.parse(content, folder / RUN)
    if run.id != folder.resolve().name:
        raise UserError(f"{folder / RUN}: its id is not its folder's name; give the folder its own name back")
    for code, language in run.added_languages.items():
        with suppress(UserError):  # the table has it by now
            add(code, **language)
    return run


def no_store(store: Path) -> UserError:
    """The error for what is no folder of runs."""
    if store.is_file():
        return UserError(f"{store} is a file: give the folder of its results, such as runs/{store.stem}")
    return UserError(f"no store {store}: run a study first (crosstune run studies/demo.yaml)")


def read_runs(store: Path, kind: Kind | None = "result") -> list[RunRecord]:
    """The records of a store's runs, oldest first; ``kind`` None for all.

    Raises:
        UserError: No store, no runs in it, or a damaged file (named).
    """
    if not store.is_dir():
        raise no_store(store)
    for folder in store.iterdir():
        named = RUN_ID.fullmatch(folder.name) and (folder / RUN).is_file()
        if named and not (folder / CHECKSUMS).is_file():
            checksums(folder)  # a run that lost them is not passed over in silence
    runs = [read_run(store / run_id) for run_id in sorted(finished(store))]
    runs = [run for run in runs if kind in (None, run.kind)]
    if kind in (None, "result") and all(run.kind != "result" for run in runs):
        raise UserError(f"{store} holds no finished runs: run a study first (crosstune run STUDY.yaml)")
    return sorted(runs, key=lambda run: (str(run.started), run.id))


def read_predictions(store: Path, runs: Sequence[RunRecord]) -> pl.DataFrame:
    """Predictions of some runs in one table, with a ``run`` column in front.

    Raises:
        UserError: A file that is no table of predictions.
    """
    tables = [read_table(store, run.id).select(pl.lit(run.id).alias("run"), pl.all()) for run in runs]
    return pl.concat(tables, how="diagonal_relaxed")


def read_table(
    store: Path, run_id: str, columns: list[str] | Callable[[str], bool] | None = None
) -> pl.DataFrame:
    """Predictions of one run, checksum verified; ``columns``: their names or a test of a name, None for all.

    Raises:
        UserError: The file is missing or damaged, is no table of predictions, or lacks a column.
    """
    file = store / _checked(run_id) / PREDICTIONS
    content = io.BytesIO(read_verified(file))
    try:
        schema = pl.read_parquet_schema(content)
        if wrong := _wrong_column(schema):
            raise DamagedError(f"{file} {wrong}; {mend(file.parent)}")
        if callable(columns):
            columns = [name for name in schema if columns(name)]
        return pl.read_parquet(content, columns=columns)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{file} is damaged; delete {file.parent} and run the study again") from error


def _wrong_column(schema: Mapping[str, pl.DataType]) -> str | None:
    """What keeps a table from being one of predictions: a column that is missing or of another type."""
    for name in ("language", "example", "score"):
        if name not in schema:
            return f"has no column {name}"
    if "run" in schema:
        return "has a column run, which no table of one run has"
    for name, kind in schema.items():
        number = name == "score" or name.startswith(("metric.", "sum."))
        if not kind.is_float() if number else name in _TEXTS and kind not in (pl.String, pl.Null):
            return f"has a column {name} of {kind}, not of {'numbers' if number else 'texts'}"
    return None


def clean(store: Path, run_id: str) -> None:
    """Remove half-written files of a killed process. The caller holds the run's lock."""
    for leftover in store.glob(f"{TMP}{_checked(run_id)}-*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _checked(run_id: str) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise UserError(f"{run_id!r} is not a run's id")
    return run_id
