"""Selects the runs of a claim, and one setup if several match: never the best on test data."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from crosstune.analysis.transfer import canonical, measured
from crosstune.claims.file import Claim, Pick
from crosstune.store.record import RunRecord


class NoRunsError(Exception):
    """Why a claim cannot be judged: no runs, or several setups and no rule to choose one."""


@dataclass(frozen=True)
class Setup:
    """Runs that differ only in the seed."""

    model: str
    task: str
    protocol: str
    setup: str
    label: str
    examples: int
    runs: tuple[RunRecord, ...]
    # Of how many settings this is the best by score on development data; 1 if none were searched.
    tried: int = 1
    selected_on: frozenset[int] = frozenset()  # seeds whose scores chose it

    @property
    def first(self) -> RunRecord:
        """One run, for properties that all of them share."""
        return self.runs[0]

    def __str__(self) -> str:
        return self.label


def setups(runs: Sequence[RunRecord], scores: pl.DataFrame) -> list[Setup]:
    """The setups of a table of scores (`crosstune.analysis.transfer.language_scores`)."""
    by_id = {run.id: run for run in runs}
    keys = ["model", "task", "protocol", "setup", "method"]
    rows = (
        scores.group_by(keys)
        .agg(run=pl.col("run").unique().sort(), examples=pl.col("n").sum() // pl.col("run").n_unique())
        .sort(keys)
        .rename({"method": "label", "run": "runs"})
    )
    return [
        Setup(**row | {"runs": tuple(by_id[run_id] for run_id in row["runs"])}) for row in rows.to_dicts()
    ]


def same_model(wanted: str, name: str) -> bool:
    """Whether a run's model is the one asked for: by its name, or by the last part of a path."""
    names = wanted.rstrip("/"), name.rstrip("/")
    return names[0] == names[1] or names[0].split("/")[-1].casefold() == names[1].split("/")[-1].casefold()


def of_claim(claim: Claim, setups: Iterable[Setup]) -> list[Setup]:
    """The setups that a claim does not rule out before methods are looked at."""
    return [
        setup
        for setup in setups
        if setup.first.zero_shot == claim.zero_shot
        and says(setup.first.task.options, claim.options)
        and says(setup.first.evaluate, claim.evaluate)
    ]


def matching(pick: Pick, setups: Iterable[Setup]) -> list[Setup]:
    """The setups of a method whose settings are as picked."""
    return [setup for setup in setups if selects(pick, setup.runs)]


def selects(pick: Pick, runs: Sequence[RunRecord]) -> bool:
    """Whether runs that differ only in the seed are as picked."""
    first = runs[0]
    return (
        first.method.name == pick.name
        and says(first.method.entries(), pick.settings)
        and says(first.train or {}, pick.train)
        and (
            pick.most_parameters is None
            or max(run.trained_parameters or 0 for run in runs) <= pick.most_parameters
        )
    )


def pair(one: Pick, other: Pick, candidates: Sequence[Setup]) -> tuple[Setup, Setup]:
    """The setups to compare on one model and task.

    Of two that were searched unequally, one seed chooses, and `crosstune.claims.fairness.FairPairs` tests the
    others.

    Raises:
        NoRunsError: They share no protocol, or several setups match and no rule says which.
    """
    a, b = matching(one, candidates), matching(other, candidates)
    protocol = _one_protocol({setup.protocol for setup in a} & {setup.protocol for setup in b}, [*a, *b])
    sides = [[setup for setup in side if setup.protocol == protocol] for side in (a, b)]
    first, second = (choose(pick, side) for pick, side in zip((one, other), sides, strict=True))
    if first.tried != second.tried:
        first, second = (_held_out(pick, side) for pick, side in zip((one, other), sides, strict=True))
    if first.setup == second.setup:
        raise NoRunsError(f"both sides of the claim are {first.label}: say what sets them apart")
    return first, second


def _held_out(pick: Pick, matches: Sequence[Setup]) -> Setup:
    """The setup that one seed chooses, with its other seeds."""
    chosen = choose(pick, matches, one_seed=True)
    left = tuple(run for run in chosen.runs if run.seed not in chosen.selected_on)
    if not left:
        raise NoRunsError(
            f"{chosen.label} is the best of {chosen.tried} settings by its only seed: add seeds that took no "
            "part in the choice"
        )
    return replace(chosen, runs=left)


