"""The ids of runs that exist already: a change of code must not orphan anyone's results."""

import hashlib
import json
from pathlib import Path

import pytest

from crosstune.study.runs import expand
from crosstune.study.spec import Study
from ready_studies import ROOT, STUDIES, read_ready

IDS = json.loads((Path(__file__).parent / "run_ids.json").read_text())
RECORDS = sorted((ROOT / "examples").glob("*/*/run.json"))


def digest(study: Study) -> str:
    """Of all ids in order, on a CPU with fp32."""
    study = study.model_copy(update={"device": "cpu", "dtype": "float32"})
    return hashlib.sha256(" ".join(run.id for run in expand(study)).encode()).hexdigest()[:16]


def test_all_studies_are_listed() -> None:
    assert sorted(IDS) == sorted(str(file.relative_to(ROOT)) for file in STUDIES)


@pytest.mark.parametrize("file", STUDIES, ids=[str(file.relative_to(ROOT)) for file in STUDIES])
def test_a_ready_study_keeps_its_run_ids(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digest(read_ready(file, monkeypatch)) == IDS[str(file.relative_to(ROOT))]


def test_the_committed_store_keeps_its_run_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_ready(ROOT / "studies" / "many_languages.yaml", monkeypatch)
    ids = {run.id for run in expand(study.model_copy(update={"device": "cpu", "dtype": "bfloat16"}))}
    assert len(RECORDS) == 7
    for file in RECORDS:
        assert json.loads(file.read_text())["id"] == file.parent.name
        assert file.parent.name in ids
