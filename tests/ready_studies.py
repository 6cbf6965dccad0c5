"""The studies in studies/, read where the files of their tasks are on this machine."""

import os
from pathlib import Path

import pytest

from crosstune.errors import UserError
from crosstune.study.file import StudyFile
from crosstune.study.spec import Study, read_study

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "studies").rglob("*.yaml"))
DATA = Path(os.environ.get("CROSSTUNE_DATA") or ROOT / "../shared/data").resolve()
GENERATED = {"cldr-names", "number-words"}


def read_ready(file: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study, if the files of its tasks are on this machine."""
    tasks = [task["name"] if isinstance(task, dict) else task for task in StudyFile(file).data["tasks"]]
    if not GENERATED.issuperset(tasks):
        if not DATA.is_dir():
            pytest.skip(f"the benchmark files are not under {DATA} (set CROSSTUNE_DATA)")
        monkeypatch.setenv("CROSSTUNE_DATA", str(DATA))
    try:
        return read_study(file)
    except UserError as error:
        if "no files" in str(error) or "HF_HUB_OFFLINE" in str(error):
            pytest.skip(str(error))
        raise
