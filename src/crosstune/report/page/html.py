"""The report: one HTML file that opens anywhere, offline, and asks the network for nothing.

Tables are plain HTML and need no JavaScript; charts are Vega-Lite specifications beside an inlined Vega.
The page's Content-Security-Policy runs only its own two scripts, known by their hashes; no request goes out.
"""

import base64
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from crosstune.analysis.predictions import Predictions, as_predictions
from crosstune.claims.judge import Verdict
from crosstune.errors import UserError
from crosstune.files import write_whole
from crosstune.report.contents import across_models
from crosstune.report.findings import overall_finding
from crosstune.report.page.embed import embedded_json
from crosstune.report.page.samples import PER_LANGUAGE, fewer, samples
from crosstune.report.page.settings import settings_view
from crosstune.report.page.views import view
from crosstune.report.sections import Section, sections
from crosstune.report.tables.verdicts import verdicts_view
from crosstune.report.text import percent, visible
from crosstune.store.record import RunRecord

TEMPLATES = Path(__file__).parent / "templates"
SAMPLES_BYTES = 6_000_000


def write_report(
    runs: Sequence[RunRecord],
    predictions: pl.DataFrame | Predictions,
    path: Path,
    title: str,
    *,
    verdicts: Sequence[Verdict] = (),
    scores: pl.DataFrame | None = None,
) -> Path:
    """Write the report of some finished runs.

    Args:
        runs: Records of finished runs.
        predictions: One row an example; see `crosstune.analysis.transfer.language_scores`.
        path: The file to write; missing folders are made. The same input gives the same bytes.
        title: The page's heading.
        verdicts: On claims (`crosstune.claims.judge.judge`); they come first.
        scores: The runs' `crosstune.analysis.transfer.language_scores`, where they are at hand.

    Returns:
        ``path``.

    Raises:
        UserError: No runs, damaged predictions, or a path that cannot be written.
    """
    page = render(runs, predictions, title, verdicts=verdicts, scores=scores)
    try:
        write_whole(path, page)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write the report there ({error.strerror}); name another file"
        ) from error
    return path


def render(
    runs: Sequence[RunRecord],
    predictions: pl.DataFrame | Predictions,
    title: str,
    *,
    verdicts: Sequence[Verdict] = (),
    scores: pl.DataFrame | None = None,
) -> str:
    """The report as text; arguments and errors as `write_report`."""
    given = as_predictions(predictions)
    parts = sections(runs, given, scores)
    every = [run for part in parts for run in part.runs]
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
        verdicts=verdicts_view(verdicts) if verdicts else None,
        models=[
            figure
            for item in across_models(every, pl.concat([part.scores for part in parts]))
            for figure in item.figures()
        ],
        sections=[
            view(number, part) | {"samples": _samples(part, given, SAMPLES_BYTES // len(parts))}
            for number, part in enumerate(parts, 1)
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
