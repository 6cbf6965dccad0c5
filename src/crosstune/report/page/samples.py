"""Real predictions of each language, methods side by side: few enough to carry, chosen to show every kind.

All texts pass `visible` here, before they reach the page.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from crosstune.analysis.groups import family_order
from crosstune.analysis.predictions import Predictions
from crosstune.languages.table import lookup
from crosstune.report.sections import Section
from crosstune.report.text import embedded_json, language_name, visible

PER_LANGUAGE = 12
MOST_OF_PROMPT = 400
KINDS = ("differ", "wrong", "right")
RIGHT_TO_LEFT = frozenset(["Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm", "Rohg", "Mand", "Samr"])


def samples(section: Section, predictions: Predictions, most_bytes: int) -> dict[str, Any]:
    """What the page shows of `side_by_side`: as many examples a language as fit, one at least.

    Returns:
        json (embedded), languages, methods and most (examples a language).
    """
    entries = side_by_side(section, predictions)
    for most in (PER_LANGUAGE, 8, 5, 3, 2, 1):
        cut = [entry | {"examples": entry["examples"][:most]} for entry in entries["languages"]]
        text = embedded_json(entries | {"languages": cut})
        if len(text.encode()) <= most_bytes:
            break
    return entries | {"json": text, "most": most}


def side_by_side(section: Section, predictions: Predictions) -> dict[str, Any]:
    """Up to `PER_LANGUAGE` examples of each language, with the answer of every method.

    One run stands for a method: that of the lowest seed. Examples on which methods differ come first, most
    first, then one that none got fully right, then one that all did, and so on in turn. The choice depends on
    nothing but the predictions.

    Returns:
        methods (labels in the section's order) and languages: one entry a language, families together, with
        code, name, lang and dir (HTML attributes), counts (how many examples are of each kind of `KINDS`, and
        ``all``) and examples: id, gold, prompt (its end, where the question is), texts (distinct answers), of
        (index of each method's answer in texts; -1 where it was not asked) and scores (of each method, out of
        100, or None).
    """
    first = section.scores.sort("seed", "run").group_by("method", maintain_order=True).first()
    runs = dict(first.select("method", "run").iter_rows())
    order = [runs[method] for method in section.methods]
    picked, counts = _picked(order, predictions)
    shown: dict[str, dict[str, dict[str, Any]]] = {}
    for language, example in picked.select("language", "example").iter_rows():
        shown.setdefault(language, {})[example] = {
            "id": visible(example, 60),
            "gold": "",
            "prompt": "",
            "texts": [],
            "of": [-1] * len(order),
            "scores": [None] * len(order),
        }
    keys = ["language", "example"]
    for place, run_id in enumerate(order):
        texts = picked.join(predictions.texts(run_id), on=keys, how="inner")
        scored = texts.join(predictions.scores(run_id).select(*keys, "score"), on=keys, how="left")
        if "prompt" not in scored.columns:  # of an older run, or one told to keep none
            scored = scored.with_columns(prompt=pl.lit(None, pl.String))
        answers = scored.select(*keys, "prediction", "gold", "score", "prompt").iter_rows()
        for language, example, prediction, gold, score, prompt in answers:
            entry, text = shown[language][example], visible(prediction)
            entry["prompt"] = entry["prompt"] or visible((prompt or "")[-MOST_OF_PROMPT:], MOST_OF_PROMPT)
            if text not in entry["texts"]:
                entry["texts"].append(text)
            entry["gold"] = visible(gold)
            entry["of"][place] = entry["texts"].index(text)
            entry["scores"][place] = round(100 * score)
    return {
        "methods": [visible(method, 80) for method in section.methods],
        "languages": [
            {
                "name": visible(language_name(code), 60),
                "counts": counts[code],
                "examples": list(shown[code].values()),
                **markup(code),
            }
            for code in family_order(shown)
        ],
    }


def markup(code: str) -> dict[str, str]:
    """HTML's ``lang`` and ``dir`` for text in a language."""
    known = lookup(code)
    right_to_left = known is not None and known.script in RIGHT_TO_LEFT
    return {
        "code": visible(code, 30),
        "lang": visible(code, 30) if known is None else known.bcp47,
        "dir": "rtl" if right_to_left else "ltr",
    }


def _picked(runs: Sequence[str], predictions: Predictions) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
    """The examples to show (language, example), in order, and how many there are of each kind."""
    score = pl.col("score")
    tally: pl.DataFrame | None = None
    for run_id in runs:
        scores_of_run = predictions.scores(run_id).select(
            "language", "example", lowest=score, highest=score, sum=score, squares=score**2, n=pl.lit(1)
        )
        tally = scores_of_run if tally is None else _added(tally, scores_of_run)
    assert tally is not None
    kinds = tally.with_columns(
        spread=(pl.col("squares") / pl.col("n") - (pl.col("sum") / pl.col("n")) ** 2).round(9),
        kind=pl.when(pl.col("lowest") >= 1)
        .then(pl.lit("right"))
        .when(pl.col("highest") > pl.col("lowest"))
        .then(pl.lit("differ"))
        .otherwise(pl.lit("wrong")),
    )
    counts: dict[str, dict[str, int]] = {}
    for language, kind, count in kinds.group_by("language", "kind").len().iter_rows():
        entry = counts.setdefault(language, {"all": 0} | dict.fromkeys(KINDS, 0))
        entry[kind] = count
        entry["all"] += count
    turn = pl.col("kind").replace_strict({kind: i for i, kind in enumerate(KINDS)}, return_dtype=pl.Int64)
    picked = (
        kinds.sort("language", "spread", "example", descending=[False, True, False])
        .with_columns(rank=pl.int_range(pl.len()).over("language", "kind"))
        # Two that differ for each one of the other kinds.
        .with_columns(
            rank=pl.when(pl.col("kind") == "differ").then(pl.col("rank") // 2).otherwise(pl.col("rank"))
        )
        .sort("language", "rank", turn, "example")
        .group_by("language", maintain_order=True)
        .head(PER_LANGUAGE)
    )
    return picked.select("language", "example"), counts


def _added(tally: pl.DataFrame, scores_of_run: pl.DataFrame) -> pl.DataFrame:
    keys = ["language", "example"]
    if tally.height == scores_of_run.height and tally.select(keys).equals(scores_of_run.select(keys)):
        return tally.select(
            *keys,
            lowest=pl.min_horizontal("lowest", scores_of_run["lowest"]),
            highest=pl.max_horizontal("highest", scores_of_run["highest"]),
            sum=pl.col("sum") + scores_of_run["sum"],
            squares=pl.col("squares") + scores_of_run["squares"],
            n=pl.col("n") + scores_of_run["n"],
        )
    return (
        pl.concat([tally, scores_of_run])
        .group_by(keys)
        .agg(pl.col("lowest").min(), pl.col("highest").max(), pl.col("sum", "squares", "n").sum())
    )
