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
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task, two methods, four languages; questions are kept."""
    runs = [make_run(TASKS[0], method, 0, languages=["en", "de", "ru", "ar"]) for method in (2, 4)]
    rows = [row | {"prompt": f"Question {row['example']}?"} for run in runs for row in make_predictions(run)]
    file = tmp_path_factory.mktemp("small") / "report.html"
    return write_report(sections(runs, frame(rows)), as_predictions(frame(rows)), file, "Small")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def messages_of(page: Any) -> list[str]:
    """All that the page will say: messages, errors, dialogs."""
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: messages.append(f"dialog {dialog.message}"))
    return messages


@pytest.mark.parametrize("width", [1280, 390])
def test_report_draws_without_a_message_or_a_request(browser: Any, report: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
    messages = messages_of(page)
    requested: list[str] = []
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


CONTRAST = """([a, b]) => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const linear = parts.map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const [dim, bright] = [light(a), light(b)].sort((x, y) => x - y);
  return (bright + 0.05) / (dim + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_drawn_stands_out(browser: Any, small: Path, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    messages = messages_of(page)
    open_drawn(page, small)
    draw_all(page)
    assert messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    fill = "(nodes) => nodes.map((node) => getComputedStyle(node).fill)"
    cells = page.locator("figure[data-content=heatmap]")
    rects = cells.locator(".mark-rect.role-mark path").evaluate_all(fill)
    texts = cells.locator(".mark-text.role-mark text").evaluate_all(fill)
    numbers = texts[: len(rects)]
    assert len(rects) == len(numbers) == 4 * 2
    assert min(page.evaluate(CONTRAST, pair) for pair in zip(rects, numbers, strict=True)) >= 4.5
    names = page.locator("figure .role-axis-label text").evaluate_all(fill)
    marks = page.locator("figure .mark-symbol.role-mark path").evaluate_all(fill)
    for colour in {*names, *marks} - {"none"}:
        assert page.evaluate(CONTRAST, [ground, colour]) >= 4.5, colour
    page.close()


def test_a_reader_picks_families_scripts_and_methods(browser: Any, report: Path) -> None:
    page = browser.new_page()
    open_drawn(page, report)
    section = page.locator("section[id^=s]").first
    figure = section.locator("figure[data-content=heatmap]")
    figure.scroll_into_view_if_needed()
    sync_api.expect(figure).to_have_attribute("data-drawn", "")
    rects = figure.locator(".mark-rect.role-mark path")
    assert rects.count() == 24 * 5
    bar = section.locator("[data-filter]")
    bar.locator("select[data-by=family]").select_option("Indo-European")
    sync_api.expect(rects).not_to_have_count(24 * 5)
    assert rects.count() > 2 * 5
    sync_api.expect(figure.locator("text", has_text="Indo-European")).to_have_count(1)
    bar.locator("select[data-by=script]").select_option("Cyrillic")
    sync_api.expect(rects).to_have_count(1 * 5)  # Russian
    assert "1 of 24 languages" in bar.inner_text()
    # The family's name stands at its first language here, which is not its first of all.
    sync_api.expect(figure.locator("text", has_text="Indo-European")).to_have_count(1)
    bar.locator("summary").click()
    bar.get_by_label("none", exact=True).uncheck()
    sync_api.expect(rects).to_have_count(4)
    section.locator("details[data-scores] > summary").click()
    table = section.locator("table[data-content=languages]")
    assert table.locator("tbody tr:visible th").all_inner_texts() == ["Russian"]
    assert not table.locator("thead th", has_text="none").is_visible()
    bar.locator("select[data-by=family]").select_option("")
    bar.locator("select[data-by=script]").select_option("")
    sync_api.expect(rects).to_have_count(24 * 4)
    page.close()


def test_wide_tables_fold_and_say_that_they_go_on(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    open_drawn(page, report)
    box = page.locator(".scroll", has=page.locator("table[data-content=transfer]")).nth(1)
    assert box.get_attribute("data-wide") is None
    assert not box.get_by_text("Rates tried").is_visible()
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator("[data-more]").nth(1).check()
    sync_api.expect(box).to_have_attribute("data-wide", "")
    assert box.get_by_text("Rates tried").is_visible()
    page.close()


def test_printed_nothing_is_missing(browser: Any, small: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 300})
    open_drawn(page, small)
    assert page.locator("figure[data-drawn]").count() < page.locator("figure").count()
    page.pdf(format="A4")
    assert page.locator("figure[data-drawn]").count() == page.locator("figure").count() > 5
    assert page.locator("[data-examples] table").count() > 0
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 900})  # A4 in CSS pixels, less its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    page.close()


def test_a_dark_page_is_drawn_for_paper_before_it_is_printed(browser: Any, small: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.add_init_script("window.print = () => document.documentElement.dataset.called = ''")
    open_drawn(page, small)
    label = page.locator("figure[data-ground=dark] svg .role-axis-label text").first
    on_dark = label.get_attribute("fill")
    page.locator("[data-print]").click()
    page.locator("html[data-called]").wait_for(state="attached")
    count = page.locator("figure").count()
    assert page.locator("figure[data-ground=light] svg").count() == count
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    label = page.locator("figure svg .role-axis-label text").first
    assert label.get_attribute("fill") != on_dark
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    sync_api.expect(page.locator("figure[data-ground=dark]")).to_have_count(count)
    sync_api.expect(label).to_have_attribute("fill", on_dark)
    page.close()


def test_charts_follow_the_colour_scheme(browser: Any, small: Path) -> None:
    page = browser.new_page(color_scheme="light")
    open_drawn(page, small)
    label = page.locator("figure svg .role-axis-label text").first
    light = label.get_attribute("fill")
    page.emulate_media(color_scheme="dark")
    sync_api.expect(label).not_to_have_attribute("fill", light)
    page.close()


def test_a_heading_sorts_from_the_keyboard(browser: Any, report: Path) -> None:
    page = browser.new_page()
    open_drawn(page, report)
    table = page.locator("table[data-content=languages]").first
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


# As a reader picks one after the other: what stands in the table then.
EVERY_LANGUAGE = """(drill) => {
  const pick = drill.querySelector('[data-pick="language"]');
  return [...pick.options].flatMap((option) => {
    pick.value = option.value;
    for (const name of ['input', 'change']) pick.dispatchEvent(new Event(name, {bubbles: true}));
    return [...drill.querySelectorAll('td bdi')].map((node) => node.innerText);
  });
}"""


def test_hostile_answers_are_text(browser: Any, report: Path) -> None:
    page = browser.new_page()
    messages = messages_of(page)
    open_drawn(page, report)
    shown = set()
    for drill in page.locator("[data-drill]").all():
        drill.scroll_into_view_if_needed()
        shown |= set(drill.evaluate(EVERY_LANGUAGE))
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
    messages = messages_of(page)
    open_drawn(page, report)
    draw_all(page)
    captions = page.locator("figcaption").all_inner_texts()
    assert any("by learning rate" in text for text in captions)
    assert "Language of the answers, where it could be identified" in captions
    assert messages == []
    page.close()
