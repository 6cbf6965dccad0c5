"""The report as a reader sees it: drawn by a real browser, offline, without an error."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crosstune.report.html import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser check")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: no browser check", allow_module_level=True)


def open_drawn(page: Any, report: Path) -> None:
    # Not wait_for_function: the page's own policy forbids the code made from a string that it polls with.
    page.goto(report.as_uri())
    page.locator("html[data-drawn]").wait_for(state="attached")


@pytest.fixture(scope="module")
def report(
    runs: list[dict[str, Any]], predictions: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_report(runs, predictions, tmp_path_factory.mktemp("report") / "report.html", "Browser check")


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
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: asked.append(request.url))
    open_drawn(page, report)
    assert page.locator("html").get_attribute("data-drawn") == str(page.locator("figure").count()) == "19"
    assert page.locator("figure svg").count() == 19
    assert said == []
    assert asked == [report.as_uri()]
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
