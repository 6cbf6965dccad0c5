"""Rates of answers in the wrong language, from what each written answer was identified as.

Rates are over the answers with an identified language; the share without one is a separate rate, over all.
The wrong-language failure of zero-shot generation: Vu et al. 2022 (arXiv 2205.12647), Chirkova and Nikoulina
2024 (arXiv 2402.12279).
"""

import polars as pl

from crosstune.metrics.language_id import MIXED, UNDECIDABLE, identify

CORRECT = "metric.correct_language"
SOURCE = "metric.in_source_language"
SWITCHED = "metric.code_switch"
UNDECIDED = "metric.undecidable_language"
SCORE_IF_CORRECT = "metric.score_in_correct_language"
RATES = (CORRECT, SOURCE, SWITCHED, UNDECIDED, SCORE_IF_CORRECT)


def with_answer_language(predictions: pl.DataFrame, source: dict[str, str]) -> pl.DataFrame:
    """Add a column for each rate, whose mean over examples is the rate.

    Args:
        predictions: One row an example, with columns run, language, score and ``answer_language`` (null for
            choices); without that column the table comes back as it is.
        source: Source language of each run.

    Returns:
        The table with `CORRECT`, `SOURCE` (null for the source language's own examples), `SWITCHED` (these
        null where undecidable), `UNDECIDED`, and `SCORE_IF_CORRECT` (the score, null unless in the right
        language; its mean is over other examples for each method, and no corpus score).
    """
    if "answer_language" not in predictions.columns:
        return predictions
    label = pl.col("answer_language")
    decided = label.is_not_null() & (label != UNDECIDABLE)
    source_language = pl.col("run").replace_strict(source, default=None, return_dtype=pl.String)
    in_target = decided & (pl.col("language") != source_language)
    return predictions.with_columns(
        pl.when(decided).then((label == pl.col("language")).cast(pl.Float64)).alias(CORRECT),
        pl.when(in_target).then((label == source_language).cast(pl.Float64)).alias(SOURCE),
        pl.when(decided).then((label == MIXED).cast(pl.Float64)).alias(SWITCHED),
        pl.when(label.is_not_null()).then((label == UNDECIDABLE).cast(pl.Float64)).alias(UNDECIDED),
        pl.when(label == pl.col("language")).then(pl.col("score")).alias(SCORE_IF_CORRECT),
    )


def relabel(predictions: pl.DataFrame, source: dict[str, str]) -> pl.DataFrame:
    """Labels of today's rules in place of those that written answers were stored with; no model is needed.

    Args:
        predictions: One row an example, with columns run, language, prediction and ``answer_language``.
        source: Source language of each run.

    Returns:
        The same rows; what has no label (choices) gets none.
    """
    if "answer_language" not in predictions.columns:
        return predictions
    label = pl.col("answer_language")
    labelled = predictions.with_columns(source=pl.col("run").replace_strict(source, return_dtype=pl.String))
    texts = labelled.filter(label.is_not_null()).select("prediction", "language", "source").unique()
    new = pl.Series("new", [identify(*row) for row in texts.iter_rows()], dtype=pl.String)
    on = ["prediction", "language", "source"]
    joined = labelled.join(texts.with_columns(new), on=on, how="left", maintain_order="left")
    return joined.with_columns(answer_language=pl.when(label.is_not_null()).then("new")).select(
        predictions.columns
    )
