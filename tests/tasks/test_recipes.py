"""The recipes of docs/recipes.md, as they stand there, on small files in the forms that they name."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from rich.console import Console

from crosstune.running.runner import run_study
from crosstune.store import store as stored
from crosstune.study.spec import read_study
from saved_model import byte_tokenizer, save_model

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BLOCKS = dict(
    re.findall(r"^`(\w+\.yaml)`.*?```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
)
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}<{{ turn['role'] }}>{{ turn['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = {"en": "a red house", "de": 'ein "rotes Haus', "sw": "nyumba nyekundu"}


def write_data(folder: Path) -> None:
    for code, words in WORDS.items():
        files: Mapping[str, str] = {
            f"x-final/{code}/{split}.tsv": "id\tsentence1\tsentence2\tlabel\n"
            + "".join(f"{i}\t{split} {words} {i}\t{words}\t{i % 2}\n" for i in range(6))
            for split in ("train", "dev_2k", "test_2k")
        } | {
            f"mmlu/{code}_{split}.json": json.dumps(
                [
                    {
                        "sample_id": f"{split}/{i}",
                        "question": f"{split} {words} {i}?",
                        "options": dict(zip("ABCD", map(str, range(i, i + 4)), strict=True)),
                        "answer": "ABCD"[i % 4],
                    }
                    for i in range(6)
                ]
            )
            for split in ("dev", "test")
        }
        files |= {f"tr/{code}.csv": "src,ref\n" + "".join(f"house {i},{code} house {i}\n" for i in range(6))}
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Of the study of a chat model on its three tasks."""
    folder = tmp_path_factory.mktemp("recipes")
    write_data(folder)
    model = save_model(folder / "model")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    for name, text in BLOCKS.items():
        (folder / name).write_text(text, encoding="utf-8")
    study: dict[str, Any] = yaml.safe_load(BLOCKS["chat.yaml"]) | {"model": str(model), "seeds": [0]}
    study |= {"train": {"steps": 2, "batch_size": 2}, "device": "cpu", "dtype": "float32"}
    study["evaluate"] |= {"limit": 3, "max_answer_tokens": 4}
    study["store"] = str(folder / "store")
    (folder / "chat.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    run_study(read_study(folder / "chat.yaml"), console=Console(file=io.StringIO()))
    runs = stored.read_runs(folder / "store")
    assert {(run.task.name, run.method.name) for run in runs} == {
        (task, method)
        for task in ("my-paws", "my-mmlu", "translate")
        for method in ("none", "few-shot", "lora")
    }
    assert {run.task.name: run.task.licences for run in runs}["my-paws"] == {"my-paws": "free use, Google"}
    return pl.concat(
        [
            stored.read_predictions(folder / "store", [run]).with_columns(
                task=pl.lit(run.task.name), method=pl.lit(run.method.name)
            )
            for run in runs
        ],
        how="diagonal",
    )


def test_the_page_has_five() -> None:
    assert list(BLOCKS) == ["paws.yaml", "mmlu.yaml", "quiz.yaml", "translate.yaml", "chat.yaml"]


@pytest.mark.parametrize("task", ["my-paws", "my-mmlu", "translate"])
def test_every_language_is_read_and_scored(predictions: pl.DataFrame, task: str) -> None:
    rows = predictions.filter(task=task)
    assert set(rows["language"]) == set(WORDS)
    assert rows.height == 3 * len(WORDS) * 3
    assert rows["score"].is_between(0, 1).all()


def test_what_went_in(predictions: pl.DataFrame) -> None:
    system = "<s><system>Answer with the answer alone.\n"
    words = WORDS["de"]
    paws = predictions.filter(task="my-paws", method="none", language="de")
    for example, prompt in paws.select("example", "prompt").rows():
        asked = f"<user>test_2k {words} {example}\n{words}\nDo the two sentences mean the same?\n<assistant>"
        assert prompt == system + asked
    for prompt in predictions.filter(task="my-mmlu", method="few-shot")["prompt"]:
        roles = re.findall(r"<(system|user|assistant)>", prompt)
        assert roles == ["system", *["user", "assistant"] * 3]
        assert re.search(r"<assistant>[ABCD]\n<user>", prompt)
    german = predictions.filter(task="translate", method="lora", language="de")["prompt"]
    assert all("In German:" in prompt for prompt in german)
