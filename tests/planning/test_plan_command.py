"""``crosstune plan`` and ``params --budget``: what they print."""

import json
import os
import subprocess
import sys
from pathlib import Path

from saved_model import study_of, write_study


def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}
    return subprocess.run(
        [sys.executable, "-m", "crosstune", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=env,
        check=False,
    )


def test_plan_calibrates_and_prints_json(model: Path, tmp_path: Path) -> None:
    file = write_study(tmp_path / "x.yaml", study_of(model, tmp_path / "store", methods=["none", "lora"]))
    cache = str(tmp_path / "cache")
    told = call("plan", str(file), CROSSTUNE_CACHE=cache)
    assert told.returncode == 0, told.stderr
    assert f"crosstune plan {file} --calibrate" in told.stdout
    told = call("plan", str(file), "--calibrate", "--json", CROSSTUNE_CACHE=cache)
    assert told.returncode == 0, told.stderr
    plan = json.loads(told.stdout)
    assert (plan["runs"], plan["unknown"]) == (2, 0)
    assert [group["basis"] for group in plan["groups"]] == ["calibration"] * 2
    assert "timing lora on cldr-names" in told.stderr
    told = call("plan", str(file), CROSSTUNE_CACHE=cache)
    assert "2 runs on cpu in float32: 0 finished, 2 to do; about" in told.stdout


def test_plan_says_what_would_come_nearer_to_a_budget(model: Path, tmp_path: Path) -> None:
    # Of 2 layers 64 wide: a prefix token is 128 parameters, or 64 in one layer.
    spec = study_of(model, tmp_path / "store", methods=["none", "prefix", "soft-prompt"]) | {"budget": 1216}
    file = write_study(tmp_path / "x.yaml", spec)
    told = call("plan", str(file), CROSSTUNE_CACHE=str(tmp_path / "cache"))
    line = (
        f"  {model}, prefix: length 9 is 1,152 (-5.3%), length 10 is 1,280 (+5.3%); "
        "with layers: 1, length 19 is 1,216 (+0.0%)"
    )
    # Where the line is broken depends on how long the model's folder is.
    assert line.strip() in " ".join(told.stdout.split())
    assert "soft-prompt:" not in told.stdout
    plan = json.loads(call("plan", str(file), "--json", CROSSTUNE_CACHE=str(tmp_path / "cache")).stdout)
    assert plan["hints"] == [line.strip()]


def test_the_sizes_on_the_page() -> None:
    told = call("params", "--budget", "1.23M", "--model", "llama-3.1-8b")
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    printed = "\n".join(line.rstrip() for line in told.stdout.splitlines())
    assert printed in page
    told = call("params", "--budget", "1.23X")
    assert told.returncode == 2
    assert "budget: give a number of parameters" in told.stderr
