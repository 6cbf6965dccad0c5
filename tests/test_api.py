"""The Python API: five lines from a study file to a report."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import crosstune
from saved_model import save_model, study_of, write_study


def test_five_lines(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m")
    file = write_study(tmp_path / "x.yaml", study_of(model, tmp_path / "s", tasks=["number-words"]))
    study = crosstune.read_study(file)
    ours = crosstune.run(study)
    results = crosstune.results(tmp_path / "s")
    page = crosstune.report(tmp_path / "s", tmp_path / "report.html")
    assert [run.label for run in results.runs] == ["none", "few-shot k 2", "lora"]
    assert results.predictions.height == 3 * 3 * 4
    assert set(results.scores["language"]) == {"en", "de", "ru"}
    assert isinstance(results.transfer, pl.DataFrame)
    assert set(results.transfer["method"]) == {"none", "few-shot k 2", "lora"}
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert ours.predictions.equals(results.predictions)
    # The store may hold other runs as well; those of a study are its own.
    again = study.model_copy(update={"methods": study.methods[:1]})
    assert [run.label for run in crosstune.run(again).runs] == ["lora"]


def test_every_public_name_is_there() -> None:
    for name in crosstune.__all__:
        assert getattr(crosstune, name) is not None
    assert crosstune.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = crosstune.nothing


def test_report_stays_a_function_beside_its_package() -> None:
    code = (
        "import crosstune, crosstune.report.page.html\n"
        "from crosstune.report.terminal import results_table\n"
        "assert callable(crosstune.report), crosstune.report\n"
        "assert 'torch' not in __import__('sys').modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plan_check_and_predict(tmp_path: Path) -> None:
    study = crosstune.Study(**study_of(save_model(tmp_path / "model"), tmp_path / "runs", methods=["none"]))
    assert crosstune.plan(study).as_dict()["runs"]
    results = crosstune.run(study)
    state = crosstune.check(tmp_path / "runs")
    assert (state.results, list(state.problems)) == (1, [])
    folder = tmp_path / "runs" / results.runs[0].id
    answer = crosstune.predict(folder, "Deutschland", device="cpu")
    assert "Deutschland" in answer.prompt
    assert sum(share for _, share in answer.choices) == pytest.approx(1)


def test_importing_is_light() -> None:
    code = (
        "import crosstune, sys; assert not {'torch', 'polars', 'pydantic', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
