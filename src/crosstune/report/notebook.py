"""Figures and tables of results in a notebook, by the ids of `crosstune.report.contents`."""

from collections.abc import Sequence
from html import escape
from typing import Any

import polars as pl

from crosstune.analysis.curves import curve
from crosstune.analysis.groups import Grouping
from crosstune.errors import UserError, did_you_mean
from crosstune.report.contents import WIDTH, Item, contents
from crosstune.report.figures import scores as charts
from crosstune.report.figures.curves import curves
from crosstune.report.findings import finding
from crosstune.report.sections import Section
from crosstune.report.tables.tables import transfer
from crosstune.report.text import GROUPINGS, slug, visible
from crosstune.store.record import RunRecord

Chart = Any


def as_html(sections: Sequence[Section]) -> str:
    """The transfer table of each section as HTML, with its finding; every text in it is inert."""
    parts = []
    for section in sections:
        columns = [column for column in transfer(section).shown("page") if not column.more]
        head = "".join(f"<th>{escape(column.title)}</th>" for column in columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in zip(*(column.cells for column in columns), strict=True)
        )
        about = escape(
            " · ".join(visible(part) for part in (section.task, section.model, section.note) if part)
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        parts.append(f"<h4>{about}</h4>{table}<p>{escape(visible(finding(section), 1000))}</p>")
    return "".join(parts)


class Charts:
    """Charts as Altair objects, to show or to change; of results with several tasks or models, name which."""

    def __init__(self, sections: Sequence[Section], runs: Sequence[RunRecord], scores: pl.DataFrame) -> None:
        self._sections = sections
        self._runs = runs
        self._scores = scores

    def heatmap(
        self,
        task: str | None = None,
        model: str | None = None,
        *,
        metric: str = "score",
        width: int | None = None,
    ) -> Chart:
        """Language by method, families together.

        Args:
            task: Needed where the results have several.
            model: Likewise.
            metric: "score", or a recorded metric such as "exact" or "in_source_language".
            width: In pixels.

        Raises:
            UserError: No such task, model or metric, or several to choose from.
        """
        part = self._section(task, model)
        column = metric if metric == "score" else f"metric.{metric}"
        if column not in part.languages.columns:
            known = [name.removeprefix("metric.") for name in part.languages.columns if "metric." in name]
            raise UserError(f'{part.task}: no metric "{metric}"{did_you_mean(metric, ["score", *known])}')
        return charts.heatmap(part, column, width or 240 + 56 * len(part.methods))

    def ids(self, task: str | None = None, model: str | None = None) -> list[str]:
        """What there is to `draw` and to `table`; arguments as `heatmap`."""
        return [item.id for item in contents(self._section(task, model))]

    def draw(
        self, name: str, task: str | None = None, model: str | None = None, *, width: int | None = None
    ) -> Chart:
        """The figure of an id, such as "in-source-language-by-family"; other arguments as `heatmap`."""
        item = self._item(name, task, model)
        if item.chart is None:
            raise UserError(f'"{name}" is a table: results.charts.table("{name}")')
        return item.chart(width or item.width)

    def table(self, name: str, task: str | None = None, model: str | None = None) -> pl.DataFrame:
        """The table of an id, such as "transfer", in full precision; other arguments as `heatmap`."""
        item = self._item(name, task, model)
        if item.table is None:
            raise UserError(f'"{name}" is a figure: results.charts.draw("{name}")')
        return item.table().data

    def gap(self, task: str | None = None, model: str | None = None, *, width: int = WIDTH) -> Chart:
        """Source score, mean over targets, and the gap between them; arguments as `heatmap`."""
        return self.draw("gap", task, model, width=width)

    def groups(
        self, by: Grouping, task: str | None = None, model: str | None = None, *, width: int | None = None
    ) -> Chart:
        """Means by family, branch, script, resource, seen_script or macroarea; others as `heatmap`."""
        if by not in GROUPINGS:
            raise UserError(f'no grouping "{by}"{did_you_mean(by, GROUPINGS)}')
        return self.draw(slug(by), task, model, width=width)

    def differences(self, task: str | None = None, model: str | None = None, *, width: int = WIDTH) -> Chart:
        """Every method against the reference, with intervals (a forest plot); arguments as `heatmap`."""
        return self.draw("differences", task, model, width=width)

    def losses(self, task: str | None = None, model: str | None = None, *, width: int = WIDTH) -> Chart:
        """Training loss by step, one line a run; arguments as `heatmap`."""
        return self.draw("losses", task, model, width=width)

    def curve(self, setting: str = "learning_rate") -> Chart:
        """Score and language of answers by a setting that was swept.

        Raises:
            UserError: No run has a number for the setting.
        """
        return curves(curve(self._runs, self._scores, setting), setting)

    def _item(self, name: str, task: str | None, model: str | None) -> Item:
        part = self._section(task, model)
        items = {item.id: item for item in contents(part)}
        if name not in items:
            raise UserError(f'{part.task}: no figure or table "{name}"{did_you_mean(name, items)}')
        return items[name]

    def _section(self, task: str | None, model: str | None) -> Section:
        matches = [
            part
            for part in self._sections
            if task in (None, part.task)
            and (model is None or model in (part.model, part.model.split("/")[-1]))
        ]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            wrong, known = (
                (task, {part.task for part in self._sections})
                if task is not None and not any(part.task == task for part in self._sections)
                else (model, {part.model for part in self._sections})
            )
            raise UserError(f'no results of "{wrong}"{did_you_mean(str(wrong), known)}')
        choices = "; ".join(
            " ".join(text for text in (part.task, part.model, part.note) if text) for part in matches
        )
        raise UserError(f"several sets of results: {choices}; name the task and the model of one")
