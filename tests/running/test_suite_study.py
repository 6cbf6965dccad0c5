"""XTREME-R on a tiny decoder and a real encoder: a few rows and one step of each task, up to the table."""

import contextlib
import os
from pathlib import Path

import polars as pl
import pytest

import crosstune
from crosstune.analysis.suite import XTREME_R
from crosstune.config.yaml_file import dump
from crosstune.errors import UserError
from crosstune.study.file import StudyFile
from ready_studies import ROOT

DATA = Path(os.environ.get("CROSSTUNE_DATA") or ROOT / "../shared/data").resolve()
LANGUAGES = {
    "xnli": ["de"], "xcopa": ["sw"], "udpos": ["de"], "panx": ["sw"], "xquad": ["de"], "mlqa": ["de"],
    "tydiqa": ["sw"], "tatoeba": ["de"], "mewsli-x": ["de"], "lareqa": ["de"],
}  # fmt: skip


def small(model: str, folder: Path) -> crosstune.Study:
    """The suite's study of a model at a small size, with development files where test files are not here."""
    data = StudyFile(ROOT / "studies" / "xtreme-r.yaml").data
    data |= {
        "model": model, "store": str(folder / "runs"), "languages": LANGUAGES, "device": "cpu",
        "train": {"steps": 1, "batch_size": 2},
        "evaluate": {"limit": 2, "max_answer_tokens": 4, "prompts": "none"},
    }  # fmt: skip
    for task in data["tasks"]:
        if task["name"] in ("panx", "mlqa"):
            task["evaluate_on"] = "dev"
        if task["name"] == "lareqa":
            task["paragraphs"] = 2
    (folder / "suite.yaml").write_text(dump(data), encoding="utf-8")
    return crosstune.read_study(folder / "suite.yaml")


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "xnli").is_dir(), reason="the benchmark files are not here (set CROSSTUNE_DATA)"
)
@pytest.mark.parametrize("kind", ["decoder", "demo:e5-small"])
def test_the_suite_runs_and_says_what_is_missing(kind, model, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSTUNE_DATA", str(DATA))
    study = small(str(model) if kind == "decoder" else kind, tmp_path)
    assert [line for line in study.absent if "mewsli-x" not in line] == []
    with contextlib.suppress(UserError):  # of a task that the model cannot do; the others are done
        crosstune.run(study)
    results = crosstune.results(tmp_path / "runs")
    suite = results.suite
    assert suite["task"].to_list() == [task.name for task in XTREME_R]
    scored = set(suite.filter(pl.col("score").is_not_null())["task"])
    # Mewsli-X is scraped by whoever wants it; a copy of TyDiQA without its English answers is refused.
    assert {task.name for task in XTREME_R} - scored <= {"mewsli-x", "tydiqa"}
    written = results.export(tmp_path / "out", ["csv", "tex"])
    assert tmp_path / "out" / "tables" / "xtreme-r.csv" in written
    assert "XTREME-R" in crosstune.report(tmp_path / "runs").read_text(encoding="utf-8")
