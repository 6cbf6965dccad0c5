"""Grids: which entries they make, which are the same, and what a mistake in one says."""

from pathlib import Path
from typing import Any

import pytest

from crosstune.config.yaml_file import Document
from crosstune.errors import UserError
from crosstune.study.entries import labels
from crosstune.study.runs import expand
from crosstune.study.spec import Study, read_study


def study(methods: Any, **changes: Any) -> Study:
    return Study(
        **{"name": "g", "model": "demo:gemma-3-270m", "tasks": ["cldr-names"], "methods": methods} | changes
    )


def named(methods: Any, **changes: Any) -> list[str]:
    return labels(study(methods, **changes).methods)


def test_every_combination_of_a_methods_own_grid() -> None:
    entry = {"name": "prefix", "grid": {"length": [5, 20], "layers": [8, [0, 1]], "train.steps": [3]}}
    assert named(["none", entry]) == [
        "none",
        "prefix layers 8 length 5 steps 3",
        "prefix layers 0,1 length 5 steps 3",
        "prefix layers 8 length 20 steps 3",
        "prefix layers 0,1 length 20 steps 3",
    ]


def test_the_studys_grid_is_for_methods_that_train() -> None:
    grid = {"train.learning_rate": [3e-3, 1e-3], "train.limit": [64, 0.5]}
    assert named(["none", "lora"], grid=grid) == [
        "none",
        "lora lr 0.003 limit 64",
        "lora lr 0.003 limit 0.5",
        "lora limit 64",
        "lora limit 0.5",
    ]


def test_a_key_may_name_its_method() -> None:
    grid = {"lora.rank": [2, 8], "prefix.train.steps": [5, 6], "train.steps": [7]}
    assert named(["prefix", "lora"], grid=grid) == [
        "prefix steps 5",
        "prefix steps 6",
        "lora rank 2 steps 7",
        "lora rank 8 steps 7",
    ]


def test_what_a_method_gives_itself_is_not_swept() -> None:
    custom = {"name": "lora", "rank": 2, "train": {"limit": 7}}
    assert named([custom], grid={"lora.rank": [4, 8], "train.limit": [1, 2]}) == ["lora rank 2 limit 7"]
    # K-shot and a limit say the same thing.
    assert named([{"name": "lora", "train": {"per_label": 7}}], grid={"train.limit": [1, 2]}) == [
        "lora per label 7"
    ]
    entry = {"name": "lora", "grid": {"rank": [1, 2]}}
    assert named([entry], grid={"lora.rank": [8, 9]}) == ["lora rank 1", "lora rank 2"]


def test_the_same_entry_is_there_once() -> None:
    assert named(["lora"], grid={"lora.rank": [4, 4, 8]}) == ["lora", "lora rank 8"]
    methods = ["lora", {"name": "lora", "rank": 8}, {"name": "lora", "grid": {"rank": [4, 8, 16]}}]
    assert named(methods) == ["lora", "lora rank 8", "lora rank 16"]


def test_a_grid_gives_the_runs_of_the_entries_written_out() -> None:
    swept = study(["none", "lora"], grid={"lora.rank": [4, 8], "train.steps": [2, 3]}, seeds=[0, 1])
    out = [{"name": "lora", "rank": rank, "train": {"steps": n}} for rank in (4, 8) for n in (2, 3)]
    written = study(["none", *out], seeds=[0, 1])
    assert [run.id for run in expand(swept)] == [run.id for run in expand(written)]
    assert len(expand(swept)) == 1 + 4 * 2


def test_it_reads_back() -> None:
    spec = study(["lora"], grid={"lora.rank": [4, 8]}, budget="1M")
    assert Study.model_validate(Document(spec.to_yaml(), "x.yaml").data) == spec


FILE = """\
name: g
model: demo:gemma-3-270m
tasks: [cldr-names]
methods:
  - none
  - name: prefix
    grid:
      length: [5, 10]
      train.steps: [3]
  - lora
grid:
  train.limit: [64, 256]
  lora.rank: [2, 4]
"""

MISTAKES = [
    (
        "length: [5, 10]",
        "lenght: [5]",
        '8: grid: unknown key "lenght" of method prefix; did you mean "length"?',
    ),
    ("length: [5, 10]", "length: []", "8: grid: length needs a list of values to try, such as [1, 2]"),
    ("length: [5, 10]", "length: 5", "8: grid: length needs a list of values to try, such as [1, 2]"),
    (
        "length: [5, 10]",
        "length: [5, 0]",
        "8: method prefix: length should be greater than or equal to 1; found 0",
    ),
    (
        "length: [5, 10]",
        "layers: [5, 30]",
        "6: method prefix on demo:gemma-3-270m: layers: 30 asked for, but the model has 18; give 1 to 18",
    ),
    (
        "train.steps: [3]",
        "train.steps: [-1]",
        "9: train: steps should be greater than or equal to 1; found -1",
    ),
    ("train.steps", "train.step", '9: grid: unknown key "step" of train; did you mean "steps"?'),
    (
        "  - name: prefix\n",
        "  - name: prefix\n    length: 3\n",
        "9: grid: method prefix gives length itself as well; give one of the two",
    ),
    ("train.limit", "train.limits", '12: grid: unknown key "limits" of train; did you mean "limit"?'),
    (
        "64, 256]",
        "64, -1]",
        "12: train: limit should be a whole number from 1 up, or a share between 0 and 1; found -1",
    ),
    ("lora.rank", "lora.rang", '13: grid: unknown key "rang" of method lora; did you mean "rank"?'),
    (
        "lora.rank",
        "soft-prompt.length",
        '13: grid: the study has no method "soft-prompt"; known: lora, none, prefix',
    ),
    (
        "lora.rank",
        "lorra.rank",
        '13: grid: unknown key "lorra.rank"; give train.<setting> or <method>.<setting>; did you mean '
        '"lora"?',
    ),
    (
        "lora.rank",
        "rank",
        '13: grid: unknown key "rank"; give train.<setting> or <method>.<setting>, such as train.limit or '
        "lora.rank",
    ),
    ("  - lora\n", "  - lorra\n", '10: unknown method "lorra"; did you mean "lora"?'),
]


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES, ids=[wrong for _, wrong, _ in MISTAKES])
def test_a_mistake_names_its_line(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(FILE, encoding="utf-8")
    assert len(read_study(file).methods) == 1 + 4 + 4
    text = FILE.replace(right, wrong, 1)
    assert text != FILE
    file.write_text(text, encoding="utf-8")
    if "lorra\n" in wrong:  # the grid's own mistake would come first
        file.write_text(text.replace("  lora.rank: [2, 4]\n", ""), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_study(file)
    assert str(error.value) == f"{file}:{message}"


def test_far_too_many(tmp_path: Path) -> None:
    many = ", ".join(map(str, range(1, 500)))
    file = tmp_path / "x.yaml"
    file.write_text(FILE.replace("64, 256", many).replace("[2, 4]", f"[{many}]"), encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml:12: grid: 249,001 combinations; .* 20,000"):
        read_study(file)
    with pytest.raises(ValueError, match=r"102,000 runs; a study takes 20,000 at most"):
        study(["lora"], seeds=list(range(102_000)))
