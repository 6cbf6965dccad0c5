"""Charts, each a function from a section's numbers to an Altair chart.

May import `sections`, `text`.
"""

from collections.abc import Callable
from typing import Any

from crosstune.report.figures import differences, rates, scores

FIGURES: dict[str, Callable[..., Any]] = {
    "gap": scores.gap_chart,
    "forest": differences.forest,
    "heatmap": scores.heatmap,
    "differences-by-language": differences.by_language,
    "group-dots": rates.group_chart,
    "group-cells": rates.group_grid,
    "answer-languages": rates.answer_languages,
    "losses": scores.loss_curves,
    "expected-validation": scores.expected_validation,
}
"""By name: each takes a section, what it asks for, and a width."""
