"""All figures of a section by name, each a function of the section, what it asks for, and a width."""

from collections.abc import Callable
from typing import Any

from crosstune.report.figures import differences, rates, scores

FIGURES: dict[str, Callable[..., Any]] = {
    "gap": scores.gap_chart,
    "forest": differences.forest,
    "heatmap": scores.heatmap,
    "differences-by-language": differences.by_language,
    "group-dots": scores.group_chart,
    "group-cells": rates.group_grid,
    "answer-languages": rates.answer_languages,
    "losses": scores.loss_curves,
}
