"""Methods with other weights for each language, written for one of them, or each language's adapter apart."""

import io
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from crosstune.errors import UserError
from crosstune.exporting.card import write_card
from crosstune.exporting.folders import write_adapter, write_merged
from crosstune.running.restored import method_of, restored
from crosstune.running.runner import run_study
from crosstune.store import store as stored
from crosstune.study.spec import Study
from saved_model import study_of
from tiny_models import all_logits, near, random_ids

IDS = random_ids(30)
METHODS: list[dict[str, Any]] = [
    {"name": "mad-x", "width": 4, "language_width": 8, "invertible": False},
    {"name": "lt-sft", "keep": 0.1},
    {"name": "adamergex", "rank": 2},
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, Path]:
    """By method, a run's folder; of a stage's by its language."""
    folder = tmp_path_factory.mktemp("stages")
    for code, line in {"en": "The hen sat on a hat.", "de": "Die Henne sass auf einem Hut."}.items():
        (folder / f"{code}.txt").write_text(f"{line}\n{line[::-1]}\n")
    train = {"steps": 2, "batch_size": 2, "learning_rate": 0.05, "warmup_steps": 0}
    methods = [m | {"text": str(folder), "text_train": train} for m in METHODS]
    content = study_of(model, folder / "store", methods=methods, languages=["de"], train=train)
    run_study(Study(**content), console=Console(file=io.StringIO()))
    records = stored.read_runs(folder / "store", kind=None)
    found = {run.method.name: folder / "store" / run.id for run in records if run.kind == "result"}
    stages = [run for run in records if run.kind == "stage" and run.method.name == "bottleneck"]
    return found | {(run.train or {})["languages"][0]: folder / "store" / run.id for run in stages}


def ours(folder: Path, code: str) -> torch.Tensor:
    record = stored.read_run(folder)
    with restored(folder, record, method_of(record), code, device="cpu") as lm:
        return all_logits(lm, IDS)


@pytest.mark.parametrize("name", ["lt-sft", "adamergex"])
def test_a_checkpoint_of_one_language(runs: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=f"{name} has other weights for each language; add --language, one of"
    ):
        write_merged(runs[name], tmp_path / "out", "cpu")
    found = {}
    for code in ("en", "de"):
        written = write_merged(runs[name], tmp_path / code, "cpu", code)
        with torch.no_grad():
            found[code] = AutoModelForCausalLM.from_pretrained(written.folder)(torch.tensor([IDS])).logits[0]
        near(f"{name}, {code}", found[code], ours(runs[name], code), 1e-5)
        assert (
            f"Weights for {'German' if code == 'de' else 'English'}."
            in write_card(runs[name], written).read_text()
        )
    assert (found["en"] - found["de"]).abs().max() > 1e-3


def test_a_lora_of_one_language(runs: Any, model: Path, tmp_path: Path) -> None:
    written = write_adapter(runs["adamergex"], tmp_path / "out", "cpu", "de")
    base: Any = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(base, written.folder)(torch.tensor([IDS])).logits[0]
    near("adamergex, de", theirs, ours(runs["adamergex"], "de"), 1e-5)


def test_mad_x_as_folders_of_the_adapters_library(runs: Any, tmp_path: Path) -> None:
    """A language's is what its stage is written as, which tests hold against the library."""
    written = write_adapter(runs["mad-x"], tmp_path / "out", "cpu")
    assert {folder.name for folder in written.folder.iterdir()} == {"task", "en", "de"}
    for code in ("en", "de"):
        alone = write_adapter(runs[code], tmp_path / f"alone-{code}", "cpu").folder
        for file in ("adapter.safetensors", "adapter_config.json"):
            assert (alone / file).read_bytes() == (written.folder / code / file).read_bytes()
    task, own = (
        load_file(written.folder / "task" / "adapter.safetensors"),
        load_file(runs["mad-x"] / stored.WEIGHTS),
    )
    assert {tuple(x.shape) for x in task.values()} == {tuple(x.shape) for x in own.values()}
    assert 'adapters.composition.Stack("de", "task")' in write_card(runs["mad-x"], written).read_text()
    with pytest.raises(UserError, match="all languages are written, a folder each; take --language out"):
        write_adapter(runs["mad-x"], tmp_path / "again", "cpu", "de")
