import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic import TASKS, frame, make_predictions, make_run

from crosstune.analysis.predictions import as_predictions
from crosstune.analysis.transfer import language_scores, transfer
from crosstune.claims.file import read_claims
from crosstune.claims.judge import Verdict, judge
from crosstune.config.environment import CACHE
from crosstune.errors import UserError
from crosstune.report.findings import finding, leader, overall_finding
from crosstune.report.page import html
from crosstune.report.page.html import render, write_report
from crosstune.report.sections import sections
from crosstune.report.text import embedded_json, points
from crosstune.store.record import RunRecord

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags must nest; collects attributes, text outside scripts and styles, and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data


def shown(
    runs: list[RunRecord], predictions: pl.DataFrame, title: str, verdicts: Sequence[Verdict] = ()
) -> str:
    return render(sections(runs, predictions), as_predictions(predictions), title, verdicts)


def examples_of(page: Page) -> list[dict[str, Any]]:
    found = [json.loads(script) for script in page.scripts if script.startswith('{"methods"')]
    assert len(found) == len(TASKS)
    return [example for data in found for entry in data["languages"] for example in entry["examples"]]


@pytest.fixture(scope="module")
def text(runs: list[dict[str, Any]], predictions: pl.DataFrame) -> str:
    return shown(runs, predictions, "Which <method> carries furthest?")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_page_nests_and_has_one_heading(page: Page) -> None:
    assert page.open == []
    assert [tag for tag, _ in page.tags].count("h1") == 1
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        if tag == "a":
            assert (attrs["href"] or "").removeprefix("#") in ids


def test_page_loads_nothing(page: Page, text: str) -> None:
    for tag, attrs in page.tags:
        assert tag not in {"img", "link", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("href") or "#").startswith("#")
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "script-src 'sha256-" in policy
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_hostile_text_is_shown_and_does_nothing(page: Page, text: str) -> None:
    answers = {text for example in examples_of(page) for text in example["texts"]}
    assert "<script>alert(1)</script>" in answers
    assert any("onerror=alert(1)>" in answer for answer in answers)
    assert "[bold red]markup[/] ⟨U+001B⟩[31mred⟨U+0007⟩ ⟨U+0000⟩ ⟨U+202E⟩gnp.exe" in answers
    assert any("{{ 7 * 7 }}" in answer for answer in answers)
    assert "onerror=alert(1)>" in page.text  # a processor's name
    assert "Which <method> carries furthest?" in page.text
    assert "<b>qa</b>" in page.text
    assert not any(tag == "b" for tag, _ in page.tags)
    assert "3 test examples have a prompt that is also in the training data" in page.text
    assert "\u202e" not in text
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.S)  # Vega's own source may hold controls
    assert not set(outside) & {chr(code) for code in range(32) if chr(code) != "\n"}


def test_long_answers_are_cut_and_counted(page: Page, text: str) -> None:
    assert len(text.encode()) < 3_000_000
    assert "long " * 100 not in text
    assert any("(100,000 characters)" in answer for e in examples_of(page) for answer in e["texts"])


def test_differences_are_in_the_tables(
    page: Page, runs: list[dict[str, Any]], predictions: pl.DataFrame
) -> None:
    flat = " ".join(page.text.split())
    for part in sections(runs, predictions):
        for reference in part.methods:
            for row in part.against(reference).rows(named=True):
                assert f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}".replace("-", "−") in flat
                assert f"{row['wins']} / {row['ties']} / {row['losses']}" in flat
                if row["p"] >= 0.05:
                    assert f"n.s.; 80% power from {100 * row['detectable']:.1f} points" in flat
    assert "95% intervals and p values hold for all 10 pairs of 5 methods together" in flat
    assert not {"±", "≈", " tied"} & {mark for mark in ("±", "≈", " tied") if mark in flat}


def test_numbers_are_in_the_tables(page: Page, runs: list[dict[str, Any]], predictions: pl.DataFrame) -> None:
    flat = " ".join(page.text.split())
    for row in transfer(language_scores(runs, predictions)).rows(named=True):
        assert f"{100 * row['target_mean']:.1f}" in flat
        assert f"{row['trained_parameters']:,}" in flat
    for run in runs:
        assert run.id in flat


def test_charts_are_json_no_text_can_leave(page: Page) -> None:
    specs = [script for script in page.scripts if script.startswith('{"config"')]
    # Gap, forest, scores and differences by language, six groupings, loss; and in English once.
    assert len(specs) == 3 * 11 + 1
    for spec in specs:
        assert "<" not in spec
        assert json.loads(spec)["$schema"]
    value = ["</script><!--", "&\u2028", "<b>", "\ud800 عشرون"]
    assert json.loads(embedded_json(value)) == value
    assert not set("<>&\u2028\ud800") & set(embedded_json(value))
    embedded_json(value).encode()


