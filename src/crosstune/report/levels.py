"""What needs no skill: chance, and the most frequent label."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from crosstune.analysis.predictions import Predictions
from crosstune.data.forms import FORMS
from crosstune.report.text import percent
from crosstune.store.record import RunRecord


@dataclass(frozen=True)
class Levels:
    """Scores by the runs' metric, as means over target languages; None where there is no such level."""

    chance: float | None = None  # of picking one of the choices blindly; by macro F1, of the counts expected
    # Of always picking the label that is right most often, where labels are the same for all examples.
    majority: float | None = None

    @property
    def named(self) -> list[tuple[str, float]]:
        """Those that there are, by name."""
        levels_by_name = (("chance", self.chance), ("most frequent label", self.majority))
        return [(name, level) for name, level in levels_by_name if level is not None]

    def __str__(self) -> str:
        return ", ".join(f"{name} {percent(level)}" for name, level in self.named)


def levels(runs: Sequence[RunRecord], reader: Predictions, languages: Collection[str]) -> Levels:
    """The levels of runs that were scored on the same examples, over some languages."""
    table = reader.columns(runs[0].id, ("language", "gold", "choice_logprobs"))
    examples = table.filter(pl.col("language").is_in(list(languages)))
    if examples.is_empty() or not FORMS[runs[0].task.kind].has_choices:
        return Levels()
    gold = pl.col("gold")
    choices = pl.lit(None, pl.Int64)
    if "choice_logprobs" in table.columns and table["choice_logprobs"].dtype != pl.Null:
        choices = pl.col("choice_logprobs").list.len()
    # Where they were not kept, labels that repeat are the choices.
    labels = gold.n_unique().over("language")
    repeat = labels * 2 <= pl.len().over("language")
    examples = examples.with_columns(choices=pl.coalesce(choices, pl.when(repeat).then(labels)))
    examples = examples.filter(pl.col("choices") > 0)
    if examples.is_empty():
        return Levels()
    share = gold.unique_counts() / pl.len()  # of each class that is right at least once
    blind, frequent = (1 / pl.col("choices")).mean(), share.max()
    if (metric := runs[0].task.metrics[0]) == "mcc":
        blind = frequent = pl.lit(0.0)
    elif metric == "macro_f1":
        blind, frequent = (
            (2 * share * blind / (share + blind)).sum() * blind,
            2 * frequent / (1 + frequent) / gold.n_unique(),
        )
    by_language = examples.group_by("language").agg(
        chance=blind, majority=pl.when(gold.n_unique() <= pl.col("choices").max()).then(frequent)
    )
    means = by_language.select("chance", "majority").mean().row(0)
    return Levels(means[0], means[1] if by_language["majority"].null_count() == 0 else None)
