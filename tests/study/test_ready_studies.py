"""Every study in studies/ is read and written out into its runs; those whose data is not here are skipped."""

from pathlib import Path

import pytest

from crosstune.languages import LANGUAGES
from crosstune.study.file import StudyFile
from crosstune.study.runs import expand
from crosstune.study.spec import Study
from ready_studies import ROOT, STUDIES, read_ready


@pytest.mark.parametrize("file", STUDIES, ids=[str(file.relative_to(ROOT / "studies")) for file in STUDIES])
def test_a_ready_study(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert "?" in " ".join(head[:3]), "its first lines say what it asks"
    assert any(str(file.relative_to(ROOT)) in line for line in head), "its head has the command"
    assert any("need" in line.lower() for line in head), "its head says what it needs"
    study = read_ready(file, monkeypatch)
    runs = expand(study)
    assert len({run.id for run in runs}) == len(runs) >= len(study.methods)
    again = Study.model_validate(StudyFile(file).data)
    assert [run.id for run in expand(again)] == [run.id for run in runs]


def test_the_study_of_many_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_ready(ROOT / "studies" / "many_languages.yaml", monkeypatch)
    sib, names = {
        combination.task.name: combination.languages for combination in study.combinations()
    }.values()
    assert len(sib) - 1 == 55
    assert len(names) - 1 == 72
    both = {*sib, *names}
    assert len({LANGUAGES[code].family for code in both}) == 19
    assert len({LANGUAGES[code].script for code in both}) == 28
    assert {LANGUAGES[code].resource for code in both} == {0, 1, 2, 3, 4, 5}
    runs = expand(study)
    assert sum(run.kind == "search" for run in runs) == 2 * 4 * 3
    assert sum(run.kind == "result" for run in runs) == 2 * (1 + 4 * 3)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-1b", "mistral-7b-v0.3", "mistral-small-24b"])
def test_the_papers_studies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_ready(ROOT / "studies" / "paper" / f"{name}.yaml", monkeypatch)
    assert study.search is not None
    assert study.search.learning_rates == (3e-3, 1e-3, 3e-4)
    assert [method.name for method in study.methods] == [
        "none",
        "soft-prompt",
        "prefix",
        "llama-adapter",
        "lora",
    ]
    waiting = [run for run in expand(study) if run.search is not None]
    assert len(waiting) == 4 * len(study.tasks) * len(study.seeds)
    assert len(study.seeds) >= 2, "the claims of claims/paper.yaml want two"