def test_other_scripts_are_marked_with_their_language(page: Page) -> None:
    data = json.loads(next(script for script in page.scripts if script.startswith('{"methods"')))
    marked = {entry["code"]: (entry["lang"], entry["dir"]) for entry in data["languages"]}
    assert (marked["ar"], marked["zh"]) == (("ar", "rtl"), ("zh-Hans", "ltr"))


def test_same_input_same_bytes(runs: list[dict[str, Any]], predictions: pl.DataFrame, text: str) -> None:
    again = shown(
        runs[::-1], predictions.sample(fraction=1, shuffle=True, seed=1), "Which <method> carries furthest?"
    )
    assert again == text


def test_write_report(tmp_path: Path) -> None:
    run = make_run(TASKS[0], 2, 0)
    predictions = frame(make_predictions(run, 3))
    path = tmp_path / "new" / "report.html"
    parts, read = sections([run], predictions), as_predictions(predictions)
    assert write_report(parts, read, path, "One run") == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(UserError, match="cannot write"):
        write_report(parts, read, tmp_path, "A folder")
    assert path.is_file(), "the folder stays as it was"
    with pytest.raises(UserError, match="no finished runs"):
        sections([], predictions)


def test_finding_says_what_it_rests_on(runs: list[dict[str, Any]], predictions: pl.DataFrame) -> None:
    parts = sections(runs, predictions)
    part = next(part for part in parts if part.task == "topics")
    best = part.table.row(0, named=True)
    said = finding(part)
    assert said.startswith(f"{best['method']} {100 * best['target_mean']:.1f}; ")
    assert "23 target languages, 20 examples each, 2 seeds per method, 5 methods compared" in said
    tests = part.against(best["method"])
    second = tests.row(0, named=True)
    assert second["a"] == part.methods[1]
    low, high = (f"{-100 * second[end]:.1f}".replace("-", "−") for end in ("high", "low"))
    assert f"; {second['a']} {-100 * second['difference']:.1f} lower ({low} to {high}), " in said
    level = tests.filter(pl.col("p") >= 0.05)["a"].to_list()
    assert level
    assert ("n.s." in said) == (second["a"] in level)
    assert "3 comparisons" in overall_finding(parts)
    assert overall_finding([part]) == said


def test_a_clear_leader_is_named_and_a_close_one_is_not() -> None:
    runs = [make_run(TASKS[0], method, seed) for method in (2, 4) for seed in (0, 1, 2)]
    rows = [row for run in runs for row in make_predictions(run, 60)]
    better = {run.id for run in runs if run.label.startswith("lora")}
    for place, row in enumerate(rows):
        row["score"] = float(place % 10 < (9 if row["run"] in better else 3))
    said = finding(sections(runs, frame(rows))[0])
    assert said.startswith("lora r4 q,v 90.0; prefix hidden 10 60.0 lower (")
    assert "p < 0.001" in said
    assert leader(sections(runs, frame(rows))[0]) == "lora r4 q,v"
    for place, row in enumerate(rows):
        row["score"] = float(place % 10 < (6 if row["run"] in better and place % 97 == 0 else 5))
    part = sections(runs, frame(rows))[0]
    said = finding(part)
    least = part.against("lora r4 q,v")["detectable"][0]
    assert f"), n.s.; 80% power from {100 * least:.1f} points." in said
    assert leader(part) is None


def test_level_methods_have_no_leader() -> None:
    runs = [make_run(TASKS[0], method, 0) for method in (2, 4)]
    rows = [row | {"score": 0.5} for run in runs for row in make_predictions(run)]
    said = finding(sections(runs, frame(rows))[0])
    assert said.startswith("Of these two trained models (one seed each, so nothing is said of the methods): ")
    assert "n.s." in said


def test_one_seed_speaks_of_trained_models_however_large_the_difference() -> None:
    runs = [make_run(task, method, 0) for task in TASKS[:2] for method in (2, 4)]
    rows = [
        row | {"score": 0.9 if run.label.startswith("lora") else 0.1}
        for run in runs
        for row in make_predictions(run)
    ]
    parts = sections(runs, frame(rows))
    assert [leader(part) for part in parts] == [None, None]
    assert "p < 0.001" in finding(parts[0])
    assert finding(parts[0]).startswith("Of these two trained models")
    assert overall_finding(parts).startswith("2 sets of trained models, one seed per method")


def test_one_method_or_no_target_is_said_plainly() -> None:
    run = make_run(TASKS[0], 2, 0)
    assert "no other method" in finding(sections([run], frame(make_predictions(run)))[0])
    english = make_run(TASKS[0], 2, 0, languages=["en"])
    predictions = frame(make_predictions(english))
    assert "no transfer to report" in finding(sections([english], predictions)[0])
    assert Page(shown([english], predictions, "English only")).open == []


def test_two_protocols_stand_apart() -> None:
    first, second = make_run(TASKS[0], 2, 0), make_run(TASKS[0], 4, 0)
    second = second.model_copy(update={"task": second.task.model_copy(update={"version": 2})})
    parts = sections([first, second], frame([*make_predictions(first), *make_predictions(second)]))
    assert [part.note.split(",")[0] for part in parts] in (
        ["version 1", "version 2"],
        ["version 2", "version 1"],
    )


