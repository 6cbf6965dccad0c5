"""Commands that compute nothing with a model answer without importing PyTorch, transformers or PEFT."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crosstune.models.geometry import geometry_of
from crosstune.models.loading.config import read_config
from crosstune.models.loading.known import geometry_for
from saved_model import save_model, study_of, write_study

HEAVY = {"torch", "transformers", "peft"}
# Runs the command as the `crosstune` script does, then tells what was imported.
CODE = (
    "import sys\n"
    "from crosstune.cli.main import main\n"
    "try:\n    main()\n"
    "except SystemExit as end:\n    assert not end.code, end.code\n"
    "print('imported:', *(set('HEAVY'.split(',')) & set(sys.modules)))\n"
)


def imported(*arguments: str, cache: Path | None = None) -> set[str]:
    """What of HEAVY a command imports, in a process of its own."""
    code = CODE.replace("HEAVY", ",".join(HEAVY))
    env = os.environ | ({} if cache is None else {"CROSSTUNE_CACHE": str(cache)})
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("imported:").split())


@pytest.mark.parametrize(
    "command", ["--help", "params --budget 1.23M", "list methods", "list models", "list presets"]
)
def test_nothing_heavy_is_imported(command: str) -> None:
    assert imported(*command.split()) == set()


def test_plan_of_a_known_model(tmp_path: Path) -> None:
    study = study_of(tmp_path, tmp_path / "store", methods=["none", "prefix", "full"])
    file = write_study(tmp_path / "x.yaml", study | {"model": "demo:gemma-3-270m", "budget": "100K"})
    assert imported("plan", str(file), cache=tmp_path / "cache") == set()


def test_plan_of_a_model_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shape is asked of transformers once, then known."""
    model = save_model(tmp_path / "model")
    file = write_study(tmp_path / "x.yaml", study_of(model, tmp_path / "store", methods=["none", "lora"]))
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path / "cache"))
    geometry = geometry_of(read_config(model, "tiny"))
    assert geometry_for(str(model)) == geometry
    (kept,) = (tmp_path / "cache" / "geometry").iterdir()
    whole = kept.read_text(encoding="utf-8")
    kept.write_text(whole[:20], encoding="utf-8")
    assert geometry_for(str(model)) == geometry, "damaged, so asked again"
    assert kept.read_text(encoding="utf-8") == whole
    assert imported("plan", str(file)) == set()
    config = model / "config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    assert geometry_for(str(model)).layers == 3, "another config is another shape"
