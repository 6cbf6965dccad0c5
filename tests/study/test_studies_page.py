"""The examples in docs/studies.md are read as a study would be, and say what the page says of them."""

import importlib.util
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from crosstune.config.yaml_file import Document
from crosstune.study.entries import labels
from crosstune.study.runs import expand
from crosstune.study.spec import Study, read_study
from crosstune.training.settings import TrainSettings

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
BASE = {"name": "x", "model": "demo:gemma-3-270m", "tasks": ["cldr-names"], "methods": ["none", "lora"]}


def example(beginning: str) -> str:
    (shown,) = [block for block in BLOCKS if block.startswith(beginning)]
    return str(shown)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page's file to be included lies."""
    (tmp_path / "common.yaml").write_text(example("# common.yaml"), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.startswith("# common.yaml")])
def test_an_example_is_sound(folder: Path, block: str) -> None:
    if block.startswith("name:"):
        (folder / "x.yaml").write_text(block, encoding="utf-8")
        study = read_study(folder / "x.yaml")
    else:
        data = BASE | Document(block, "x.yaml").data
        if "vllm" in block and importlib.util.find_spec("vllm") is None:
            with pytest.raises(ValidationError, match="the library is not installed here"):
                Study.model_validate(data)
            return
        study = Study.model_validate(data)
    assert expand(study)


def part(beginning: str) -> Study:
    return Study.model_validate(BASE | Document(example(beginning), "x.yaml").data)


def test_the_search(folder: Path) -> None:
    runs = expand(part("search:"))
    searched = [(run.label, run.train.learning_rate) for run in runs if run.kind == "search" and run.train]
    assert searched == [("lora", rate) for rate in (3e-3, 1e-3, 3e-4)] + [
        ("prefix", rate) for rate in (1e-2, 3e-2, 1e-1)
    ]


def test_the_grid() -> None:
    names = labels(part("methods:\n  - none\n  - {name: prefix, grid").methods)
    assert len(names) == 1 + 6 * 3 + 3 * 3
    assert "prefix layers 8 length 5 limit 64" in names
    assert "prefix layers 8 length 5" in names, "null is no limit"


def test_the_budget() -> None:
    study = part("budget:")
    assert labels(study.methods, study.budget) == [
        "none",
        "soft-prompt 1.23M",
        "prefix 1.23M layers 12",
        "lora 2M",
    ]


def test_the_includes(folder: Path) -> None:
    (folder / "x.yaml").write_text(example("name: longer"), encoding="utf-8")
    assert read_study(folder / "x.yaml").train == {"steps": 120, "batch_size": 16}
    (folder / "x.yaml").write_text(example("name: paper-small"), encoding="utf-8")
    # An include wins over a preset: steps take the place of the preset's epochs.
    assert "epochs" not in read_study(folder / "x.yaml").train


def test_every_key_is_on_the_page() -> None:
    keys = set(re.findall(r"`([a-z_]+)`", TEXT.partition("## Keys")[2].partition("## How much")[0]))
    missing = {*Study.model_fields, "model", "grid", "include", "preset"} - keys
    assert not missing
    assert {"limit", "per_label"} <= set(TrainSettings.model_fields)
