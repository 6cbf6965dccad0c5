"""Which runs a claim is about, and the rule where several would do: never the best on test data."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from crosstune.analysis.transfer import SCORING
from crosstune.claims.file import Claim, Pick
from crosstune.store.record import RunRecord


class NoRunsError(Exception):
    """Why a claim cannot be judged here: no runs, or several kinds of them and no rule to choose by."""


@dataclass(frozen=True)
class Setup:
    """Runs of one comparison that differ in nothing but the seed."""

    model: str
    task: str
    protocol: str
    setup: str
    label: str
    examples: int
    runs: tuple[RunRecord, ...]

    @property
    def first(self) -> RunRecord:
        """What holds for all of them can be read from one."""
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
    return [Setup(**row | {"runs": tuple(by_id[each] for each in row["runs"])}) for row in rows.to_dicts()]


def same_model(asked: str, there: str) -> bool:
    """Whether a run's model is the one asked for: by its name, or by the last part of a path."""
    names = asked.rstrip("/"), there.rstrip("/")
    return names[0] == names[1] or names[0].split("/")[-1].casefold() == names[1].split("/")[-1].casefold()


def of_claim(claim: Claim, found: Iterable[Setup]) -> list[Setup]:
    """The setups that a claim does not rule out before methods are looked at."""
    return [
        each
        for each in found
        if each.first.zero_shot == claim.zero_shot
        and _says(each.first.task.options, claim.options)
        and _says(each.first.evaluate, claim.evaluate)
    ]


def matching(pick: Pick, found: Iterable[Setup]) -> list[Setup]:
    """The setups of a method whose settings are as picked."""
    return [
        each
        for each in found
        if each.first.method.name == pick.name
        and _says(each.first.method.entries(), pick.settings)
        and _says(each.first.train or {}, pick.train)
        and (pick.most_parameters is None or _parameters(each) <= pick.most_parameters)
    ]


def pair(one: Pick, other: Pick, here: Sequence[Setup]) -> tuple[Setup, Setup]:
    """The setups to compare on one model and task.

    Raises:
        NoRunsError: They share no protocol, or several setups match and no rule says which.
    """
    a, b = matching(one, here), matching(other, here)
    protocol = _one_protocol({each.protocol for each in a} & {each.protocol for each in b}, [*a, *b])
    first = choose(one, [each for each in a if each.protocol == protocol])
    second = choose(other, [each for each in b if each.protocol == protocol])
    if first is second:
        raise NoRunsError(f"both sides of the claim are {first.label}: say what sets them apart")
    return first, second


def variants(pick: Pick, setting: str, here: Sequence[Setup]) -> list[tuple[Any, Setup]]:
    """The setups of one method on one model and task by the value of a setting, in the values' order.

    Raises:
        NoRunsError: Fewer than two values, or something else differs as well.
    """
    there = matching(pick, here)
    values = {each.setup: _setting(each, setting) for each in there}
    there = [each for each in there if values[each.setup] is not None]
    protocols = {each.protocol for each in there}
    protocol = _one_protocol(protocols, there) if protocols else ""
    there = [each for each in there if each.protocol == protocol]
    distinct = {_text(values[each.setup]): values[each.setup] for each in there}
    if len(distinct) < 2:
        raise NoRunsError(f"{len(distinct)} value of {setting} among the runs of {pick}: two are needed")
    if len(there) > len(distinct):
        names = ", ".join(sorted(each.label for each in there))
        raise NoRunsError(
            f"ambiguous: something else than {setting} differs ({names}); add settings of {pick.name}"
        )
    return sorted(((values[each.setup], each) for each in there), key=lambda item: _order(item[0]))


def choose(pick: Pick, there: Sequence[Setup]) -> Setup:
    """The setup that stands for a method in a comparison.

    Of several, the one whose learning rate was searched on development data; else, where every run recorded
    its score on source-language development data, the best by that. Test scores take no part.

    Raises:
        NoRunsError: Neither rule says which.
    """
    if len(there) == 1:
        return there[0]
    searched = [each for each in there if all(run.search for run in each.runs)]
    if len(searched) == 1:
        return searched[0]
    left = searched or list(there)
    scored = {each.setup: _dev_score(each) for each in left}
    known = {key: score for key, score in scored.items() if score is not None}
    if len(known) == len(left):
        best = max(known.values())
        first = [each for each in left if scored[each.setup] == best]
        if len(first) == 1:
            return first[0]
    names = ", ".join(sorted(each.label for each in left))
    raise NoRunsError(
        f"ambiguous: {len(left)} setups of {pick} ({names}); say which, as train: {{learning_rate: 1e-3}}, "
        "or search the rate on development data"
    )


def _one_protocol(shared: set[str], found: Sequence[Setup]) -> str:
    """The protocol with most examples a run, if they differ in their test examples alone."""
    if not shared:
        raise NoRunsError("the two methods were scored under different protocols, which are never compared")
    if len(shared) == 1:
        return next(iter(shared))
    kinds: set[str] = set()
    size: dict[str, int] = {}
    for each in found:
        if each.protocol in shared:
            run = each.first
            scoring = {key: run.evaluate.get(key) for key in SCORING}
            kinds.add(_text([run.task.version, run.task.options, run.source_language, scoring]))
            size[each.protocol] = max(size.get(each.protocol, 0), each.examples)
    if len(kinds) > 1:
        raise NoRunsError(
            f"ambiguous: {len(shared)} protocols of other options or scoring; add options: or evaluate:"
        )
    return max(sorted(size), key=lambda protocol: size[protocol])


def _says(given: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    return all(key in given and _text(given[key]) == _text(value) for key, value in asked.items())


def _text(value: Any) -> str:
    """Values as text, so that 1 and 1.0 are one number and lists are told apart."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))


def _setting(each: Setup, name: str) -> Any:
    train = each.first.train or {}
    return train[name] if name in train else each.first.method.settings.get(name)


def _parameters(each: Setup) -> int:
    return max(run.trained_parameters or 0 for run in each.runs)


def _dev_score(each: Setup) -> float | None:
    """Mean over seeds of the score that training kept its weights by; None where a run has none."""
    best = []
    for run in each.runs:
        scores = [point["score"] for point in run.dev]
        if not scores:
            return None
        best.append(max(scores))
    return sum(best) / len(best)
