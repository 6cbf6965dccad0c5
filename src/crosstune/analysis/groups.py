"""Means over groups of target languages: by family, branch, script, resource class, seen script, area.

"Seen script" is about tuning, not about the model: a target's script is seen when it is the script of the
source language, the one that the methods of a comparison were tuned on, and unseen otherwise. Scripts are
those of the language table (ISO 15924), so that romanised Hindi is seen from English and Hindi is not. The
base model will have read most of the unseen scripts. A method that was also trained on other languages
(``zero_shot`` is false) is grouped like those it is compared with, by the source language alone.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import polars as pl

from crosstune.analysis.answer_language import CORRECT, RATES, UNDECIDED
from crosstune.analysis.transfer import COMPARISON, ROW, comparable, seed_means
from crosstune.errors import UserError, did_you_mean
from crosstune.languages.table import lookup, order_by_family

Grouping = Literal["family", "branch", "script", "resource", "seen_script", "macroarea"]

UNKNOWN = "unknown"
ALL = "all"
SEEN, UNSEEN = "seen script", "unseen script"


def family_order(codes: Iterable[str]) -> list[str]:
    """Codes with the languages of a family side by side; those the language table lacks at the end."""
    unique = sorted(set(codes))
    listed = [code for code in unique if lookup(code) is not None]
    return order_by_family(listed) + [code for code in unique if lookup(code) is None]


def group_of(code: str, by: Grouping, source: str = "en") -> str:
    """The group a language belongs to; "unknown" where the language table does not say.

    The source language decides what script is seen.
    """
    if by == "seen_script":
        script, seen = group_of(code, "script"), group_of(source, "script")
        return UNKNOWN if UNKNOWN in (script, seen) else SEEN if script == seen else UNSEEN
    value = getattr(lookup(code), by, None)
    if value is None or value == "":
        return UNKNOWN
    return f"class {value}" if by == "resource" else str(value)


def group_means(scores: pl.DataFrame, by: Grouping) -> pl.DataFrame:
    """Mean score of each method in each group of target languages, unweighted over languages.

    Seeds are averaged first; only languages common to every run of a comparison count, and never the source.
    Scores are those of `crosstune.analysis.transfer.language_scores`.

    Returns:
        One row per model, task, protocol, method and group: group (text), languages (how many), codes
        (which), score (mean, in [0, 1]), lowest and highest language score in the group; groups with
        more languages first, "unknown" last; resource classes in order.

    Raises:
        UserError: ``by`` names no grouping.
    """
    score = pl.col("score")
    return _summed(_grouped(scores, by), by, lowest=score.min(), highest=score.max(), score=score.mean())


def language_rates(scores: pl.DataFrame, by: Grouping | None = None) -> pl.DataFrame:
    """How often each method answers in the right and in the wrong language, by group of target languages.

    Seeds are averaged first, then languages, each with the same weight. The rates are those of
    `crosstune.analysis.answer_language`; all but `UNDECIDED` are over the identified answers.
    Grouped by nothing, all targets are together (group "all").

    Returns:
        One row per model, task, protocol, method and group that has written answers: group, languages (how
        many have written answers), codes (which), decided (number of languages with an identified answer,
        over which the rates are means), examples, and a column for each rate, null if no
        answer was identified. Ordered as `group_means`. No rows where answers are choices.

    Raises:
        UserError: ``by`` names no grouping.
    """
    missing = [name for name in RATES if name not in scores.columns]
    complete = scores.with_columns(pl.lit(None, pl.Float64).alias(name) for name in missing)
    grouped = _grouped(complete, by).filter(pl.col(UNDECIDED).is_not_null())
    decided, rates = pl.col(CORRECT).is_not_null().sum(), {name: pl.col(name).mean() for name in RATES}
    return _summed(grouped, by, decided=decided, examples=pl.col("n").sum(), **rates)


def _grouped(scores: pl.DataFrame, by: Grouping | None) -> pl.DataFrame:
    """Seed means of the targets that every run of a comparison has, with their group."""
    if by is not None and by not in get_args(Grouping):
        raise UserError(f'no grouping "{by}"{did_you_mean(by, get_args(Grouping))}')
    means = seed_means(comparable(scores).filter(~pl.col("is_source"))).sort(*ROW, "language")
    pairs = means.select("language", "source_language").unique()
    names = [ALL if by is None else group_of(code, by, source) for code, source in pairs.iter_rows()]
    places = pairs.with_columns(group=pl.Series(names, dtype=pl.String))
    return means.join(places, on=["language", "source_language"], maintain_order="left")


def _summed(grouped: pl.DataFrame, by: Grouping | None, **sums: pl.Expr) -> pl.DataFrame:
    """A row a method and group, with its languages and some sums over them, in order."""
    table = grouped.group_by(*ROW, "method", "group").agg(
        languages=pl.len(), codes=pl.col("language").sort(), **sums
    )
    size = [] if by == "resource" else [-pl.col("languages").cast(pl.Int64)]
    return table.sort(*COMPARISON, pl.col("group") == UNKNOWN, *size, "group", "method")
