"""Audits a store: every file of every run, by checksum and by form, and everything beside the runs."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from safetensors import SafetensorError, safe_open

from crosstune.errors import UserError, did_you_mean
from crosstune.files import TMP
from crosstune.store import failures
from crosstune.store import store as stored
from crosstune.store.record import RunRecord

_NEEDED = ("run", "language", "example", "prediction", "gold", "score")


@dataclass(frozen=True)
class Audit:
    """What was found in a store."""

    results: int  # whole runs with a result
    searches: int  # whole runs that only chose a setting
    stages: int  # whole runs that only trained what others stand on
    bytes: int  # size of all whole runs
    problems: tuple[str, ...]  # one line for each thing that is wrong; empty when the store is sound
    # One line for each thing worth knowing: failures, unfinished runs, what was set aside.
    notes: tuple[str, ...]


def audit(store: Path, forms: Collection[str] = ()) -> Audit:
    """Read every file of a store, and change nothing; ``forms`` of answers that can be read (none: any).

    Raises:
        UserError: There is no such folder, or no store in it.
    """
    if not store.is_dir():
        raise stored.no_store(store)
    kinds, problems, size = [], [], 0
    for folder in _runs(store):
        try:
            record = _whole(folder)
            if forms and record.kind != "stage" and record.task.kind not in forms:
                hint = did_you_mean(record.task.kind, forms)
                raise UserError(f'{folder / stored.RUN}: unknown form of answer "{record.task.kind}"{hint}')
        except UserError as error:
            problems.append(str(error))
            continue
        kinds.append(record.kind)
        size += sum(file.stat().st_size for file in folder.iterdir())
    if not kinds and not problems and not (store / "study.yaml").is_file():
        raise UserError(f"{store} is no store: it holds no runs")
    return Audit(
        results=kinds.count("result"),
        searches=kinds.count("search"),
        stages=kinds.count("stage"),
        bytes=size,
        problems=tuple(problems),
        notes=tuple(_beside(store)),
    )


def _runs(store: Path) -> list[Path]:
    return sorted(folder for folder in store.iterdir() if stored.RUN_ID.fullmatch(folder.name))


def _whole(folder: Path) -> RunRecord:
    """The record of an intact run.

    Raises:
        UserError: The first fault.
    """
    mend = f"delete {folder} and run the study again"
    if (wrong := stored.damage(folder, None)) is not None:
        raise UserError(wrong)
    sums = json.loads((folder / stored.CHECKSUMS).read_bytes())
    if strangers := sorted({file.name for file in folder.iterdir()} - {*sums, stored.CHECKSUMS}):
        raise UserError(f"{folder / strangers[0]} is not of this run (no checksum names it); delete the file")
    record = stored.read_run(folder)
    table = stored.read_predictions(folder.parent, [record])
    if missing := [name for name in _NEEDED if name not in table.columns]:
        raise UserError(f"{folder / stored.PREDICTIONS} has no column {missing[0]}; {mend}")
    if wrong := _wrong_rows(record, table):
        raise UserError(f"{folder / stored.PREDICTIONS} {wrong}; {mend}")
    if stored.WEIGHTS in sums:
        try:
            with safe_open(folder / stored.WEIGHTS, framework="numpy") as weights:
                named = list(weights.keys())
        except SafetensorError as error:
            raise UserError(f"{folder / stored.WEIGHTS} is no safetensors file ({error}); {mend}") from None
        if not named:
            raise UserError(f"{folder / stored.WEIGHTS} holds no tensor; {mend}")
    return record


def _wrong_rows(record: RunRecord, table: pl.DataFrame) -> str | None:
    """What is wrong with the rows of a run's predictions."""
    if table.select("language", "example").is_duplicated().any():
        return "has an example twice"
    if table.select(pl.col("language", "example").has_nulls()).row(0) != (False, False):
        return "has an example without an id or a language"
    if not table.select(pl.col("score").is_finite().fill_null(value=False).all()).item():
        return "has an example without a score"
    languages = set(table["language"])
    if strangers := languages - set(record.languages):
        return f"has the language {min(strangers)}, which its run.json has not"
    # Texts that are too long may have been all there was of a language.
    missing = set(record.languages) - languages
    if missing and record.kind == "result" and record.evaluate.get("on_too_long") != "skip":
        return f"has no example in {min(missing)}"
    return None


def _beside(store: Path) -> Iterator[str]:
    for failure in failures.read(store).values():
        yield f"failed: {failure.id} {failure.name}: {failure.error}"
    for folder in sorted((store / stored.WORK).glob("*")):
        yield f"unfinished: {folder.name} goes on where it was when the study is run again"
    for folder in sorted((store / stored.DAMAGED).glob("*")):
        yield f"set aside: {folder}, whose files are damaged; delete it when you have looked at it"
    for leftover in sorted(store.glob(f"{TMP}*")):
        of_run = stored.RUN_ID.match(leftover.name.removeprefix(TMP))
        mend = "goes when its run is made" if of_run else "delete it"
        yield f"left half-written by a process that was killed: {leftover}; {mend}"
