"""A few real predictions of each language, methods side by side, chosen where they went wrong."""

from typing import Any

import polars as pl

from crosstune.analysis.groups import family_order, language_or_none
from crosstune.report.sections import Section, language_name

PER_LANGUAGE = 3
RIGHT_TO_LEFT = frozenset(["Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm", "Rohg", "Mand", "Samr"])


def samples(section: Section, predictions: pl.DataFrame) -> list[dict[str, Any]]:
    """Up to three examples of each language on which some method fell short, those methods differ on first.

    One run stands for a method: that of the lowest seed. The choice depends on nothing but the predictions.

    Returns:
        One entry a language, families together: code, name, lang and dir (HTML attributes), wrong (how many
        examples some method got less than fully right), and examples with example, gold, and answers (method,
        prediction, score) in the section's order of methods.
    """
    first = (
        section.scores.sort("seed", "run").group_by("method", maintain_order=True).agg(pl.col("run").first())
    )
    runs = dict(first.select("run", "method").iter_rows())
    own = predictions.filter(pl.col("run").is_in(list(runs))).select(
        "run", "language", "example", "prediction", "gold", "score"
    )
    per_example = own.group_by("language", "example").agg(
        lowest=pl.col("score").min(), spread=pl.col("score").max() - pl.col("score").min()
    )
    wrong = per_example.filter(pl.col("lowest") < 1)
    counts = dict(wrong.group_by("language").len().iter_rows())
    picked = (
        wrong.sort("spread", "example", descending=[True, False])
        .group_by("language", maintain_order=True)
        .head(PER_LANGUAGE)
    )
    rank = {method: place for place, method in enumerate(section.methods)}
    shown: dict[str, dict[str, dict[str, Any]]] = {}
    for row in picked.join(own, on=["language", "example"], maintain_order="left_right").rows(named=True):
        entry = shown.setdefault(row["language"], {}).setdefault(
            row["example"], {"example": row["example"], "gold": row["gold"], "answers": []}
        )
        entry["answers"].append(
            {"method": runs[row["run"]], "prediction": row["prediction"], "score": row["score"]}
        )
    found = []
    for code in family_order(shown):
        examples = list(shown[code].values())
        for example in examples:
            example["answers"].sort(key=lambda answer: rank[answer["method"]])
        found.append(
            {"name": language_name(code), "wrong": counts[code], "examples": examples, **markup(code)}
        )
    return found


def markup(code: str) -> dict[str, str]:
    """HTML's ``lang`` and ``dir`` for text in a language."""
    known = language_or_none(code)
    right_to_left = known is not None and known.script in RIGHT_TO_LEFT
    return {
        "code": code,
        "lang": code if known is None else known.bcp47,
        "dir": "rtl" if right_to_left else "ltr",
    }
