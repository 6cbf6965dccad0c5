"""Transfer: how much of what was learnt in the source language shows up in the others.

Everything here is a pure function of the runs' settings and the table of predictions; no model, no files.
Two rules keep the numbers honest. Runs are put in one row or one comparison only when they saw the same
test examples under the same task version, options and way of scoring (the ``protocol`` column says which).
And a mean over target languages uses only the languages that every run of a comparison was scored on.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from crosstune.analysis.answer_language import with_answer_language
from crosstune.analysis.predictions import Predictions, as_predictions
from crosstune.data.forms import statistic_of
from crosstune.errors import UserError
from crosstune.metrics.statistic import MEAN, Statistic
from crosstune.store.record import RunRecord

COMPARISON = ["model", "task", "protocol"]
"""Columns inside which methods may be compared."""

ROW = [*COMPARISON, "setup"]
"""Columns that make one row of a results table: its runs differ in nothing but the seed."""

SCORING = (
    *("choices", "max_answer_tokens", "on_too_long", "chat_template", "system_prompt"),
    *("target_language_token", "beams", "length_penalty", "early_stopping"),
)
"""Evaluation settings that change what an answer scores: under others it is another protocol."""

READING = ("head", "pooling", "piece", "two_way")
"""Those that change how a model is read, in training and evaluation: other settings are another setup. What
neither names changes the speed, or the test data."""


def language_scores(runs: Sequence[RunRecord], predictions: pl.DataFrame | Predictions) -> pl.DataFrame:
    """Score every run in every language.

    Args:
        runs: Records of finished runs; a run given twice counts once.
        predictions: One row an example, with columns run, language, example, score, any ``metric.<name>``
            and, of written answers, ``answer_language``. Rows of runs that are not in ``runs`` are left out.
            `Predictions` of a store are read a few runs after the other.

    Returns:
        One row per run and language: run, model, task, protocol, setup, method (unique inside a comparison),
        method_name, random (whether another seed would give other answers), seed, form (of the answers), sums
        (`crosstune.store.record.TaskRecord.sums`),
        measure (the main metric's name), source_language, language, is_source, zero_shot, trained_parameters,
        n (examples), score (`crosstune.data.forms.AnswerForm.statistic`, in [0, 1]: the mean of the main
        metric, or a score of the whole test set), se (its standard error over examples taken as independent;
        null for one example), and the mean of each ``metric.<name>``, those of
        `crosstune.analysis.answer_language` among them.

    Raises:
        UserError: No runs, a run without predictions, an example scored twice, or a score that is no number.
    """
    unique = list({run.id: run for run in runs}.values())
    if not unique:
        raise UserError("no finished runs to analyse: run the study first")
    source = {run.id: run.source_language for run in unique}
    statistics = {run.id: statistic_of(run.task.kind, run.task.metrics[0], run.task.sums) for run in unique}
    reader = as_predictions(predictions)
    means = pl.concat(
        [_mean_scores(with_answer_language(table, source), statistics) for table in reader.tables(source)],
        how="diagonal_relaxed",
    )
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for run_id, language, n in means.select("run", "language", "n").iter_rows():
        counts[run_id][language] = n
    for run in unique:
        if run.id not in counts:
            raise UserError(f"run {run.id} ({run.label}) has no predictions: delete it and run it again")
    protocol = _protocols(unique, counts)
    setup, label = _setups(unique, protocol)
    facts = [
        {
            "run": run.id,
            "model": run.model,
            "task": run.task.name,
            "protocol": protocol[run.id],
            "setup": setup[run.id],
            "method": label[run.id],
            "method_name": run.method.name,
            "random": run.method_facts.random,
            "seed": run.seed,
            "form": run.task.kind,
            "measure": run.task.metrics[0],
            "sums": run.task.sums,
            "source_language": run.source_language,
            "zero_shot": run.zero_shot,
            "trained_parameters": run.trained_parameters,
        }
        for run in unique
    ]
    scores = pl.DataFrame(facts, infer_schema_length=None).join(means, on="run", how="inner")
    return scores.with_columns(is_source=pl.col("language") == pl.col("source_language")).sort(
        *COMPARISON, "method", "seed", "run", "language"
    )


def comparable(scores: pl.DataFrame, inside: Sequence[str] = COMPARISON) -> pl.DataFrame:
    """The rows of `language_scores` in languages that every run of a comparison was scored on.

    The columns ``inside`` make a comparison: fewer where one goes through several models.
    """
    runs = pl.col("run").n_unique().over(inside)
    return scores.filter(pl.col("run").n_unique().over([*inside, "language"]) == runs)


def seed_means(scores: pl.DataFrame) -> pl.DataFrame:
    """One row per method and language: the mean over seeds of score and of every ``metric.<name>``.

    ``sd`` is the standard deviation of the score over seeds (null for one seed), ``seeds`` their number.
    """
    metrics = [name for name in scores.columns if name.startswith("metric.")]
    constant = ["method", "method_name", "measure", "source_language", "is_source", "zero_shot", "n"]
    return (
        scores.group_by(*ROW, "language", maintain_order=True)
        .agg(
            pl.col(constant).first(),
            pl.col("trained_parameters").max(),
            pl.col("score").std().alias("sd"),
            pl.col("score", *metrics).mean(),
            pl.len().alias("seeds"),
        )
        .sort(*COMPARISON, "method", "language")
    )


def transfer(scores: pl.DataFrame) -> pl.DataFrame:
    """Transfer of each method: the source score, the mean over target languages, and the gap between them.

    The mean is unweighted over the ``targets`` languages common to every run of that model, task and
    protocol (``targets_seen`` counts those that any run covers); it is taken for each seed, then averaged.

    Returns:
        One row per model, task, protocol and method, best mean first: method, method_name, measure, seeds,
        source_language, zero_shot, trained_parameters, targets, targets_seen, source, target_mean,
        gap = source - target_mean, relative = target_mean / source (null when the source score is 0), the
        standard deviations over seeds source_sd, target_sd, gap_sd (null for one seed), best_language and
        worst_language among the targets with best_score and worst_score, and ``metric.<name>`` means over
        the same targets of the means over seeds. ``source`` is null when some run lacks the source language.
        Scores are in [0, 1].
    """
    shared = comparable(scores)
    targets = shared.filter(~pl.col("is_source"))
    metrics = [name for name in scores.columns if name.startswith("metric.")]
    run = [*ROW, "run"]
    means = targets.group_by(run).agg(target_mean=pl.col("score").mean())
    per_run = (
        scores.select(run)
        .unique()
        .join(shared.filter("is_source").select(*run, source="score"), on=run, how="left")
        .join(means, on=run, how="left")
        .with_columns(gap=pl.col("source") - pl.col("target_mean"))
        .sort("run")
    )
    rows = per_run.group_by(ROW).agg(
        pl.len().alias("seeds"),
        pl.col("source", "target_mean", "gap").mean(),
        source_sd=pl.col("source").std(),
        target_sd=pl.col("target_mean").std(),
        gap_sd=pl.col("gap").std(),
    )
    ranked = seed_means(targets).sort("score", "language", descending=[True, False])
    extremes = ranked.group_by(ROW, maintain_order=True).agg(
        targets=pl.len(),
        best_language=pl.col("language").first(),
        best_score=pl.col("score").first(),
        worst_language=pl.col("language").last(),
        worst_score=pl.col("score").last(),
        # A rate has no value where no answer was identified: seeds first, then languages, as in every table.
        **{name: pl.col(name).mean() for name in metrics},
    )
    seen = scores.group_by(COMPARISON).agg(
        targets_seen=pl.col("language").filter(~pl.col("is_source")).n_unique()
    )
    names = ["method", "method_name", "measure", "source_language", "zero_shot"]
    described = scores.group_by(ROW).agg(pl.col(names).first(), pl.col("trained_parameters").max())
    return (
        described.join(rows, on=ROW)
        .join(extremes, on=ROW, how="left")
        .join(seen, on=COMPARISON)
        .with_columns(
            pl.col("targets").fill_null(0),
            relative=pl.when(pl.col("source") > 0).then(pl.col("target_mean") / pl.col("source")),
        )
        .sort(*COMPARISON, "target_mean", "method", descending=[False] * 3 + [True, False], nulls_last=True)
    )


def _mean_scores(predictions: pl.DataFrame, statistics: Mapping[str, Statistic]) -> pl.DataFrame:
    """Scores, standard errors and means of metrics of whole runs, by language."""
    metrics = [name for name in predictions.columns if name.startswith("metric.")]
    # Sorted, so that sums round the same way whatever order the rows came in.
    ordered = predictions.sort("run", "language", "example")
    bad = ordered.filter(pl.col("score").is_null() | ~pl.col("score").is_finite())
    if bad.height:
        run, language, example = bad.select("run", "language", "example").row(0)
        raise UserError(f"run {run}, language {language}, example {example!r}: its score is no number")
    means = ordered.group_by("run", "language").agg(
        # An undecided metric (null or NaN) of one example says nothing about the others.
        *[pl.col(name).cast(pl.Float64).fill_nan(None).mean() for name in metrics],
        n=pl.len(),
        distinct=pl.col("example").n_unique(),
        se=pl.col("score").std() / pl.len().sqrt(),
        score=pl.col("score").mean(),
    )
    twice = means.filter(pl.col("distinct") != pl.col("n"))
    if twice.height:
        run, language = twice.select("run", "language").row(0)
        raise UserError(
            f"run {run}, language {language}: an example was scored twice; delete the run, run it again"
        )
    no_mean = [run for run, statistic in statistics.items() if statistic != MEAN]
    rows = [
        (run, language, *_corpus_score(statistics[str(run)], part))
        for (run, language), part in ordered.filter(pl.col("run").is_in(no_mean)).group_by("run", "language")
    ]
    if rows:
        keys = ["run", "language"]
        schema = dict.fromkeys(keys, pl.String) | dict.fromkeys(("score", "se"), pl.Float64)
        means = means.update(pl.DataFrame(rows, schema, orient="row"), keys)
    return means.drop("distinct")


def _corpus_score(statistic: Statistic, predictions: pl.DataFrame) -> tuple[float, float | None]:
    """A score of one run in one language that is no mean over examples, and its standard error.

    Of one example there is none.
    """
    score = statistic.of(predictions)
    if not math.isfinite(score):
        run, language = predictions.select("run", "language").row(0)
        raise UserError(f"run {run}, language {language}: its score is no number")
    values = statistic.per_example(predictions.select(statistic.columns).to_numpy().astype(np.float64))
    return score, float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _protocols(runs: Sequence[RunRecord], counts: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """Run id to protocol key. Runs share a key when nothing says that they saw different test examples.

    Runs may cover different languages. Those of one task version and options are poured, widest first, into
    the first pool whose test data agrees with theirs in every language both have.
    """
    pools: dict[str, list[dict[str, str]]] = defaultdict(list)
    place: dict[str, tuple[str, dict[str, str]]] = {}
    for run in sorted(runs, key=lambda run: (-len(counts[run.id]), run.id)):
        known, kind = run.fingerprints.test, canonical(measured(run))
        # The count is part of the data's identity: a half-written language must not pass for the whole.
        data = {lang: f"{known.get(lang, 'unknown')}/{n}" for lang, n in counts[run.id].items()}
        for pool in pools[kind]:
            if all(pool.get(lang, mark) == mark for lang, mark in data.items()):
                break
        else:
            pool = {}
            pools[kind].append(pool)
        pool.update(data)
        place[run.id] = (kind, pool)
    return {run_id: _digest([kind, pool]) for run_id, (kind, pool) in place.items()}


def measured(run: RunRecord) -> list[Any]:
    """What runs must share for their scores to mean the same, but for the test examples.

    A user's task is its file: an edited one may score otherwise under the same name, version and options.
    """
    task, scoring = run.task, {key: value for key, value in run.evaluate.items() if key in SCORING}
    file = [] if task.file is None else [task.file.get("sha256")]
    of = [task.name, task.version, task.options, run.source_language, scoring, task.metrics[0], task.sums]
    return [*of, *file]


def _setups(runs: Sequence[RunRecord], protocol: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Run id to setup key (shared by runs that differ only in the seed), and to a label unique to it."""
    settings = {run.id: settings_of(run) for run in runs}
    repeats: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for run in runs:
        repeats[run.model, protocol[run.id], _digest(settings[run.id]), run.seed].append(run.id)
    again = {key[:3] for key, ids in repeats.items() if len(ids) > 1}
    for (model, key, digest, _), ids in repeats.items():
        if (model, key, digest) in again:  # Same settings, same seed, twice: not seeds, so never averaged.
            for run_id in ids:
                settings[run_id]["run"] = run_id[:6]
    setup = {run_id: _digest(values) for run_id, values in settings.items()}
    # Two studies may name one setup differently: the run of the lowest id names it for all.
    name: dict[tuple[str, str, str], str] = {}
    same_label: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.id):
        model, key = run.model, protocol[run.id]
        label = name.setdefault((model, key, setup[run.id]), run.label)
        same_label[model, key, label].append(run.id)
    labels: dict[str, str] = {}
    for (_, _, label), ids in same_label.items():
        labels |= told_apart(label, {run_id: settings[run_id] for run_id in ids})
    return setup, labels


