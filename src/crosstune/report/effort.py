"""What each method was given: how many settings were tried for it, and what differs besides the method."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from crosstune.analysis.transfer import canonical, settings_of
from crosstune.claims.choose_runs import Setup, searched, setups
from crosstune.claims.fairness import beside_the_method
from crosstune.report.text import visible
from crosstune.store.record import RunRecord


def tried(runs: Sequence[RunRecord], scores: pl.DataFrame) -> dict[str, Setup]:
    """The setup behind each method's label, with how many settings it is the best of."""
    return {setup.label: searched(setup) for setup in setups(runs, scores)}


def unequal(methods: Mapping[str, Setup]) -> list[str]:
    """One line for each setting, besides the method and the learning rate, that is not the same for all."""
    trained = {label: setup for label, setup in methods.items() if setup.first.train is not None}
    values: dict[str, dict[str, list[str]]] = {}
    first = next(iter(trained.values()), None)
    for label, setup in trained.items():
        for name, one, other in beside_the_method(setup, first or setup):
            values.setdefault(name, {}).setdefault(str(other), [first.label if first else label])
            values[name].setdefault(str(one), []).append(label)
    lines = []
    for name, by_value in values.items():
        values_of = "; ".join(
            f"{value}: {', '.join(labels[:3])}" for value, labels in list(by_value.items())[:4]
        )
        lines.append(f"{name.replace('_', ' ')} is not the same for all methods ({values_of})")
    return lines


def seeds_left_out(methods: Mapping[str, Setup]) -> list[str]:
    """Which methods' differences leave out a seed that their means are over."""
    tried = {setup.tried for setup in methods.values()}
    by_seed: dict[str, list[str]] = {}
    for label, setup in methods.items() if len(tried) > 1 else ():
        seeds = {run.seed for run in setup.runs}
        if setup.selected_on & seeds and setup.selected_on < seeds:
            names = ", ".join(map(str, sorted(setup.selected_on & seeds)))
            by_seed.setdefault(names, []).append(visible(label, 60))
    return [
        f"seed {names} chose the rate of {', '.join(labels)}: means are over all seeds, differences from "
        "methods that tried more or fewer rates leave it out"
        for names, labels in by_seed.items()
    ]


def expected_validation(runs: Sequence[RunRecord]) -> pl.DataFrame:
    """The development score to expect of the best of n settings tried, n up to all that were.

    Of n draws with replacement from the N scores found, as in Dodge et al. 2019 (arXiv 1909.03004): the sum
    of each sorted score times (i/N)^n - ((i-1)/N)^n.

    Returns:
        method, tried (n), expected (in [0, 1]) and best (the score of all N); no rows where nothing has two
        settings with a development score.
    """
    by_setup: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        if run.search is not None:
            scores = {float(entry["learning_rate"]): float(entry["dev_score"]) for entry in run.search.scores}
            by_setup[run.label] = {rate: [score] for rate, score in scores.items()}
        elif run.dev_score is not None and "learning_rate" in (run.train or {}):
            other = {key: value for key, value in settings_of(run).items() if key != "learning rate"}
            name = f"{run.method.name} {canonical(other)}"
            rate = float((run.train or {})["learning_rate"])
            by_setup.setdefault(name, {}).setdefault(rate, []).append(run.dev_score)
    rows: list[dict[str, Any]] = []
    for name, by_rate in by_setup.items():
        scores_sorted = sorted(sum(scores) / len(scores) for scores in by_rate.values())
        total = len(scores_sorted)
        if total < 2:
            continue
        for n in range(1, total + 1):
            weights = [((i + 1) / total) ** n - (i / total) ** n for i in range(total)]
            expected = sum(w * score for w, score in zip(weights, scores_sorted, strict=True))
            rows.append(
                {
                    "method": name.partition(" {")[0],
                    "tried": n,
                    "expected": expected,
                    "best": scores_sorted[-1],
                }
            )
    schema = {"method": pl.String, "tried": pl.Int64, "expected": pl.Float64, "best": pl.Float64}
    return pl.DataFrame(rows, schema=schema)
