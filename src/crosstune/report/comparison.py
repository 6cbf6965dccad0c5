"""Paired differences for a report: every method against a few references that the reader can choose."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from crosstune.analysis.statistics.differences import by_language
from crosstune.report.sections import Section

ALPHA = 0.05
MOST_REFERENCES = 8


def references(section: Section) -> list[str]:
    """The methods to compare with: all, or if there are many, the first ones and the untuned ones.

    The first is the best zero-shot one.
    """
    if section.paired is None:
        return []
    ranked = [row["method"] for row in section.ranked]
    every = [*ranked, *(method for method in section.methods if method not in ranked)]
    if len(every) <= MOST_REFERENCES:
        return every
    untuned = [method for method in section.methods if section.of(method)[0].method_facts.untuned][:2]
    chosen = [*every[: MOST_REFERENCES - len(untuned)], *untuned]
    return [method for method in every if method in chosen]


def outcome(row: Mapping[str, Any]) -> str:
    """Whether a is "better" or "worse" than b, or "not significant", by the p value after Holm."""
    if row["p_holm"] >= ALPHA:
        return "not significant"
    return "better" if row["difference"] > 0 else "worse"


def languages_against(section: Section, reference: str) -> pl.DataFrame:
    """Every other method against one, language by language.

    Returns:
        The columns of `crosstune.analysis.statistics.differences.by_language`, with ``method`` in front.
    """
    if section.paired is None:
        return pl.DataFrame(schema={"method": pl.String, "language": pl.String})
    tables = [
        by_language(section.paired, method, reference).select(pl.lit(method).alias("method"), pl.all())
        for method in section.methods
        if method != reference
    ]
    return pl.concat(tables) if tables else pl.DataFrame(schema={"method": pl.String, "language": pl.String})
