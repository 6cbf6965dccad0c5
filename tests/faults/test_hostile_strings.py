"""32 hostile texts from every source, through page, terminal, CSV, LaTeX and SVG: shown, and nothing else."""

import csv
import io
import json
import re
import shutil
import sys
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import yaml
from rich.console import Console

from crosstune import api
from crosstune.cli import main as cli
from crosstune.cli.printing import print_json, show
from crosstune.config import environment
from crosstune.errors import UserError
from crosstune.planning.plan import PlanGroup, StudyPlan
from crosstune.planning.table import plan_table
from crosstune.report.contents import contents
from crosstune.report.export import save
from crosstune.report.figures.style import title_text
from crosstune.report.sections import sections
from crosstune.report.text import visible
from crosstune.running.progress import display
from hostile import HOSTILE, active, hostile_claims, hostile_store
from simulated import simulate

DRAWN = {"svg", "g", "path", "rect", "text", "tspan", "line", "defs", "clipPath", "linearGradient", "stop"}
SVG = "{http://www.w3.org/2000/svg}"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_store(tmp_path_factory.mktemp("hostile") / "store")


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("claims") / "claims.yaml"
    file.write_text(yaml.safe_dump(hostile_claims()), encoding="utf-8")
    return file


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crosstune", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


def cells(text: str) -> Iterator[str]:
    for row in csv.reader(io.StringIO(text)):
        yield from row


def formula(cell: str) -> bool:
    return (
        re.match(r"[=+\-@\t\r＝＋－＠]", cell) is not None
        and re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", cell) is None
    )


@pytest.mark.parametrize(
    "words",
    ["results", "results --cost", "results --format csv", "results --cost --format csv",
     "results --format json", "check", "verdict --claims", "verdict --format csv --claims",
     "verdict --format json --claims"],
)  # fmt: skip
def test_the_terminal(store: Path, claims: Path, call: Call, words: str) -> None:
    verb, *options = words.split()
    code, out, err = call(verb, str(store), *options, *([str(claims)] if "--claims" in options else []))
    assert (code, err) == (0, "")
    assert active(out) == set()
    if "csv" in options:
        assert [cell for cell in cells(out) if formula(cell)] == []
    if "json" in options:
        json.loads(out)


