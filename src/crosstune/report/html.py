"""The report: one HTML file that opens anywhere, offline, and asks the network for nothing.

Tables are plain HTML and need no JavaScript; charts are Vega-Lite specifications beside an inlined Vega.
The page's Content-Security-Policy runs only its own two scripts, known by their hashes; no request goes out.
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import altair as alt
import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from crosstune.analysis.answer_language import CORRECT, SOURCE
from crosstune.analysis.groups import Grouping, family_order, group_means, group_of, language_or_none
from crosstune.analysis.predictions import Predictions, as_predictions
from crosstune.analysis.transfer import Run, comparable
from crosstune.errors import UserError
from crosstune.report import charts
from crosstune.report.samples import PER_LANGUAGE, fewer, samples
from crosstune.report.sections import (
    IN_ENGLISH,
    Section,
    finding,
    group_name,
    language_name,
    overall_finding,
    sections,
)
from crosstune.report.settings import settings_view
from crosstune.report.text import percent, visible, with_sd

TEMPLATES = Path(__file__).parent / "templates"
SAMPLES_BYTES = 6_000_000
# What could end a script element, or a line of it, or is no character at all.
_ACTIVE = re.compile("[<>&\u007f-\u009f\u2028\u2029\ud800-\udfff]")
GROUPINGS: dict[Grouping, str] = {"family": "Family", "script": "Script", "resource": "Resource class"}


def write_report(
    runs: Sequence[Run], predictions: pl.DataFrame | Predictions, path: Path, title: str
) -> Path:
    """Write the report of some finished runs.

    Args:
        runs: Finished runs, as their ``run.json`` holds them.
        predictions: One row an example; see `crosstune.analysis.transfer.language_scores`.
        path: The file to write; missing folders are made. The same input gives the same bytes.
        title: The page's heading.

    Returns:
        ``path``.

    Raises:
        UserError: No runs, damaged predictions, or a path that cannot be written.
    """
    page = render(runs, predictions, title)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot write the report there ({error.strerror}); name another file"
        ) from error
    return path


def render(runs: Sequence[Run], predictions: pl.DataFrame | Predictions, title: str) -> str:
    """The report as text; arguments and errors as `write_report`."""
    given = as_predictions(predictions)
    parts = sections(runs, given)
    vega, own = vega_bundle(), (TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible,
        "percent": percent,
    }
    return environment.get_template("report.html.j2").render(
        title=title,
        finding=overall_finding(parts),
        sections=[
            _view(number, part, given, SAMPLES_BYTES // len(parts)) for number, part in enumerate(parts, 1)
        ],
        settings=settings_view(parts),
        hashes=[_csp_hash(script) for script in (vega, own)],
        vega=Markup(vega),
        script=Markup(own),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
    )


@functools.cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, in the version Altair writes for."""
    wanted = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    known = wanted in vl_convert.get_vegalite_versions()
    bundle: str = vl_convert.javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", vl_version=wanted if known else None
    )
    # Inside a string or a pattern a slash may be escaped; as it stands it would end the script element.
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def embedded_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: no character of it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _samples(section: Section, predictions: Predictions, room: int) -> dict[str, Any]:
    """Real predictions as embedded JSON of at most about ``room`` bytes, one example a language at least."""
    found = samples(section, predictions)
    for most in (PER_LANGUAGE, 8, 5, 3, 2, 1):
        text = embedded_json(fewer(found, most))
        if len(text.encode()) <= room:
            break
    return {"json": text, "languages": found["languages"], "methods": found["methods"], "most": most}


def _csp_hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _view(number: int, section: Section, predictions: Predictions, room: int) -> dict[str, Any]:
    """What the template shows of a section."""
    row = section.table.row(0, named=True)
    top = section.table.filter("zero_shot")["target_mean"].max()
    return {
        "id": f"s{number}",
        "task": section.task,
        "model": section.model,
        "note": section.note,
        "protocol": section.protocol,
        "measure": row["measure"],
        "finding": finding(section),
        "source": section.source,
        "targets": row["targets"],
        "targets_seen": row["targets_seen"],
        "rows": [_method_view(entry, top) for entry in section.table.rows(named=True)],
        "overlap": section.overlap,
        "all_zero_shot": bool(section.table["zero_shot"].all()),
        "shared_texts": section.shared_texts,
        "skipped_rows": section.skipped_rows,
        "has_in_english": section.has_in_english,
        "has_answer_language": section.has_answer_language,
        "charts": _charts(section),
        "methods": section.methods,
        "languages": _language_rows(section),
        "groups": _group_tables(section),
        "samples": _samples(section, predictions, room),
    }


