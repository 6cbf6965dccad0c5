"""Means over groups of target languages: by family, branch, script, resource class or macro-area."""

import functools
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import polars as pl

from crosstune.analysis.transfer import COMPARISON, ROW, comparable, seed_means
from crosstune.errors import UserError, did_you_mean
from crosstune.languages.table import Language, find, order_by_family

Grouping = Literal["family", "branch", "script", "resource", "macroarea"]

UNKNOWN = "unknown"

_NAME: dict[str, Callable[[Language], str | None]] = {
    "family": lambda language: language.family,
    "branch": lambda language: language.branch,
    "script": lambda language: language.script,
    "resource": lambda language: None if language.resource is None else f"class {language.resource}",
    "macroarea": lambda language: language.macroarea,
}


@functools.cache
def language_or_none(code: str) -> Language | None:
    """The language table's row of a code, or None: results in an unlisted language are still results."""
    try:
        return find(code)
    except UserError:
        return None


def family_order(codes: Iterable[str]) -> list[str]:
    """Codes with the languages of a family side by side; those the language table lacks at the end."""
    unique = sorted(set(codes))
    listed = [code for code in unique if language_or_none(code) is not None]
    return order_by_family(listed) + [code for code in unique if language_or_none(code) is None]


def group_of(code: str, by: Grouping) -> str:
    """The group a language belongs to; "unknown" where the language table does not say."""
    language = language_or_none(code)
    return (_NAME[by](language) if language is not None else None) or UNKNOWN


def group_means(scores: pl.DataFrame, by: Grouping, column: str = "score") -> pl.DataFrame:
    """Mean score of each method in each group of target languages, unweighted over languages.

    Seeds are averaged first; only languages common to every run of a comparison count, and never the source.

    Args:
        scores: From `crosstune.analysis.transfer.language_scores`.
        by: What to group by.
        column: ``score`` or a ``metric.<name>``; languages without the metric do not count.

    Returns:
        One row per model, task, protocol, method and group: group (text), languages (how many), codes
        (which), score (mean of the column, in [0, 1]), lowest and highest of a language; groups with
        more languages first, "unknown" last; resource classes in order.

    Raises:
        UserError: ``by`` names no grouping.
    """
    if by not in _NAME:
        raise UserError(f'no grouping "{by}"{did_you_mean(by, get_args(Grouping))}')
    means = seed_means(comparable(scores).filter(~pl.col("is_source"))).filter(pl.col(column).is_not_null())
    codes = means["language"].unique().to_list()
    places = pl.DataFrame(
        {"language": codes, "group": [group_of(code, by) for code in codes]},
        schema={"language": pl.String, "group": pl.String},
    )
    grouped = (
        means.join(places, on="language", maintain_order="left")
        .group_by(*ROW, "method", "group")
        .agg(
            languages=pl.len(),
            codes=pl.col("language").sort(),
            lowest=pl.col(column).min(),
            highest=pl.col(column).max(),
            score=pl.col(column).mean(),
        )
    )
    size = [] if by == "resource" else [-pl.col("languages").cast(pl.Int64)]
    return grouped.sort(*COMPARISON, pl.col("group") == UNKNOWN, *size, "group", "method")
