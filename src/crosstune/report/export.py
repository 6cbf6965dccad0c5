"""Figures and tables as files: SVG, PDF and PNG; CSV and LaTeX. Nothing is asked of the network."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert

from crosstune.claims.judge import Verdict
from crosstune.errors import UserError, did_you_mean
from crosstune.files import draft, put
from crosstune.report import lm_eval
from crosstune.report.contents import across_models, across_tasks, contents
from crosstune.report.figures.style import vegalite_version
from crosstune.report.sections import Section
from crosstune.report.tables import latex
from crosstune.report.tables.claims import claims_table
from crosstune.report.tables.paper import over_tasks
from crosstune.report.tables.settings import settings_table
from crosstune.report.text import csv_text, slug
from crosstune.store.record import RunRecord

FIGURES = ("svg", "pdf", "png")
TABLES = ("csv", "tex")
FORMATS = (*FIGURES, *TABLES)
LM_EVAL = "lm-eval"
"""The files of lm-evaluation-harness, which are written when they are asked for."""


def export(
    parts: Sequence[Section],
    runs: Sequence[RunRecord],
    scores: pl.DataFrame,
    verdicts: Sequence[Verdict],
    folder: Path,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Write every figure and table of some results, and of verdicts on claims if there are any.

    The folder gets ``figures`` and ``tables``; files of the same names are replaced. Formats: `FORMATS`.

    Returns:
        The files, in the order they were written.

    Raises:
        UserError: An unknown format, or a folder that cannot be written.
    """
    if unknown := [name for name in formats if name not in (*FORMATS, LM_EVAL)]:
        raise UserError(f'no format "{unknown[0]}"{did_you_mean(unknown[0], (*FORMATS, LM_EVAL))}')
    written: list[Path] = []

    def write(place: str, write_to: Callable[[Path], object]) -> None:
        file = folder / place
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with draft(file) as path:
                write_to(path)
                put(path, file)
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror}); name another folder") from error
        written.append(file)

    named = [(f"{name}-", contents(part)) for name, part in zip(section_names(parts), parts, strict=True)]
    named.append(("", [*across_models(runs, scores), *across_tasks(scores)]))
    for form in (name for name in FIGURES if name in formats):
        for start, items in named:
            for item in items:
                if item.chart is not None:
                    draw = functools.partial(save, item.chart(item.width), form=form)
                    write(f"figures/{start}{item.id}.{form}", draw)
    tables = {
        start + item.id: item.table() for start, items in named for item in items if item.table is not None
    }
    if verdicts:
        tables["verdicts"] = claims_table(verdicts)
    tables["all-tasks"], tables["settings"] = over_tasks(parts), settings_table(parts)
    for name, table in tables.items():
        if "csv" in formats:
            write(f"tables/{name}.csv", _writer(csv_text(table.data)))
        if "tex" in formats:
            write(f"tables/{name}.tex", _writer(latex.table(table, name)))
    harness = [lm_eval.files_of(part) for part in parts if LM_EVAL in formats]
    for name, files in zip(section_names(parts), harness, strict=False):
        for path, text in files:
            write(f"{LM_EVAL}/{name}/{path.as_posix()}", _writer(text))
    if "tex" in formats:
        write("tables/all.tex", _writer(latex.document(list(tables))))
    return written


def save(chart: Any, file: Path, form: str) -> None:
    """Draw a chart of Altair into a file ("svg", "pdf", or "png" at twice the size), dark on white."""
    spec = chart.to_dict()
    spec["config"] = {**spec.get("config", {}), "background": "white", "font": "Liberation Sans"}
    version = vegalite_version()
    if form == "svg":
        file.write_text(vl_convert.vegalite_to_svg(spec, vl_version=version), encoding="utf-8")
    elif form == "pdf":
        file.write_bytes(vl_convert.vegalite_to_pdf(spec, vl_version=version))
    else:
        file.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=version, scale=2))


def section_names(parts: Sequence[Section]) -> list[str]:
    """A file name for each section, unique: its task and model, and a number where two share these."""
    bases = [slug(part.task, part.model) for part in parts]
    earlier = [bases[:place].count(base) for place, base in enumerate(bases)]
    return [f"{base}-{count + 1}" if count else base for base, count in zip(bases, earlier, strict=True)]


def _writer(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text, encoding="utf-8")
