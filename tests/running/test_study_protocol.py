"""What a study file says about losses, prompt languages and sets without a source language."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from crosstune.errors import UserError
from crosstune.study.spec import Study, read_study


def study(**changes: Any) -> Study:
    settings = {"name": "s", "model": "demo:gemma-3-270m", "tasks": ["cldr-names"], "methods": ["lora"]}
    return Study(**settings | changes)


def test_a_loss_over_choices_needs_choices_compared_by_their_first_token(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    lines = [
        "name: s",
        "model: demo:gemma-3-270m",
        "tasks: [number-words]",
        "methods: [{name: lora, train: {loss: choices}}]",
        "evaluate: {choices: first-token}",
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match=r"s\.yaml:4: loss: choices on task number-words needs a choice task"):
        read_study(file)
    file.write_text("\n".join(lines[:-1]).replace("number-words", "cldr-names"), encoding="utf-8")
    with pytest.raises(UserError, match=r"s\.yaml:4: .*cldr-names needs evaluate\.choices: first-token"):
        read_study(file)
    file.write_text("\n".join(lines).replace("number-words", "cldr-names"), encoding="utf-8")
    assert read_study(file).tasks[0].name == "cldr-names"
    # A method that is not trained has no loss.
    assert study(tasks=["number-words"], methods=["none"], train={"loss": "choices"})


def write_xcopa(root: Path, *codes: str) -> None:
    row = {"premise": "p.", "choice1": "A.", "choice2": "B.", "question": "cause", "idx": 0, "label": 0}
    for code in codes:
        folder = root / "xcopa" / code
        folder.mkdir(parents=True)
        (folder / f"test.{code}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")


def test_a_study_sets_the_prompt_language_where_a_task_has_one(tmp_path: Path) -> None:
    write_xcopa(tmp_path, "et")
    custom = {"name": "xcopa", "data": str(tmp_path)}
    spec = study(
        tasks=[custom, "cldr-names"],
        prompt_language="target",
        languages={"xcopa": "all", "cldr-names": ["de"]},
    )
    assert spec.tasks[0].options.prompt_language == "target"  # type: ignore[attr-defined]
    kept = study(tasks=[custom | {"prompt_language": "source"}], prompt_language="target")
    assert kept.tasks[0].options.prompt_language == "source"  # type: ignore[attr-defined]
    file = tmp_path / "again.yaml"
    file.write_text(spec.to_yaml(), encoding="utf-8")
    assert read_study(file).tasks == spec.tasks
    assert yaml.safe_load(spec.to_yaml())["prompt_language"] == "target"


def test_a_set_without_the_source_language_is_evaluated_in_what_it_has(tmp_path: Path) -> None:
    write_xcopa(tmp_path, "et", "vi")
    spec = study(tasks=[{"name": "xcopa", "data": str(tmp_path)}], languages=["vi"])
    assert next(spec.combinations()).languages == ("vi",)
