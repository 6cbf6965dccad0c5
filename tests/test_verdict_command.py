"""`crosstune verdict`: what it prints, for people and for programs, and with which exit code."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import crosstune
from crosstune.cli import main as cli
from simulated import simulate, write_store

EVIL = "\x1b[31m[bold red]evil[/] \u202egnp.exe\x07"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs, rows = simulate(
        {"prefix": 0.8, "lora": 0.6, f"none {EVIL}": 0.3}, examples=40, model="demo:gemma-3-270m"
    )
    return write_store(tmp_path_factory.mktemp("verdict") / "runs", runs, rows)


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "claims:\n"
        "- {claim: Prefix wins., source: me, method: prefix, beats: lora}\n"
        "- {claim: Prefix wins., method: prefix, beats: lora, every: family}\n"
        "- {claim: LoRA wins., method: lora, beats: prefix}\n"
        '- {claim: "\\e[31m[bold red]evil[/] \\u202egnp.exe\\a", method: lora, beats: none}\n'
        "- {claim: Nobody ran this., method: full, beats: lora}\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crosstune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


VERDICTS = ["supported", "supported", "contradicted", "supported", "not enough data"]


def test_the_table(store: Path, claims: Path, call: Any) -> None:
    code, out, err = call("verdict", store, "--claims", claims)
    assert (code, err) == (0, "")
    heads = [line.split("  ")[0].strip() for line in out.splitlines() if "wins." in line or "Nobody" in line]
    assert heads == [VERDICTS[0], VERDICTS[1], VERDICTS[2], VERDICTS[4]]
    flat = " ".join(out.split())
    assert "prefix against lora" in flat
    assert "26 languages" in flat
    assert "1,040 examples" in flat
    assert "seeds 3, 3" in flat
    assert "no zero-shot runs of full" in flat
    found = crosstune.results(store)
    first = found.verdicts(claims)[0]
    assert " ".join(run[:6] for run in first.runs) in flat
    low, high = first.cell.low, first.cell.high
    assert low is not None
    assert high is not None
    assert f"{100 * low:+.1f} to {100 * high:+.1f}" in flat


def test_hostile_claims_and_labels_only_show(store: Path, claims: Path, call: Any) -> None:
    _, out, _ = call("verdict", store, "--claims", claims)
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert "[bold red]evil[/]" in out
    assert "⟨U+001B⟩" in out
    assert "⟨U+202E⟩" in out


def test_for_programs(store: Path, claims: Path, call: Any) -> None:
    found = crosstune.results(store).verdicts(str(claims))
    _, out, _ = call("verdict", store, "--claims", claims, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["verdict"] for row in rows] == VERDICTS
    assert rows[0]["runs"].split() == list(found[0].runs)
    assert float(rows[0]["difference"]) == found[0].cell.difference
    _, out, _ = call("verdict", store, "--claims", claims, "--format", "json")
    read = json.loads(out)
    assert [row["verdict"] for row in read] == VERDICTS
    assert [cell["where"] for cell in read[1]["cells"]] == [cell.where for cell in found[1].cells]
    assert read[3]["claim"] == EVIL
    assert read[0]["place"] == "mine.yaml:2"


def test_the_shipped_claims_by_default(store: Path, call: Any) -> None:
    code, out, _ = call("verdict", store)
    assert code == 0
    assert "with Gemma 3 270M" in out
    assert "with Mistral 7B" not in out
    assert "25 more claims are about models that are not here, or about none" in out
    code, out, _ = call("verdict", store, "--claims", "paper", "--format", "csv")
    assert "with Mistral 7B" in out


def test_mistakes(store: Path, tmp_path: Path, call: Any) -> None:
    code, out, err = call("verdict", store, "--claims", "papr")
    assert (code, out) == (2, "")
    assert err == 'error: no claims "papr": give a file, or a name; did you mean "paper"?\n'
    file = tmp_path / "x.yaml"
    file.write_text("claims:\n- claim: x\n  method: prefix\n  beats: lora\n  margin: 3\n")
    code, _, err = call("verdict", store, "--claims", file)
    assert (code, err) == (2, f'error: {file}:5: unknown key "margin" in a claim; did you mean "more_in"?\n')
    code, _, err = call("verdict", tmp_path / "none")
    assert (code, err.startswith("error: no store")) == (2, True)


def test_the_list(call: Any) -> None:
    code, out, _ = call("list", "claims")
    assert code == 0
    assert "Prefix tuning beats LoRA of rank 4 on Belebele with Llama 3.1 8B." in out


def test_from_python(store: Path, claims: Path) -> None:
    results = crosstune.results(store)
    table = results.verdict(claims)
    assert table["verdict"].to_list() == VERDICTS
    assert table["claim"][0] == "Prefix wins."
    mine = crosstune.Claim(claim="x", method="prefix", beats="lora", by=50)
    assert results.verdict(mine)["verdict"].to_list() == ["contradicted"]
    assert results.verdict([mine, claims]).height == 6
