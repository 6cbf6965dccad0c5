"""Errors that pass: none decides a result for good, and what cannot be read now is not damaged."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crosstune import files
from crosstune.errors import UserError
from crosstune.running import worker
from crosstune.running.resume.locks import RunLocks
from crosstune.running.runner import run_study
from crosstune.store import failures, store
from crosstune.store.audit import audit
from crosstune.study.runs import Run, expand
from crosstune.study.spec import Study
from saved_model import study_of

RATES = [1e-3, 1e-1]


def go(study: Study, **how: Any) -> tuple[list[str], str]:
    log = io.StringIO()
    return run_study(study, console=Console(file=log, width=300), **how).done, log.getvalue()


@pytest.fixture
def searching(model: Path, tmp_path: Path) -> Study:
    """Two rates to choose from; the larger one is the better one (`test_...` finds out)."""
    return Study(
        **study_of(
            model, tmp_path / "s", tasks=["cldr-names"], methods=["lora"], languages=["de"],
            search={"learning_rates": RATES}, train={"steps": 8, "batch_size": 4, "dev_limit": 8},
        )
    )  # fmt: skip


def failing(monkeypatch: pytest.MonkeyPatch, rate: float, error: Exception) -> None:
    """From here on a search with this rate fails."""
    real = worker.execute

    def execute(run: Run, *rest: Any, **more: Any) -> Any:
        if run.kind == "search" and run.train is not None and run.train.learning_rate == rate:
            raise error
        return real(run, *rest, **more)

    monkeypatch.setattr(worker, "execute", execute)


@pytest.mark.parametrize("rate", RATES)
def test_a_result_falls_with_its_search_and_is_made_with_it(
    searching: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    whole = searching.model_copy(update={"store": str(tmp_path / "whole")})
    go(whole)
    (expected,) = store.read_runs(whole.folder)
    with monkeypatch.context() as patched:
        failing(patched, rate, OSError(5, "Input/output error"))
        for _ in range(2):  # the second command tries nothing again
            with pytest.raises(UserError, match="2 of 3 runs failed"):
                go(searching)
    assert len(store.finished(searching.folder)) == 1, "the other search, and no result"
    assert len(failures.read(searching.folder)) == 1, "the result itself did not fail"
    done, _ = go(searching, retry_failed=True)
    assert len(done) == 2
    (result,) = store.read_runs(searching.folder)
    assert result.id == expected.id
    assert result.search == expected.search
    one, other = (
        (folder / result.id / "weights.safetensors").read_bytes()
        for folder in (searching.folder, whole.folder)
    )
    assert one == other


def test_a_rate_that_diverges_is_settled(searching: Study) -> None:
    wild = searching.model_copy(
        update={
            "search": searching.search.model_copy(update={"learning_rates": (1e-3, 1e38)}),  # type: ignore[union-attr]
            "train": searching.train | {"clip": 0},
        }
    )
    with pytest.raises(UserError, match="1 of 3 runs failed"):
        go(wild)
    (result,) = store.read_runs(wild.folder)
    assert result.search is not None
    assert result.search.chosen == 1e-3
    (failure,) = failures.read(wild.folder).values()
    assert failure.diverged


def test_a_result_chosen_without_a_search_is_made_again(searching: Study) -> None:
    """As earlier versions left it after a failure."""
    go(searching)
    (result,) = store.read_runs(searching.folder)
    folder = searching.folder / result.id
    assert result.search is not None
    search = result.search.model_copy(update={"scores": result.search.scores[:1]})
    lacking = result.model_copy(update={"search": search})
    predictions = store.read_table(searching.folder, result.id)
    store.save(searching.folder, lacking, predictions, lambda at: at.write_bytes(b""))
    done, log = go(searching)
    assert done == [result.id]
    assert "its rate was chosen without all its searches" in log
    assert store.read_run(folder).search == result.search


def test_a_run_replaced_while_it_is_read_is_not_set_aside(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(**study_of(model, tmp_path / "s", methods=["none"], languages=["de"]))
    go(study)
    (record,) = store.read_runs(study.folder)
    predictions = store.read_table(study.folder, record.id)
    real, hashed = files.sha256_of, []

    def replaced_meanwhile(file: Path) -> str:
        digest = real(file)
        if not hashed:  # another process puts the run's fresh files in place between two reads
            hashed.append(file)
            fresh = predictions.with_columns(prediction=predictions["prediction"] + "!")
            store.save(study.folder, record, fresh)
        return digest

    # checksums.json is the old one's, the files after the first are the new one's.
    monkeypatch.setattr(files, "sha256_of", replaced_meanwhile)
    done, log = go(study)
    assert hashed
    assert (done, "set aside" in log) == ([], False)
    assert store.read_table(study.folder, record.id)["prediction"][0].endswith("!")


@pytest.mark.parametrize("name", ["checksums.json", "predictions.parquet"])
def test_what_cannot_be_read_is_not_damaged(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    study = Study(**study_of(model, tmp_path / "s", methods=["none"], languages=["de"]))
    (run,) = expand(study)
    go(study)
    real = os.open

    def refuse(path: Any, *rest: Any, **more: Any) -> int:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    with monkeypatch.context() as patched:
        # As for a file whose owner took the right to read it away; root would still be let in.
        patched.setattr(os, "open", refuse)
        says = rf"{run.id}/{name} cannot be read \(Permission denied\); see that it can be, then try again"
        with pytest.raises(UserError, match=says):
            go(study)
        (problem,) = audit(study.folder).problems
        assert "cannot be read" in problem
    assert store.finished(study.folder) == {run.id}
    assert go(study)[0] == []
    with RunLocks(study.folder).acquire(run.id) as ours:
        assert ours
