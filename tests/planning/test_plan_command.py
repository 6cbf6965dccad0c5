"""``crosstune plan`` and ``params --budget``: what they print."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crosstune.cli import main as cli
from saved_model import study_of, write_study

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Exit code, standard output and standard error of a command, with a cache of its own."""
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crosstune", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_plan_calibrates_and_prints_json(model: Path, tmp_path: Path, call: Call) -> None:
    file = write_study(tmp_path / "x.yaml", study_of(model, tmp_path / "store", methods=["none", "lora"]))
    code, out, err = call("plan", str(file))
    assert code == 0, err
    assert f"crosstune plan {file} --calibrate" in out
    code, out, err = call("plan", str(file), "--calibrate", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["runs"], plan["unknown"]) == (2, 0)
    assert [group["basis"] for group in plan["groups"]] == ["calibration"] * 2
    assert "timing lora on cldr-names" in err
    assert "2 runs on cpu in float32: 0 finished, 2 to do; about" in call("plan", str(file))[1]


def test_plan_says_what_would_come_nearer_to_a_budget(model: Path, tmp_path: Path, call: Call) -> None:
    # Of 2 layers 64 wide: a prefix token is 128 parameters, or 64 in one layer.
    spec = study_of(model, tmp_path / "store", methods=["none", "prefix", "soft-prompt"]) | {"budget": 1216}
    file = write_study(tmp_path / "x.yaml", spec)
    out = call("plan", str(file))[1]
    line = (
        f"  {model}, prefix: length 9 is 1,152 (-5.3%), length 10 is 1,280 (+5.3%); "
        "with layers: 1, length 19 is 1,216 (+0.0%)"
    )
    # Where the line is broken depends on how long the model's folder is.
    assert line.strip() in " ".join(out.split())
    assert "soft-prompt:" not in out
    assert json.loads(call("plan", str(file), "--json")[1])["hints"] == [line.strip()]


def test_the_sizes_on_the_page(call: Call) -> None:
    out = call("params", "--budget", "1.23M", "--model", "llama-3.1-8b")[1]
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    printed = "\n".join(line.rstrip() for line in out.splitlines())
    assert printed in page
    code, _, err = call("params", "--budget", "1.23X")
    assert code == 2
    assert "budget: give a number of parameters" in err
