"""Every command line of the README and the documentation: each is understood, and what is quick is run."""

import importlib.util
import io
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from crosstune.cli import main as cli
from ready_studies import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "studies").rglob("*.yaml")]
LINE = re.compile(r"^(?:    |# {1,3})?(?:\.venv/bin/)?crosstune ((?:[a-z]+|--version)\b.*)$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?:    .*\n)+")
RUN_ID = "0123456789abcdef"
QUICK = {
    *["results", "report", "export", "verdict", "check", "params", "list", "plan", "freeze", "import", "init"]
}
STUDY = "name: x\nmodel: demo:gemma-3-270m\ntasks: [cldr-names]\nmethods: [none, lora]\nlanguages: [de, ru]\n"
CLAIMS = "claims: [{claim: First, method: lora, beats: prefix}]\n"
ANSWERS = "language,example,method,score\nen,1,none,1\nde,1,none,0\nen,1,lora,1\nde,1,lora,1\n"


def lines(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    fenced = [block for language, block in FENCE.findall(text) if language in ("", "bash", "sh")]
    blocks = [text] if page.suffix == ".yaml" else [*fenced, *INDENTED.findall(text)]
    found = [match for block in blocks for match in LINE.findall(block)]
    return [line.partition("  #")[0].partition(" #")[0].rstrip(" &").strip() for line in found]


EVERY = sorted({(line, page.name) for page in PAGES for line in lines(page)})


def arguments(line: str) -> list[str]:
    """What is given, with a run's id for its placeholder, and no output into a file."""
    return shlex.split(re.sub(r"<(?:run|id)>", RUN_ID, line.partition(" > ")[0]))


def test_the_pages_have_command_lines() -> None:
    assert len(EVERY) > 60
    assert {line.split()[0] for line, _ in EVERY} >= {*QUICK, "run", "predict", "demo"}


@pytest.mark.parametrize(("line", "page"), EVERY, ids=[f"{page}: {line}" for line, page in EVERY])
def test_a_command_line_is_understood(line: str, page: str) -> None:
    verb, *rest = arguments(line)
    app: Any = typer.main.get_command(cli.app)
    assert verb in app.commands, f"{page}: no verb {verb}"
    app.commands[verb].make_context(verb, rest)  # raises where an option or argument is none
    for given in rest:
        if given.split("/")[0] in ("studies", "examples", "docs"):
            assert (ROOT / given).exists(), f"{page}: there is no {given}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store, and the files that command lines name."""
    folder = tmp_path_factory.mktemp("docs")
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "report_scale.py")
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.simulate(folder / "runs" / "demo", runs=6, languages=4, examples=10, shape="methods")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    (folder / "claims.yaml").write_text(CLAIMS, encoding="utf-8")
    (folder / "answers.csv").write_text(ANSWERS, encoding="utf-8")
    return folder


def in_folder(line: str) -> list[str] | None:
    """The same with the files of `folder`; None for what another test runs, or takes minutes."""
    verb, *rest = arguments(line)
    about_claims = verb in ("verdict", "report", "freeze")
    store = "runs/new" if verb in ("import", "freeze") else "runs/demo"
    file = "claims.yaml" if about_claims else "study.yaml"
    named = [
        store if given.startswith("runs/") else file if given.endswith(".yaml") and verb != "init" else given
        for given in rest
    ]
    slow = verb not in QUICK or "--calibrate" in rest or any(given.endswith("_output/") for given in rest)
    if verb == "export":  # figures take seconds each, and have tests of their own
        named = [named[0], "paper", "--format", "tex"]
    return None if slow else [verb, *named]


def test_quick_command_lines_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    ran = {tuple(call) for line, _ in EVERY if (call := in_folder(line)) is not None}
    assert {call[0] for call in ran} == QUICK
    for call in sorted(ran):
        monkeypatch.setattr(sys, "argv", ["crosstune", *call])
        monkeypatch.setattr(sys, "stdin", io.StringIO(4 * "\n"))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, f"{call}: {capsys.readouterr().err}"
    assert (folder / "paper" / "tables" / "all.tex").is_file()
