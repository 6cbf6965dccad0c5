"""The report: one HTML file that opens anywhere, offline, and asks the network for nothing.

Tables are plain HTML and need no JavaScript; charts are Vega-Lite specifications beside an inlined Vega.
The page's Content-Security-Policy runs only its own two scripts, known by their hashes; no request goes out.
"""

import base64
import functools
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from crosstune.analysis.predictions import Predictions
from crosstune.claims.judge import Verdict
from crosstune.config.environment import cache_root
from crosstune.errors import UserError
from crosstune.files import write_whole
from crosstune.report.contents import across_models, across_tasks
from crosstune.report.figures.style import ON_DARK, vegalite_version
from crosstune.report.findings import overall_finding
from crosstune.report.page.opening import at_a_glance, facts
from crosstune.report.page.settings import settings_view
from crosstune.report.page.views import drawn, view
from crosstune.report.sections import Section
from crosstune.report.tables.verdicts import verdicts_view
from crosstune.report.text import embedded_json, visible

TEMPLATES = Path(__file__).parent / "templates"
SAMPLES_BYTES = 6_000_000


def write_report(
    parts: Sequence[Section],
    predictions: Predictions,
    path: Path,
    title: str,
    verdicts: Sequence[Verdict] = (),
) -> Path:
    """Write the report of some finished runs to a file, and return its path; missing folders are made.

    Examples to show are read from the predictions; verdicts on claims come last. The same input gives
    the same bytes.

    Raises:
        UserError: Damaged predictions, or a path that cannot be written.
    """
    page = render(parts, predictions, title, verdicts)
    try:
        write_whole(path, page)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write the report there ({error.strerror}); name another file"
        ) from error
    return path


def render(
    parts: Sequence[Section], predictions: Predictions, title: str, verdicts: Sequence[Verdict] = ()
) -> str:
    """The report as text; arguments and errors as `write_report`."""
    runs = [run for part in parts for run in part.runs]
    scores = pl.concat([part.scores for part in parts], how="diagonal")
    models = across_models(runs, scores)
    room = SAMPLES_BYTES // len(parts)
    vega, script = vega_bundle(), (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            facts=facts(parts),
            finding=overall_finding(parts),
            glance=at_a_glance(parts) if len(parts) > 1 else [],
            verdicts=verdicts_view(verdicts) if verdicts else None,
            suite=[(item.id, item.title, item.table()) for item in across_tasks(scores) if item.table],
            models=[figure for item in models for figure in drawn(item)],
            views=[view(number, part, predictions, room) for number, part in enumerate(parts, 1)],
            settings=settings_view(parts),
            hashes=[_csp_hash(text) for text in (vega, script)],
            vega=Markup(vega),
            script=Markup(script),
            colours=embedded_json(ON_DARK),
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    """Keeps its templates: compiling them takes as long as filling in a small report."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


@functools.cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, in the version Altair writes for.

    It is kept between reports, under its versions and with its checksum: making it takes a quarter of the
    time of a small report.
    """
    with suppress(OSError, ValueError, UserError):  # not there, damaged, or no home
        digest, _, bundle = _kept_bundle().read_bytes().decode().partition("\n")
        if digest == _csp_hash(bundle):
            return bundle
    code = "window.vegaEmbed = vegaEmbed;"
    bundle = vl_convert.javascript_bundle(code, vl_version=vegalite_version())
    # Inside a string or a pattern a slash may be escaped; as it stands it would end the script element.
    bundle = bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    with suppress(OSError, UserError):  # nothing can be kept: made again the next time
        write_whole(_kept_bundle(), f"{_csp_hash(bundle)}\n{bundle}")
    return bundle


def _kept_bundle() -> Path:
    return cache_root() / f"vega-{metadata.version('vl-convert-python')}-{vegalite_version()}.js"


def _csp_hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
