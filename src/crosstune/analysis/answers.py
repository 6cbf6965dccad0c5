"""What a run's answers are alike: all one and the same, or all those of another method."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import polars as pl

from crosstune.analysis.predictions import Predictions

FEWEST = 10
"""Examples of which one and the same answer, or all answers of another method, are no accident."""


class Answers(NamedTuple):
    """A run's answers in one language."""

    examples: int  # how many
    key: int  # a hash of them; another run's is the same if all its answers are
    constant: bool  # whether they are one and the same, and the right ones are not
    wrong: bool  # whether one of them is


def answers_of(run_id: str, reader: Predictions) -> dict[str, Answers]:
    """A run's answers by language; nothing where only scores were kept."""
    table = reader.columns(run_id, ("language", "example", "prediction", "gold", "score"))
    if "prediction" not in table.columns:
        return {}
    by_language = table.group_by("language").agg(
        examples=pl.len(),
        key=pl.struct("example", "prediction").hash().sum(),
        constant=(pl.col("prediction").n_unique() == 1) & (pl.col("gold").n_unique() > 1),
        wrong=(pl.col("score") < 1).any(),
    )
    return {code: Answers(*row) for code, *row in by_language.iter_rows()}


def signature(answers: Mapping[str, Answers], languages: Collection[str]) -> tuple[Any, ...] | None:
    """What two methods have in common only if one of them may not have been attached to the model.

    None where they may agree without that: all answers are right, or one and the same, or few, or not kept.
    """
    chosen = [answers[code] for code in sorted(languages) if code in answers]
    telling = any(answer.wrong and not answer.constant for answer in chosen)
    if len(chosen) < len(languages) or sum(answer.examples for answer in chosen) < FEWEST or not telling:
        return None
    return tuple(answer[:2] for answer in chosen)


ALIKE = "give the same answers to all examples: one may not have been attached, or hardly been trained"
"""What is said of methods with one signature."""
