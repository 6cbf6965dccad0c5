"""How scores and answer languages move with a setting that was swept: learning rate, length, scale."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from crosstune.analysis.transfer import COMPARISON, canonical, comparable, settings_of, told_apart
from crosstune.errors import UserError
from crosstune.store.record import RunRecord

MODEL_SIZE = "model_parameters"
DATA_SIZE = "train_examples"

FIRST = ("learning_rate", "length", "layers", "rank", MODEL_SIZE, DATA_SIZE)
"""The settings that papers draw, in the order they are drawn in; any other comes after."""

# What moves with a setting of itself, and so does not tell one curve from another (names as in
# `crosstune.analysis.transfer.settings_of`).
_FOLLOWS: dict[str, tuple[str, ...]] = {
    "rank": ("alpha",),
    "limit": ("steps", "epochs"),
    "per_label": ("steps", "epochs"),
    DATA_SIZE: ("limit", "per label", "steps", "epochs"),
    MODEL_SIZE: ("revision", "dtype"),
}

_SIZE = re.compile(r"(?<![a-z0-9.])([0-9]+(?:\.[0-9]+)?)([mb])(?![a-z0-9])")


def value_of(run: RunRecord, setting: str) -> float | None:
    """A run's number for a setting.

    Args:
        run: Its record.
        setting: Of its method ("length", "rank", ...) or training ("learning_rate", ...), or
            "model_parameters" (of the whole model; by its name, such as 8B, where an older record lacks it)
            or "train_examples" (drawn for training).

    Returns:
        None where it has none. ``layers`` is their number, all of the model's where none are named. A
        learning rate that was searched is no setting of the run, but a result of the others.
    """
    method, train = run.method.settings, run.train or {}
    result: Any
    if setting == MODEL_SIZE:
        named = _SIZE.search(run.model.lower())
        result = run.model_parameters or (named and float(named[1]) * {"m": 1e6, "b": 1e9}[named[2]])
    elif setting == DATA_SIZE:
        result = run.data.train_examples if train else None
    elif setting == "layers" and "layers" in method:
        layers = method["layers"]
        result = run.model_layers if layers is None else len(layers) if isinstance(layers, list) else layers
    elif setting == "learning_rate" and run.search:
        result = None
    else:
        result = method[setting] if setting in method else train.get(setting)
    return float(result) if isinstance(result, int | float) and not isinstance(result, bool) else None


def swept(runs: Sequence[RunRecord], scores: pl.DataFrame) -> list[str]:
    """Settings that have several values while all other settings stay the same: those with a curve to draw.

    Returns:
        Names for `curve`, those of `FIRST` first.
    """
    names = {MODEL_SIZE, DATA_SIZE}
    for run in runs:
        names.update(run.method.settings, run.train or {})
    names.discard("seed")
    result = []
    for name in sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name)):
        values: dict[tuple[str, ...], set[float]] = defaultdict(set)
        lines = _lines(runs, scores, name)
        for run in runs:
            value = value_of(run, name)
            if value is not None and run.id in lines:
                values[lines[run.id][0]].add(value)
        if any(len(entry) > 1 for entry in values.values()):
            result.append(name)
    return [name for name in result if DATA_SIZE not in result or name not in ("limit", "per_label")]


def curve(runs: Sequence[RunRecord], scores: pl.DataFrame, setting: str) -> pl.DataFrame:
    """Means over target languages by the value of a setting.

    Only languages that every run of a comparison was scored on are averaged, each with the same weight; seeds
    are averaged after that. Methods that are not trained and do not have the setting have one row, with
    ``value`` null; trained runs without a number for the setting are left out. Of "model_parameters" the
    curve goes through models, and the languages are those that all of them share.

    Scores are those of `crosstune.analysis.transfer.language_scores`; `swept` names the settings that
    vary, such as "learning_rate", and `value_of` says what there is.

    Returns:
        One row per model, task, protocol, line and value: method_name, line (a method with its other settings
        where these differ: a curve's name), seeds, targets (languages), n (examples), measure, score, sd (its
        standard deviation over seeds, null for one), and the mean of every ``metric.<name>`` over the
        languages that have it. Scores are in [0, 1]. ``model`` is null on a curve through models.

    Raises:
        UserError: No run has a number for the setting.
    """
    values = {run.id: value_of(run, setting) for run in runs}
    if not any(value is not None for value in values.values()):
        raise UserError(f"no run has a number for {setting}: there is no curve to draw")
    untrained = {run.id for run in runs if not run.method_facts.trains}
    on_curve = [key for key, value in values.items() if value is not None or key in untrained]
    metrics = [name for name in scores.columns if name.startswith("metric.")]
    inside = _inside(setting)
    lines = _lines(runs, scores, setting)
    targets = comparable(scores, inside).filter(~pl.col("is_source"), pl.col("run").is_in(on_curve))
    drawn = targets.with_columns(
        value=pl.col("run").replace_strict(values, default=None, return_dtype=pl.Float64),
        line=pl.col("run").replace_strict({key: name for key, (_, name) in lines.items()}),
        model=pl.col("model") if "model" in inside else pl.lit(None, pl.String),
    )
    keys = ["model", "task", "protocol", "method_name", "line", "value"]
    # Rates have no value in some languages of some runs: seeds first, then languages, as in every table.
    rates = drawn.group_by([*keys, "language"]).agg(pl.col(metrics).mean()).group_by(keys)
    totals = [pl.col("n").sum(), pl.col("score").mean()]
    targets_of_run = pl.col("language").n_unique().alias("targets")
    per_run = drawn.group_by([*keys, "run"]).agg(pl.col("measure").first(), targets_of_run, *totals)
    shared, spread = pl.col("measure", "targets").first(), pl.col("score").std().alias("sd")
    points = per_run.sort("run").group_by(keys).agg(pl.len().alias("seeds"), shared, spread, *totals)
    means = rates.agg(pl.col(metrics).mean())
    return points.join(means, on=keys, how="left", nulls_equal=True).sort(keys, nulls_last=False)


def _inside(setting: str) -> list[str]:
    """Columns inside which a curve's points may be compared."""
    return [name for name in COMPARISON if name != "model" or setting != MODEL_SIZE]


def _lines(
    runs: Sequence[RunRecord], scores: pl.DataFrame, setting: str
) -> dict[str, tuple[tuple[str, ...], str]]:
    """Run id to the line it is a point of: its key, and its name, unique in a comparison.

    A line's runs have the same method and differ in nothing but the seed, the setting and what follows it.
    """
    inside = _inside(setting)
    place = {key: tuple(rest) for key, *rest in scores.select("run", *inside).unique().iter_rows()}
    moving = {setting.replace("_", " "), *_FOLLOWS.get(setting, ())}
    held: dict[str, Mapping[str, Any]] = {}
    same_method: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for run in runs:
        if run.id not in place:
            continue
        skipped = moving | ({"learning rate"} if run.search else set())
        held[run.id] = {key: value for key, value in settings_of(run).items() if key not in skipped}
        same_method[*place[run.id], run.method.name].append(run.id)
    result = {}
    for (*where, name), ids in same_method.items():
        for key, line in told_apart(name, {key: held[key] for key in ids}).items():
            result[key] = ((*map(str, where), name, canonical(held[key])), line)
    return result
