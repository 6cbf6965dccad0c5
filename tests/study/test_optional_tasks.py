"""Optional tasks are left out where their files are not there, and that is said."""

import pytest

from crosstune.analysis.suite import XTREME_R
from crosstune.errors import UserError
from crosstune.study.file import StudyFile
from crosstune.study.runs import expand
from crosstune.study.spec import read_study
from ready_studies import ROOT

STUDY = """\
name: s
model: demo:gemma-3-270m
tasks:
  - number-words
  - {{name: masakhanews-headlines, optional: true, data: {data}}}
methods: [none]
languages: {{number-words: [de], masakhanews-headlines: all}}
device: cpu
"""


def read(folder, text=STUDY):
    (folder / "s.yaml").write_text(text.format(data=folder), encoding="utf-8")
    return read_study(folder / "s.yaml")


def test_an_optional_task_without_files_is_left_out(tmp_path):
    study = read(tmp_path)
    assert [task.name for task in study.tasks] == ["number-words"]
    assert "masakhanews-headlines has no test split" in study.absent[0]
    assert len(expand(study)) == 1
    with pytest.raises(UserError, match="has no test split"):
        read(tmp_path, STUDY.replace("optional: true, ", ""))
    with pytest.raises(UserError, match="has no test split"):
        read(tmp_path, STUDY.replace("  - number-words\n", "").replace("number-words: [de], ", ""))


def test_where_files_are_there_it_is_a_task_like_any_other(tmp_path):
    file = tmp_path / "masakhanews" / "swa" / "test.tsv"
    file.parent.mkdir(parents=True)
    file.write_text("headline\ttext\nA\tB c\n", encoding="utf-8")
    study = read(tmp_path)
    assert study.absent == []
    plain = read(tmp_path, STUDY.replace("optional: true, ", ""))
    assert [run.id for run in expand(study)] == [run.id for run in expand(plain)]
    assert study.tasks[1].as_written()["optional"] is True


def test_the_suites_study_has_the_ten_tasks():
    tasks = StudyFile(ROOT / "studies" / "xtreme-r.yaml").data["tasks"]
    assert [task["name"] for task in tasks] == [task.name for task in XTREME_R]
    assert all(task["optional"] for task in tasks)
    assert tasks[2]["metric"] == "xtreme_f1"
