"""Trained here, written, loaded with PEFT or transformers, and read here again: the same logits."""

import io
from pathlib import Path
from typing import Any

import peft
import polars as pl
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.errors import UserError
from crosstune.exporting.card import write_card
from crosstune.exporting.folders import _logits, write_adapter, write_merged
from crosstune.methods import METHODS as KNOWN
from crosstune.models.loading.load import load
from crosstune.running.restored import method_of, restored
from crosstune.running.runner import run_study
from crosstune.store import store as stored
from crosstune.study.spec import Study
from saved_model import study_of
from tiny_encoder_decoders import make_seq2seq
from tiny_models import all_logits, near, random_ids

IDS = random_ids(30)
AS_MODEL = ("lora", "ia3", "dora", "vera", "oft", "full")
AS_ADAPTER = (*AS_MODEL[:-1], "norms", "soft prompt", "hidden prefix", "kv prefix", "llama-adapter")


def ours(folder: Path) -> torch.Tensor:
    record = stored.read_run(folder)
    method = method_of(record)
    with restored(folder, record, method, "en", device="cpu") as lm:
        return all_logits(lm, IDS)


@pytest.mark.parametrize("name", AS_ADAPTER)
def test_a_peft_folder(runs: Any, model: Path, tmp_path: Path, name: str) -> None:
    folder, record = runs[name]
    written = write_adapter(folder, tmp_path / "out", "cpu")
    assert written.gap < 1e-5
    assert {file.name for file in written.folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    base: Any = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        plain = base(input_ids=ids).logits[0]
        theirs = peft.PeftModel.from_pretrained(base, written.folder)(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).logits[0, -len(IDS) :]
    wanted = ours(folder)
    assert (wanted - plain).abs().max() > 1e-3 * plain.abs().max()
    near(f"written for PEFT: {name}", theirs, wanted, 1e-5)
    lm = load(str(model), device="cpu", dtype="float32")
    method = KNOWN["adapter"](KNOWN["adapter"].Config(path=str(written.folder)))
    method.attach(lm)
    near(f"written and read again: {name}", all_logits(lm, IDS), wanted, 1e-5)
    assert method.remark == ""
    lm.name = "other/model"
    again = KNOWN["adapter"](KNOWN["adapter"].Config(path=str(written.folder)))
    method.detach()
    again.attach(lm)
    assert again.remark.endswith(f"was trained on {record.model}, and stands on other/model here")
    if name not in ("hidden prefix", "vera", "oft"):  # folded, or saved with what was drawn
        assert again.trained_parameters() == record.trained_parameters


@pytest.mark.parametrize("name", AS_MODEL)
def test_a_checkpoint(runs: Any, tmp_path: Path, name: str) -> None:
    folder, _ = runs[name]
    written = write_merged(folder, tmp_path / "out", "cpu")
    assert written.gap < 1e-5
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(written.folder)(input_ids=torch.tensor([IDS])).logits[0]
    near(f"written as a checkpoint: {name}", theirs, ours(folder), 1e-5)
    assert AutoTokenizer.from_pretrained(written.folder)("Berlin").input_ids
    assert not [
        key for key in load_file(written.folder / "model.safetensors") if "lora" in key or "base" in key
    ]


def test_in_a_study_beside_others(runs: Any, model: Path, tmp_path: Path) -> None:
    """The folder and the run answer as the run itself did, and say what is known of their training."""
    folder, record = runs["lora"]
    out = write_adapter(folder, tmp_path / "out", "cpu").folder
    methods = [
        {"name": "adapter", "path": str(out)},
        {"name": "adapter", "path": str(out), "trained_on": ["en"]},
        {"name": "adapter", "run": str(folder)},
        {"name": "adapter", "run": str(runs["full"][0])},
        "none",
    ]
    spec = Study(**study_of(model, tmp_path / "store", methods=methods, languages=["de"], seeds=[0, 1]))
    log = io.StringIO()
    run_study(spec, console=Console(file=log, width=200))
    made = stored.read_runs(tmp_path / "store")
    assert len(made) == 5, "one run whatever the seeds"
    by_method = {
        str(run.method.settings.get("trained_on") or run.method.settings.get("run", "")): run for run in made
    }
    wanted = stored.read_predictions(folder.parent, [record]).select("prediction", "choice_logprobs")
    for run in made:
        if run.method.name != "adapter" or run.method.settings["run"] == str(runs["full"][0]):
            continue
        rows = stored.read_predictions(tmp_path / "store", [run])
        assert rows["prediction"].to_list() == wanted["prediction"].to_list()
        gap = pl.Series([a for row in rows["choice_logprobs"] for a in row]) - pl.Series(
            [a for row in wanted["choice_logprobs"] for a in row]
        )
        assert gap.abs().max() < 1e-4
        known = run.method.settings["path"] == "" or run.method.settings["trained_on"] is not None
        assert run.zero_shot == known
        assert run.method_facts.untuned is run.method_facts.random is False
        assert run.trained_parameters == record.trained_parameters
        assert len(run.method.settings["content"]) == 64
    assert not (tmp_path / "store" / by_method[""].id / stored.WEIGHTS).exists()


@pytest.mark.parametrize(
    ("name", "write", "wrong"),
    [
        ("none", write_adapter, "none trains nothing"),
        ("full", write_adapter, "PEFT has no form for it; write a checkpoint with --merged"),
        ("gate a head", write_adapter, "train it with gate: layer"),
        ("soft prompt", write_merged, "no change of the model's weights"),
        ("bottleneck", write_merged, "no change of the model's weights"),
        ("invertible", write_adapter, "undoes an invertible adapter in its own heads alone"),
    ],
)
def test_what_has_no_form(runs: Any, tmp_path: Path, name: str, write: Any, wrong: str) -> None:
    with pytest.raises(UserError) as error:
        write(runs[name][0], tmp_path / "out", "cpu")
    assert wrong in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bottleneck_is_written_for_the_adapters_library(runs: Any, tmp_path: Path) -> None:
    written = write_adapter(runs["bottleneck"][0], tmp_path / "out", "cpu")
    assert (written.kind, written.gap) == ("adapter of the adapters library", None)
    assert {file.name for file in written.folder.iterdir()} == {"adapter_config.json", "adapter.safetensors"}
    card = write_card(runs["bottleneck"][0], written).read_text()
    assert 'library_name: "adapters"' in card
    assert "model.load_adapter(" in card


def test_a_folder_that_is_taken(runs: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists; name a new folder"):
        write_adapter(runs["lora"][0], tmp_path, "cpu")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_encoder_decoder_is_refused_in_a_line() -> None:
    with pytest.raises(UserError, match="tiny-mt5: encoder-decoders are not written"):
        _logits(make_seq2seq("mt5"), torch.tensor([[5, 6]]))