def settings_of(run: RunRecord) -> dict[str, Any]:
    """What decides a run's result besides model, task and seed, as flat names to values."""
    flat = {key.replace("_", " "): value for key, value in run.method.entries().items()}
    for key, value in (run.train or {}).items():
        if key != "seed":
            name = key.replace("_", " ")
            flat[f"training {name}" if name in flat else name] = value
    flat |= {f"evaluation {key}": run.evaluate[key] for key in READING if key in run.evaluate}
    flat["dtype"] = run.dtype
    flat["revision"] = run.revision
    if run.quantize is not None:
        flat["quantize"] = run.quantize
    flat["zero-shot"] = run.zero_shot
    if run.unlabelled is not None:
        texts = {code: stage.text for code, stage in run.unlabelled.stages.items()}
        flat["unlabelled text"] = _digest(texts)[:6]
    flat["training data"] = _digest(run.fingerprints.train)[:6]
    return flat


def told_apart(name: str, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of runs of one name: run id to the name with those settings that are not the same for all of them."""
    keys = {key for values in settings.values() for key in values}
    seen = {key: {canonical(values.get(key, "-")) for values in settings.values()} for key in keys}
    apart = sorted(key for key, texts in seen.items() if len(texts) > 1)
    return {
        run_id: ", ".join([name, *(f"{key} {values.get(key, '-')}" for key in apart)])
        for run_id, values in settings.items()
    }


def canonical(value: Any) -> str:
    """One text for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:8]