def _method_view(row: dict[str, Any], top: Any) -> dict[str, Any]:
    return row | {
        "best": row["zero_shot"] and row["target_mean"] is not None and row["target_mean"] == top,
        "source_text": with_sd(row["source"], row["source_sd"]),
        "target_text": with_sd(row["target_mean"], row["target_sd"]),
        "gap_text": with_sd(row["gap"], row["gap_sd"]),
        "best_name": None if row["best_language"] is None else language_name(row["best_language"]),
        "worst_name": None if row["worst_language"] is None else language_name(row["worst_language"]),
        "in_english": row.get(IN_ENGLISH),
        "right_language": row.get(CORRECT),
        "source_instead": row.get(SOURCE),
    }


def _charts(section: Section) -> dict[str, list[dict[str, Any]]]:
    """Charts by their place in the page; each with its spec, caption and least readable width in pixels."""
    methods = len(section.methods)
    grid = 210 + 30 * methods
    drawn: dict[str, list[dict[str, Any]]] = {
        "gap": [
            _chart(charts.gap_chart(section), f"{section.source} and the mean of targets, by method", 300)
        ],
        "heatmap": [_chart(charts.heatmap(section), "Score by language and method", grid)],
        "groups": [],
        "more": [],
    }
    if section.table["targets"][0]:
        for by, name in GROUPINGS.items():
            text = f"Mean by {name.lower()} (in brackets: how many target languages)"
            drawn["groups"].append(_chart(charts.group_chart(section, by), text, 300))
    if section.has_in_english:
        drawn["more"].append(
            _chart(
                charts.in_english(section), "Share of answers that are right, but written in English", grid
            )
        )
    if section.has_answer_language:
        text = f"Share of answers in {section.source} instead of the prompt's language"
        drawn["more"].append(_chart(charts.in_source(section), text, grid))
    curves = charts.loss_curves(section)
    if curves is not None:
        drawn["more"].append(_chart(curves, "Training loss, one line a run", 300))
    return drawn


def _chart(chart: alt.Chart | alt.LayerChart, caption: str, least: int) -> dict[str, Any]:
    return {"spec": embedded_json(chart.to_dict()), "caption": caption, "least": least}


def _language_rows(section: Section) -> list[dict[str, Any]]:
    means = section.languages
    shared = set(comparable(section.scores)["language"])
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for row in means.rows(named=True):
        cells.setdefault(row["language"], {})[row["method"]] = row
    rows = []
    for code in family_order(cells):
        known = language_or_none(code)
        some = next(iter(cells[code].values()))
        rows.append(
            {
                "code": code,
                "name": language_name(code),
                "family": group_of(code, "family"),
                "script": group_name("script", group_of(code, "script")),
                "resource": None if known is None else known.resource,
                "n": some["n"],
                "is_source": some["is_source"],
                "shared": code in shared,
                "scores": [cells[code].get(method, {}).get("score") for method in section.methods],
            }
        )
    return rows


def _group_tables(section: Section) -> list[dict[str, Any]]:
    tables = []
    for by in get_args(Grouping):
        found: dict[str, dict[str, Any]] = {}
        for row in group_means(section.scores, by).rows(named=True):
            names = ", ".join(language_name(code) for code in row["codes"])
            entry = found.setdefault(
                row["group"],
                {
                    "group": group_name(by, row["group"]),
                    "languages": row["languages"],
                    "names": names,
                    "scores": {},
                },
            )
            entry["scores"][row["method"]] = row["score"]
        tables.append(
            {"by": GROUPINGS.get(by, by.replace("_", " ").capitalize()), "rows": list(found.values())}
        )
    return tables
