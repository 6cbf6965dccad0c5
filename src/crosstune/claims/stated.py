"""Claims on how a study is set up, checked against run.json: its languages, learning rates, sizes, data."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from crosstune.claims.choose_runs import NoRunsError, same_model, says, selects
from crosstune.claims.file import Claim
from crosstune.config.counts import parse_count
from crosstune.errors import UserError, did_you_mean
from crosstune.store.record import RunRecord

_FACTS = ("source_language", "trained_parameters", "model_parameters", "dtype", "quantize", "revision")
SETUP = ("languages", "learning_rates", "train_examples", "train_data", *_FACTS)
"""What a claim can state besides the settings of a method and of training."""

_DIGITS = re.compile(r"[0-9]+(?:\.([0-9]+))?\s*([KMB]?)", re.IGNORECASE)
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}


def as_stated(claim: Claim, runs: Sequence[RunRecord]) -> tuple[bool, str, tuple[str, ...]]:
    """Whether all runs that a claim is about are set up as it states.

    Returns:
        That, in how many runs and where not, and the ids of the runs.

    Raises:
        NoRunsError: A model, task or method that the claim names has no run.
    """
    assert claim.setup is not None
    selected = list(_selected(claim, runs))
    for wanted in claim.model or ():
        if not any(same_model(wanted, run.model) for run in selected):
            raise NoRunsError(f"no runs of {wanted}")
    for wanted in claim.task or ():
        if not any(wanted == run.task.name for run in selected):
            raise NoRunsError(f"no runs of {wanted}")
    for pick in claim.method:
        if not any(selects(pick, [run]) for run in selected):
            raise NoRunsError(f"no runs of {pick}")
    wrong = [(run, text) for run in selected if (text := _first_difference(run, claim.setup)) is not None]
    ids = tuple(run.id for run in selected)
    if not wrong:
        return True, f"so in all {len(ids)} runs", ids
    first, text = wrong[0]
    return (
        False,
        f"not so in {len(wrong)} of {len(ids)} runs: {first.label} on {first.task.name} has {text}",
        ids,
    )


def _selected(claim: Claim, runs: Sequence[RunRecord]) -> Iterator[RunRecord]:
    for run in runs:
        if claim.model is not None and not any(same_model(name, run.model) for name in claim.model):
            continue
        if claim.task is not None and run.task.name not in claim.task:
            continue
        if claim.method and not any(selects(pick, [run]) for pick in claim.method):
            continue
        if run.zero_shot == claim.zero_shot and says(run.task.options, claim.options):
            yield run


def _first_difference(run: RunRecord, setup: Mapping[str, Any]) -> str | None:
    for key, wanted in setup.items():
        value = _value(run, key)
        if value is not None and not _same(key, value, wanted):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            return f"{key.replace('_', ' ')} {shown}"
    return None


def _value(run: RunRecord, key: str) -> Any:
    """What a run's record says; None where it has no such thing, as an untuned model has no learning rate."""
    train = run.train or {}
    if key == "languages":
        return sorted(run.languages)
    if key == "learning_rates":
        searched = [score["learning_rate"] for score in run.search.scores] if run.search else []
        return sorted(searched) or ([train["learning_rate"]] if "learning_rate" in train else None)
    if key == "train_examples":
        return run.data.train_examples if run.train else None
    if key == "train_data":
        of_train = [source for source in run.data.sources if source.get("split") == "train"]
        texts = (str(text) for source in of_train for name, text in source.items() if name != "split")
        return " ".join(texts) or None
    if key in _FACTS:
        value = getattr(run, key)
        return "none" if value is None and key == "quantize" else value
    return train.get(key, run.method.settings.get(key))


def _same(key: str, value: Any, wanted: Any) -> bool:
    if key == "learning_rates" and not isinstance(wanted, list):
        wanted = [wanted]
    if isinstance(value, list) and isinstance(wanted, list):
        # A rate that was given, not searched, has to be one of those stated.
        within = set(value) <= set(wanted)
        return within if key == "learning_rates" and len(value) == 1 else within and len(value) == len(wanted)
    if key == "train_data":
        return str(wanted).casefold() in str(value).casefold()
    if isinstance(wanted, str) and isinstance(value, int) and (written := _DIGITS.fullmatch(wanted.strip())):
        # "67.5K" is any number that rounds to it.
        unit = _UNITS[written[2].upper()] / 10 ** len(written[1] or "")
        return bool(abs(value - parse_count(wanted, key)) <= unit / 2)
    return bool(value == wanted)


def check_keys(claim: Claim, known: Collection[str], place: str) -> None:
    """Refuse to look for a setting that no run has.

    Raises:
        UserError: One line with the claim's place.
    """
    for key in claim.setup or {}:
        if key not in SETUP and key not in known:
            start = f"{place}: " if place else ""
            raise UserError(f'{start}setup has no "{key}"{did_you_mean(key, [*SETUP, *known])}')