CLAIMS = """claims:
  - claim: The <i>first</i> is ahead of no tuning.
    method: {name: lora, rank: 4}
    beats: none
    task: topics
  - claim: Nothing here can say.
    method: full
    beats: none
"""


def test_verdicts_come_last_and_link_to_their_runs(
    runs: list[dict[str, Any]], predictions: pl.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(CLAIMS)
    verdicts = judge(read_claims(file), runs, predictions)
    page = Page(shown(runs, predictions, "Claims", verdicts))
    flat = " ".join(page.text.split())
    assert page.open == []
    assert flat.rindex("Verdicts on claims") > flat.rindex("Transfer by method")
    assert "The <i>first</i> is ahead of no tuning." in flat
    counts = "1 supported, 1" if verdicts[0].verdict == "supported" else "2"
    assert f"Of 2 claims: {counts} not enough data." in flat
    assert verdicts[0].cell.difference is not None
    assert points(verdicts[0].cell.difference) in flat
    assert "1 claim without results Nothing here can say." in flat
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert {f"#run-{run}" for run in verdicts[0].runs} <= links


def test_it_opens_with_what_was_compared_and_found(
    page: Page, runs: list[dict[str, Any]], predictions: pl.DataFrame
) -> None:
    flat = " ".join(page.text.split())
    opening = flat[: flat.index("Transfer by method")]
    assert (
        "tiny on <b>qa</b>, number-words, topics: 5 methods, 24 languages, 2 seeds each"
        in opening.replace("demo:", "")
    )
    for part in sections(runs, predictions):
        best, following = part.ranked[:2]
        test = part.against(best["method"]).row(0, named=True)
        assert test["a"] == following["method"]
        ahead, low, high = (
            f"{-100 * test[key]:+.1f}".replace("-", "−") for key in ("difference", "high", "low")
        )
        assert f"{following['method']}{ahead} ({low} to {high})" in opening  # cells side by side
    foot = [attrs for tag, attrs in page.tags if tag == "tfoot"]
    assert len(foot) == 1, "topics alone has a level of chance"


def test_the_question_stands_with_its_answers() -> None:
    run = make_run(TASKS[0], 2, 0)
    long = "long " * 200 + "<b>Is it?</b>"
    rows = [row | {"prompt": long if row["language"] == "de" else None} for row in make_predictions(run)]
    page = Page(shown([run], frame(rows), "Asked"))
    data = json.loads(next(script for script in page.scripts if script.startswith('{"methods"')))
    prompts = {
        entry["code"]: {example["prompt"] for example in entry["examples"]} for entry in data["languages"]
    }
    assert prompts["de"] == {long[-400:]}
    assert prompts["fr"] == {""}


def test_curves_of_what_was_swept() -> None:
    runs = []
    for place, rate in enumerate((1e-3, 1e-2, 1e-1)):
        for seed in (0, 1):
            train = {"learning_rate": rate, "steps": 60, "batch_size": 16, "seed": seed}
            runs.append(make_run(TASKS[0], 4, seed, train=train, id=f"{place}{seed}".ljust(16, "0")))
    scores = {f"{place}{seed}".ljust(16, "0"): 0.2 + 0.2 * place for place in range(3) for seed in (0, 1)}
    rows = [row | {"score": scores[row["run"]]} for run in runs for row in make_predictions(run)]
    html = shown(runs, frame(rows), "Swept")
    page = Page(html)
    assert "Mean score over targets, by learning rate" in page.text
    specs = [json.loads(script) for script in page.scripts if script.startswith('{"config"')]
    charts = [
        (spec, spec["layer"][0])
        for spec in specs
        if "layer" in spec and spec["layer"][0]["encoding"].get("x", {}).get("title") == "learning rate"
    ]
    [(spec, lines)] = charts
    points_at = spec["datasets"][lines.get("data", spec.get("data"))["name"]]
    drawn = [(point["value"], point["percent"]) for point in points_at]
    assert drawn == [(1e-3, 20.0), (1e-2, 40.0), (1e-1, 60.0)]
    # The same without JavaScript.
    for rate, percent in (("0.001", 20), ("0.01", 40), ("0.1", 60)):
        cells = f'<td>{points_at[0]["method"]}</td><td class="n">{rate}</td><td class="n">{percent}</td>'
        assert html.count(cells) == 1


def test_a_kept_script_that_was_harmed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = html.vega_bundle()
    monkeypatch.setenv(CACHE, str(tmp_path))
    kept = html._kept_bundle()
    kept.write_text(f"{html._csp_hash(wanted)}\n{wanted[:-1]}", encoding="utf-8")
    for made_again in (True, False):
        html.vega_bundle.cache_clear()
        with monkeypatch.context() as without:
            if not made_again:
                without.setattr(html.vl_convert, "javascript_bundle", None)
            assert html.vega_bundle() == wanted
