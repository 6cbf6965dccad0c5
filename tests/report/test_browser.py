"""The report as a reader sees it: drawn by a real browser, offline, without an error."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic import TASKS, frame, make_predictions, make_run

from crosstune.analysis.predictions import as_predictions
from crosstune.report.page.html import write_report
from crosstune.report.sections import sections

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser check")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: no browser check", allow_module_level=True)
# Five seconds, its default, are too few to redraw 34 charts on a machine that does other work.
sync_api.expect.set_options(timeout=60_000)


def open_drawn(page: Any, report: Path) -> None:
    # Not wait_for_function: the page's own policy forbids the code made from a string that it polls with.
    page.goto(report.as_uri())
    page.locator("html[data-ready]").wait_for(state="attached")


def draw_all(page: Any) -> None:
    """Charts are drawn when they come near: go to each."""
    for figure in page.locator("figure").all():
        figure.scroll_into_view_if_needed()
    figure = page.locator("figure:not([data-drawn])")
    sync_api.expect(figure).to_have_count(0)


@pytest.fixture(scope="module")
def report(
    runs: list[dict[str, Any]], predictions: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_report(
        sections(runs, predictions),
        as_predictions(predictions),
        tmp_path_factory.mktemp("report") / "report.html",
        "Browser check",
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (1280, "dark")])
def test_report_draws_without_a_message_or_a_request(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: messages.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: requested.append(request.url))
    open_drawn(page, report)
    assert page.locator("figure[data-drawn]").count() < 34
    draw_all(page)
    assert page.locator("html").get_attribute("data-drawn") == str(page.locator("figure").count()) == "34"
    assert page.locator("figure").locator("svg, canvas").count() == 34
    assert messages == []
    assert requested == [report.as_uri()]
    # Wide things scroll inside their own box, never the page.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_charts_follow_the_colour_scheme(browser: Any, report: Path) -> None:
    page = browser.new_page(color_scheme="light")
    open_drawn(page, report)
    label = page.locator("figure svg .role-axis-label text").first
    light = label.get_attribute("fill")
    page.emulate_media(color_scheme="dark")
    sync_api.expect(label).not_to_have_attribute("fill", light)
    page.close()


def test_a_heading_sorts_from_the_keyboard(browser: Any, report: Path) -> None:
    page = browser.new_page()
    open_drawn(page, report)
    table = page.locator("table.sortable").first
    page.locator("details", has=table).first.evaluate("node => node.open = true")
    button = table.locator("thead button").nth(6)
    button.focus()
    for sense, reverse in (("descending", True), ("ascending", False)):
        page.keyboard.press("Enter")
        assert table.locator("thead th").nth(6).get_attribute("aria-sort") == sense
        shown = [float(text) for text in table.locator("tbody tr td:nth-child(7)").all_inner_texts()]
        assert shown == sorted(shown, reverse=reverse)
    page.close()


def test_predictions_by_language_method_and_outcome(browser: Any, report: Path) -> None:
    page = browser.new_page()
    open_drawn(page, report)
    drill = page.locator("[data-drill]").last  # right or wrong
    drill.scroll_into_view_if_needed()
    pick = {name: drill.locator(f'[data-pick="{name}"]') for name in ("language", "first", "second", "kind")}
    tables = drill.locator("[data-examples] table")
    sync_api.expect(tables.first).to_be_visible()
    pick["language"].select_option(label="Arabic (ar)")
    assert "عشرون" in tables.first.locator("caption").inner_text()
    assert tables.first.locator("bdi[lang=ar][dir=auto]").count() >= 2
    assert tables.first.locator("tbody tr").count() == 5
    every = tables.count()
    pick["kind"].select_option("differ")
    differ = tables.count()
    assert 0 < differ < every
    for shown in tables.all():
        assert len(set(shown.locator("td.n").all_inner_texts())) > 1
    pick["kind"].select_option("right")
    assert {score for shown in tables.all() for score in shown.locator("td.n").all_inner_texts()} <= {"100"}
    pick["kind"].select_option("")
    pick["first"].select_option("1")
    pick["second"].select_option("3")
    names = [option.inner_text() for option in pick["first"].locator("option").all()]
    assert tables.first.locator("tbody th").all_inner_texts() == [names[2], names[4]]
    status = drill.locator("[data-status]")
    assert status.inner_text().startswith(f"Arabic: {every} of the {every} examples here.")
    # From the keyboard alone: the next language by an arrow key.
    pick["language"].focus()
    page.keyboard.press("ArrowDown")
    sync_api.expect(status).not_to_contain_text("Arabic")
    page.close()


def test_hostile_answers_are_text(browser: Any, report: Path) -> None:
    page = browser.new_page()
    messages: list[str] = []
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    page.on("pageerror", lambda error: messages.append(str(error)))
    open_drawn(page, report)
    shown = set()
    for drill in page.locator("[data-drill]").all():
        drill.scroll_into_view_if_needed()
        language = drill.locator('[data-pick="language"]')
        for place in range(language.locator("option").count()):
            language.select_option(str(place))
            shown |= set(drill.locator("td bdi").all_inner_texts())
    assert "<script>alert(1)</script>" in shown
    assert any(text.endswith("… (100,000 characters)") and len(text) < 300 for text in shown)
    assert not {char for text in shown for char in text} & set("\x1b\x07\x00\u202e\n")
    assert page.locator("[data-drill] img, [data-examples] script").count() == 0
    assert messages == []
    page.close()


def test_the_reference_of_the_forest_plot_is_the_readers_choice(browser: Any, report: Path) -> None:
    page = browser.new_page()
    open_drawn(page, report)
    compare = page.locator("[data-compare]").last
    compare.scroll_into_view_if_needed()
    figure = compare.locator("figure")
    sync_api.expect(figure).to_have_attribute("data-drawn", "")
    select = compare.locator("select")
    names = [option.inner_text() for option in select.locator("option").all()]

    def shown() -> list[str]:
        return compare.locator("tbody:visible th[scope=row]").all_inner_texts()

    assert compare.locator("tbody:visible").count() == 1
    assert shown() == names[1:]
    marks = figure.locator(".mark-symbol").first
    before = marks.inner_html()
    select.focus()
    page.keyboard.press("ArrowDown")
    sync_api.expect(compare.locator("tbody:visible .head")).to_have_text(f"against {names[1]}")
    assert shown() == [name for name in names if name != names[1]]
    page.wait_for_timeout(100)
    assert figure.locator(".mark-symbol").first.inner_html() != before
    page.close()


def test_a_sweep_without_an_untuned_model_draws_without_a_message(browser: Any, tmp_path: Path) -> None:
    runs = []
    for rate in (1e-3, 1e-2, 1e-1):
        for seed in (0, 1):
            train = {"learning_rate": rate, "steps": 60, "batch_size": 16, "seed": seed}
            runs += [
                make_run(TASKS[1], method, seed, train=train, languages=["en", "de", "ru", "ar"])
                for method in (2, 4)
            ]
    rows = [row | {"answer_language": "en"} for run in runs for row in make_predictions(run)]
    report = write_report(
        sections(runs, frame(rows)), as_predictions(frame(rows)), tmp_path / "swept.html", "Swept"
    )
    page = browser.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    open_drawn(page, report)
    draw_all(page)
    captions = page.locator("figcaption").all_inner_texts()
    assert any("by learning rate" in text for text in captions)
    assert "Language of the answers, where it could be identified" in captions
    assert messages == []
    page.close()
