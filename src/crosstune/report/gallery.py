"""Charts of results for a notebook, and the figures that an export writes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import altair as alt
import polars as pl

from crosstune.analysis.curves import curve, swept
from crosstune.analysis.groups import Grouping
from crosstune.errors import UserError, did_you_mean
from crosstune.report.comparison import references
from crosstune.report.contents import MANY_METHODS
from crosstune.report.figures import differences as difference_charts
from crosstune.report.figures import rates
from crosstune.report.figures import scores as charts
from crosstune.report.figures.curves import curves
from crosstune.report.sections import Section
from crosstune.report.text import GROUPINGS, slug, visible
from crosstune.store.record import RunRecord

Chart = alt.TopLevelMixin
WIDTH = 420


class Gallery:
    """Charts as Altair objects, to show or to change; of results with several tasks or models, name which.

    Args:
        sections: Of the results.
        runs: Their ``run.json``.
        scores: Their `crosstune.analysis.transfer.language_scores`.
    """

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
        return charts.heatmap(part, column, width or _grid(part))

    def gap(self, task: str | None = None, model: str | None = None, *, width: int = WIDTH) -> Chart:
        """Source score, mean over targets, and the gap between them; arguments as `heatmap`."""
        return charts.gap_chart(self._section(task, model), width)

    def groups(
        self, by: Grouping, task: str | None = None, model: str | None = None, *, width: int = WIDTH
    ) -> Chart:
        """Means by family, branch, script, resource, seen_script or macroarea; others as `heatmap`."""
        if by not in GROUPINGS:
            raise UserError(f'no grouping "{by}"{did_you_mean(by, GROUPINGS)}')
        return charts.group_chart(self._section(task, model), by, width)

    def differences(self, task: str | None = None, model: str | None = None, *, width: int = WIDTH) -> Chart:
        """Every method against the reference, with intervals (a forest plot); arguments as `heatmap`."""
        part = self._section(task, model)
        if not references(part) or len(part.methods) < 2:
            raise UserError(f"{part.task}: two methods with a target language in common are needed")
        return difference_charts.forest(part, width)

    def losses(self, task: str | None = None, model: str | None = None, *, width: int = WIDTH) -> Chart:
        """Training loss by step, one line a run; arguments as `heatmap`."""
        part = self._section(task, model)
        drawn = charts.loss_curves(part, width)
        if drawn is None:
            raise UserError(f"{part.task}: no run of it was trained")
        return drawn

    def curve(self, setting: str = "learning_rate") -> Chart:
        """Score and language of answers by a setting that was swept.

        Raises:
            UserError: No run has a number for the setting.
        """
        return curves(curve(self._runs, self._scores, setting), setting)

    def _section(self, task: str | None, model: str | None) -> Section:
        found = [
            part
            for part in self._sections
            if task in (None, part.task)
            and (model is None or model in (part.model, part.model.split("/")[-1]))
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            wrong, known = (
                (task, {part.task for part in self._sections})
                if task is not None and not any(part.task == task for part in self._sections)
                else (model, {part.model for part in self._sections})
            )
            raise UserError(f'no results of "{wrong}"{did_you_mean(str(wrong), known)}')
        there = "; ".join(
            " ".join(each for each in (part.task, part.model, part.note) if each) for part in found
        )
        raise UserError(f"several sets of results: {there}; name the task and the model of one")


def section_figures(part: Section) -> Iterator[tuple[str, Chart]]:
    """Name and chart of every figure of a section."""
    if part.languages.height:
        yield "heatmap", charts.heatmap(part, width=_grid(part))
    yield "gap", charts.gap_chart(part, WIDTH)
    if references(part) and len(part.methods) > 1:
        first = visible(references(part)[0], 60)
        forest = difference_charts.forest(part, WIDTH)
        yield "differences", forest.properties(title=f"Difference from {first}, with 95% interval")
        yield "differences-by-language", difference_charts.by_language(part, references(part)[0], _grid(part))
    if part.table["targets"][0]:
        many = len(part.methods) > MANY_METHODS
        for by in GROUPINGS:
            yield (
                slug(by),
                rates.group_grid(part, by, width=_grid(part))
                if many
                else charts.group_chart(part, by, WIDTH),
            )
    optional: list[tuple[bool, str, Callable[..., Any]]] = [
        (part.has_in_english, "in-english", charts.in_english),
        (part.has_answer_language, "in-source-language", charts.in_source),
    ]
    for there, name, draw in optional:
        if there:
            yield name, draw(part, _grid(part))
    if part.has_answer_language and part.table["targets"][0]:
        yield "answer-languages", rates.answer_languages(part, WIDTH)
    if (losses := charts.loss_curves(part, WIDTH)) is not None:
        yield "losses", losses


def curve_figures(runs: Sequence[RunRecord], scores: pl.DataFrame) -> Iterator[tuple[str, Chart]]:
    """Name and chart of the curve of every setting that was swept."""
    for setting in swept(runs, scores):
        yield f"curve-{slug(setting)}", curves(curve(runs, scores, setting), setting)


def _grid(part: Section) -> int:
    return 240 + 56 * len(part.methods)