def variants(pick: Pick, setting: str, candidates: Sequence[Setup]) -> list[tuple[Any, Setup]]:
    """The setups of one method on one model and task by the value of a setting, in the values' order.

    Raises:
        NoRunsError: Fewer than two values, or something else differs as well.
    """
    matches = matching(pick, candidates)
    values = {setup.setup: _setting(setup, setting) for setup in matches}
    matches = [setup for setup in matches if values[setup.setup] is not None]
    # The best of a search is no value of its own beside those that were given.
    matches = [setup for setup in matches if not any(run.search for run in setup.runs)] or matches
    protocols = {setup.protocol for setup in matches}
    protocol = _one_protocol(protocols, matches) if protocols else ""
    matches = [setup for setup in matches if setup.protocol == protocol]
    distinct = {_text(values[setup.setup]): values[setup.setup] for setup in matches}
    if len(distinct) < 2:
        raise NoRunsError(f"{len(distinct)} value of {setting} among the runs of {pick}: two are needed")
    if len(matches) > len(distinct):
        names = ", ".join(sorted(setup.label for setup in matches))
        raise NoRunsError(
            f"ambiguous: something else than {setting} differs ({names}); add settings of {pick.name}"
        )
    return sorted(((values[setup.setup], setup) for setup in matches), key=lambda item: _order(item[0]))


def choose(pick: Pick, matches: Sequence[Setup], *, one_seed: bool = False) -> Setup:
    """The setup that stands for a method in a comparison.

    Of several, the one whose learning rate was searched on development data; else, where every run recorded
    its score on source-language development data, the best by that (of all seeds, or of one seed that every
    setup has). Test scores take no part.

    Raises:
        NoRunsError: Neither rule says which.
    """
    of_search = [setup for setup in matches if all(run.search for run in setup.runs)]
    left = of_search if of_search and len(matches) > 1 else list(matches)
    if len(left) == 1:
        return searched(left[0])
    shared = set.intersection(*({run.seed for run in setup.runs} for setup in left))
    seeds = {min(shared)} if one_seed and shared else {run.seed for setup in left for run in setup.runs}
    scored = {setup.setup: _dev_score(setup, seeds) for setup in left}
    known = {key: score for key, score in scored.items() if score is not None}
    if len(known) == len(left):
        best = max(known.values())
        first = [setup for setup in left if scored[setup.setup] == best]
        if len(first) == 1:
            tried = sum(searched(setup).tried for setup in left)
            return replace(first[0], tried=tried, selected_on=frozenset(seeds))
    names = ", ".join(sorted(setup.label for setup in left))
    raise NoRunsError(
        f"ambiguous: {len(left)} setups of {pick} ({names}); say which, as train: {{learning_rate: 1e-3}}, "
        "or search the rate on development data"
    )


def searched(setup: Setup) -> Setup:
    """A setup with what its own search says: how many rates, and the seed that chose."""
    tried = max((len(run.search.runs) for run in setup.runs if run.search), default=1)
    if tried < 2:
        return setup
    chose = {run.search.seed for run in setup.runs if run.search and run.search.seed is not None}
    # Older records do not say; there a run that took over the search's weights does, or else the first seed.
    chose = chose or {run.seed for run in setup.runs if run.cost.train_from is not None}
    return replace(setup, tried=tried, selected_on=frozenset(chose or {min(run.seed for run in setup.runs)}))


def _one_protocol(shared: set[str], setups: Sequence[Setup]) -> str:
    """The protocol with most examples a run, if they differ in their test examples alone."""
    if not shared:
        raise NoRunsError("the two methods were scored under different protocols, which are never compared")
    if len(shared) == 1:
        return next(iter(shared))
    kinds: set[str] = set()
    size: dict[str, int] = {}
    for setup in setups:
        if setup.protocol in shared:
            kinds.add(canonical(measured(setup.first)))
            size[setup.protocol] = max(size.get(setup.protocol, 0), setup.examples)
    if len(kinds) > 1:
        raise NoRunsError(
            f"ambiguous: {len(shared)} protocols of other options or scoring; add options: or evaluate:"
        )
    return max(sorted(size), key=lambda protocol: size[protocol])


def says(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a record has these settings."""
    return all(key in recorded and _text(recorded[key]) == _text(value) for key, value in wanted.items())


def _text(value: Any) -> str:
    """Values as text, so that 1 and 1.0 are one number and lists are told apart."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))


def _setting(setup: Setup, name: str) -> Any:
    train = setup.first.train or {}
    return train[name] if name in train else setup.first.method.settings.get(name)


def _dev_score(setup: Setup, seeds: Collection[int]) -> float | None:
    """Mean over some seeds of the score that training kept its weights by; None where a run has none."""
    scores = [run.dev_score for run in setup.runs if run.seed in seeds]
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known and len(known) == len(scores) else None