@pytest.mark.parametrize("text", [*HOSTILE, "half a \ud800 character"], ids=range(len(HOSTILE) + 1))
def test_notes_and_errors(text: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (False, True):
        log = io.StringIO()
        with display(Console(file=log, width=200, force_terminal=terminal, color_system=None), 2, 0) as shown:
            shown.begin(text)
            shown.note(text)
            if terminal:
                shown.bars.refresh()  # type: ignore[attr-defined]
        # What moves the bars of a terminal is not from the text.
        source = re.sub(r"\x1b\[(\?25[lh]|[0-9]*[AK]|2K)|\r", "", log.getvalue())
        assert active(source) == set()
    assert active(str(UserError(text))) == set()
    for variable in (environment.CHECKPOINT_SECONDS, environment.STATES_GB, environment.GPU_OFF):
        with monkeypatch.context() as patched:
            patched.setattr(environment.os, "environ", {variable: text})
            with pytest.raises(UserError) as caught:
                environment.check()
        assert active(str(caught.value)) == set()
    if set(text) & set("\0\ud800"):  # no argument can hold them
        return
    for words in (["results", "--", text], ["params", "lora", "--model", text]):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert active(err) == set()
        assert len(err.splitlines()) == 1


def test_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    groups = [PlanGroup(text, text, text, "result", 1, 2, 1, 1, None, None, None) for text in HOSTILE]
    refused = {text: text for text in HOSTILE}
    plan = StudyPlan(HOSTILE[16], Path("s"), HOSTILE[17], HOSTILE[18], groups, 1.0, HOSTILE, HOSTILE, refused)
    show(plan_table(plan, HOSTILE[20]))
    print_json(plan.as_dict())
    assert active(capsys.readouterr().out) == set()


def test_tables_as_files(store: Path, claims: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = api.results(store)
    verdicts = results.verdicts(str(claims))
    monkeypatch.setattr(api.Results, "verdicts", lambda self: verdicts)
    files = results.export(tmp_path, ["csv", "tex"])
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert active(text) == set(), file.name
        if file.suffix == ".csv":
            assert [cell for cell in cells(text) if formula(cell)] == [], file.name
        elif file.name != "all.tex":
            body = text.partition("\\toprule")[2].partition("\\bottomrule")[0]
            latex_is_inert(body)
            latex_is_inert(re.findall(r"\\caption\{(.*)\}\\label", text)[0])


def latex_is_inert(text: str) -> None:
    """Nothing but characters by name or number, cells and line ends."""
    assert text.isascii()
    known = r"text\w+|ldots|dag|pm|cdot|char[0-9]+|midrule|endhead|endfoot|ss|multicolumn|symbol"
    left = re.sub(rf"\\(?:{known})(?![a-zA-Z])|\\[{{}}$&#_%\\]|\$-\$|\$\\pm\$|\$\\cdot\$", "", text)
    assert re.findall(r"\\[a-zA-Z]+|[$#%^~_]", left) == []


def test_figures_as_files(tmp_path: Path) -> None:
    """Names of methods and languages, and titles, which Vega puts into expressions."""
    methods = simulate(dict.fromkeys(HOSTILE, 0.5), seeds=(0,), examples=2, languages=["en", "de"])
    languages = simulate({"none": 0.5}, seeds=(0,), examples=2, languages=["en", *HOSTILE])
    charts = {
        name: item.chart(item.width)
        for name, results in (("gap", methods), ("heatmap", languages))
        for item in contents(*sections(*results))
        if item.chart is not None and item.id == name
    }
    titles = alt.vconcat(
        *(alt.Chart(alt.InlineData(values=[{"x": 1}]))
          .mark_point()
          .encode(x=alt.X("x:Q", title=title_text(text)), tooltip=alt.Tooltip("x:Q", title=title_text(text)))
          for text in HOSTILE)
    )  # fmt: skip
    for name, chart in (charts | {"titles": titles}).items():
        assert active(json.dumps(chart.to_dict(), ensure_ascii=False)) == set()
        save(chart, file := tmp_path / f"{name}.svg", "svg")
        for node in xml.etree.ElementTree.parse(file).iter():
            assert node.tag.removeprefix(SVG) in DRAWN
            for key, value in node.attrib.items():
                assert not key.lower().startswith("on")
                assert "href" not in key
                assert active(value) == set()
            assert active(node.text or "") == set()


def test_curves_of_settings_with_such_names() -> None:
    both = {
        f"{text} {value}": {"chance": 0.5, "method": {"name": text, text: value}}
        for text in HOSTILE
        for value in (1, 2)
    }
    (section,) = sections(*simulate(both, seeds=(0,), examples=2, languages=["en", "de"]))
    items = [item for item in contents(section) if item.id.startswith("curve-")]
    assert len(items) == len(HOSTILE)
    for item in items:
        assert item.chart is not None
        assert active(json.dumps(item.chart(item.width).to_dict(), ensure_ascii=False)) == set()
        assert active(item.title) == set()


def test_the_page(store: Path, claims: Path, tmp_path: Path) -> None:
    """Drawn by a real browser: nothing runs, nothing is asked for, every text is a text."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: no browser check"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: no browser check")
    file = api.report(store, tmp_path / "report.html", claims=str(claims), title=HOSTILE[0])
    assert active(file.read_text(encoding="utf-8"), "\n\t") <= {"\x0b"}
    messages: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: messages.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: messages.append(request.url))
        page.goto(file.as_uri())
        page.locator("html[data-ready]").wait_for(state="attached")
        page_facts: dict[str, Any] = page.evaluate(LOOK)
        browser.close()
    assert messages == [file.as_uri()]
    assert page_facts["drawn"] > 12
    assert page_facts["scripts"] == 2
    assert [name for name in page_facts["names"] if name.startswith("on")] == []
    assert not {*page_facts["tags"]} & {
        "IMG",
        "IFRAME",
        "FOREIGNOBJECT",
        "IMAGE",
        "OBJECT",
        "EMBED",
        "LINK",
        "BASE",
    }
    assert {link[0] for link in page_facts["links"]} == {"#"}
    shown = "".join(page_facts["texts"])
    assert active("".join(page_facts["values"]) + shown) == set()
    assert [text for text in HOSTILE if visible(text)[:30].strip() not in shown] == []


LOOK = """async () => {
  document.querySelectorAll('details').forEach(node => { node.open = true; });
  const figures = [...document.querySelectorAll('figure')].filter((_, place) => place % 7 === 0);
  for (const node of [...figures, ...document.querySelectorAll('.drill')]) {
    node.scrollIntoView();
    while (node.matches('figure:not([data-drawn])')) await new Promise(requestAnimationFrame);
  }
  const all = [...document.querySelectorAll('*')];
  const attributes = all.flatMap(node => [...node.attributes]);
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    if (!walker.currentNode.parentElement.closest('script, style')) texts.push(walker.currentNode.data);
  }
  return {
    tags: [...new Set(all.map(node => node.tagName))],
    scripts: document.querySelectorAll('script:not([type="application/json"])').length,
    names: attributes.map(each => each.name),
    values: attributes.map(each => each.value),
    links: attributes.filter(each => /href|src$/.test(each.name)).map(each => each.value),
    texts,
    drawn: document.querySelectorAll('figure[data-drawn]').length,
  };
}"""
