"""Faults: nothing is lost, nothing is done twice, and the finished study has the same bits."""

import io
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from safetensors.torch import load

from crosstune.errors import UserError
from crosstune.running.runner import run_study
from crosstune.store import store
from crosstune.store.audit import audit
from crosstune.study.spec import Study
from other_process import ended, killed_at, log_of, start
from saved_model import study_of

KILLS = 25 if os.environ.get("CROSSTUNE_FAULTS") else 12
"""The page's table is of 25; `test_every_operation` has every moment of a small study."""
MOST_CHANGES = 160
"""Operations that change the disk before a kill, at most; the study takes several times as many."""
Outcome = Callable[[str, str], None]


def settings(model: Path, folder: Path) -> dict[str, Any]:
    """Searched rates and three trained methods: everything a run can be doing."""
    return study_of(
        model, folder, tasks=["number-words"], methods=["none", "lora", "prefix", "full"],
        train={"steps": 6, "batch_size": 4, "evaluate_every": 3, "dev_limit": 4},
        search={"learning_rates": [1e-3, 1e-2]},
    )  # fmt: skip


def go(study: Study) -> tuple[list[str], str]:
    log = io.StringIO()
    return run_study(study, console=Console(file=log, width=300)).done, log.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    """Weights and predictions of all runs."""
    names = ("weights.safetensors", "predictions.parquet")
    return {
        f"{run}/{name}": (folder / run / name).read_bytes()
        for run in store.finished(folder)
        for name in names
        if (folder / run / name).is_file()
    }


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """What is not the same, so that a difference can be understood from what the test prints."""
    told = [f"{name}: only in one" for name in sorted(found.keys() ^ expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        one, other = found[name], expected[name]
        if one == other:
            continue
        if name.endswith(".parquet"):
            tables = [pl.read_parquet(io.BytesIO(content)) for content in (one, other)]
            columns = [
                c for c in tables[1].columns if c not in tables[0] or not (tables[0][c].equals(tables[1][c]))
            ]
            told.append(f"{name}: {columns}: {[table.select(columns).rows() for table in tables]}")
        else:
            tensors = [load(content) for content in (one, other)]
            apart = {key: (tensors[0][key] - tensor).abs().max().item() for key, tensor in tensors[1].items()}
            told.append(f"{name}: {apart}")
    return told


def stamps(folder: Path) -> dict[str, int]:
    """When each finished run was written."""
    return {run: (folder / run / store.CHECKSUMS).stat().st_mtime_ns for run in store.finished(folder)}


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study, never stopped."""
    study = Study(**settings(model, tmp_path_factory.mktemp("whole") / "store"))
    go(study)
    return study


def test_killed_at_random_moments(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    monkeypatch.setenv("CROSSTUNE_CHECKPOINT_SECONDS", "0")
    whole, *studies = [Study(**settings(model, tmp_path / name)) for name in ("whole", "store-1")]
    assert ended(start(whole)) == 0
    moments, killed = random.Random(7), []
    while len(killed) < KILLS:
        folder = studies[-1].folder
        code = ended(start(studies[-1], partial(killed_at, moments.randrange(1, MOST_CHANGES), folder)))
        if code == 0:
            studies.append(Study(**settings(model, tmp_path / f"store-{len(studies) + 1}")))
        else:
            assert code == -signal.SIGKILL, log_of(folder).read_text(encoding="utf-8")
            killed.append((folder, stamps(folder)))
    assert ended(start(studies[-1])) == 0
    expected, resumed = files(whole.folder), 0
    for study in studies:
        folder = study.folder
        log = log_of(folder).read_text(encoding="utf-8")
        assert differences(files(folder), expected) == [], (
            f"{folder} differs from the study never stopped: {log}"
        )
        audited = audit(folder)
        assert audited.problems == ()
        assert [note for note in audited.notes if "/.tmp-study.yaml-" not in note] == []
        resumed += sum(
            run.cost.resumed for kind in ("result", "search") for run in store.read_runs(folder, kind)
        )
        # What was finished at a kill was never written again.
        last = stamps(folder)
        assert all(stamped.items() <= last.items() for at, stamped in killed if at == folder)
    assert resumed > 0, "no run was ever taken up in its middle: the kills came too early or too late"
    outcome(
        f"SIGKILL at {KILLS} random moments",
        f"{len(store.finished(whole.folder))} runs finished; {resumed} times a run resumed from a checkpoint "
        "or journal; weights and predictions byte-identical to an undisturbed study",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("a small tmpfs cannot be mounted here: needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(model: Path, whole: Study, small_disk: Path, outcome: Outcome) -> None:
    study = Study(**settings(model, small_disk / "store"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * int(5.6 * 2**20))
    with pytest.raises(UserError, match="no room on disk"):
        go(study)
    kept = files(study.folder)
    assert audit(study.folder).problems == ()
    ballast.unlink()
    go(study)
    assert kept.items() <= files(study.folder).items()
    assert differences(files(study.folder), files(whole.folder)) == []
    outcome(
        "a full disk (tmpfs of 6 MiB)",
        f"stopped with a one-line error after {len({name[:16] for name in kept})} complete runs; with free "
        "space, the same command finished, byte-identical",
    )


@pytest.mark.parametrize("name", ["run.json", "predictions.parquet", "weights.safetensors", "checksums.json"])
@pytest.mark.parametrize("harm", ["bit flipped", "truncated", "removed"])
def test_harmed_files(
    model: Path, whole: Study, tmp_path: Path, name: str, harm: str, outcome: Outcome
) -> None:
    study = whole.model_copy(update={"store": str(tmp_path / "store")})
    subprocess.run(["cp", "-r", str(whole.folder), str(study.folder)], check=True)
    run = next(run.id for run in store.read_runs(study.folder) if run.label == "lora")
    file = study.folder / run / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "removed":
        file.unlink()
    else:
        file.write_bytes(content if harm == "bit flipped" else content[: len(content) // 2])
    assert len(audit(study.folder).problems) == 1
    done, log = go(study)
    assert done == [run], "that run, and no other"
    assert differences(files(study.folder), files(whole.folder)) == []
    assert audit(study.folder).problems == ()
    aside = " and moved aside" if "set aside as" in log else ""
    outcome(f"{name} {harm}", f"reported{aside}; only that run repeated, byte-identical")
