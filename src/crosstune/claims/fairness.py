"""Whether two setups differ in more than the method, what each was given, and the seeds that test them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from crosstune.analysis.statistics.differences import AllPairs, Difference
from crosstune.analysis.statistics.estimand import Estimand
from crosstune.analysis.statistics.pairing import PairedPredictions
from crosstune.analysis.statistics.variance import LanguageEffect
from crosstune.analysis.transfer import READING
from crosstune.claims.choose_runs import NoRunsError, Setup
from crosstune.claims.file import Claim, Pick

SPEED = frozenset(
    ("seed", "tokens_per_pass", "by_length", "gradient_checkpointing", "reuse_frozen_layers", "shard")
) | {"dev_limit"}
"""Training settings that change how fast a run is, or rounding."""

RECIPE = frozenset(("weight_decay", "warmup_steps", "decay", "clip", "loss", "evaluate_every", "patience"))
"""Training settings that may be a method's own: a difference is shown, and does not keep from comparing."""


class FairPairs(AllPairs):
    """All pairs of a comparison; those that were searched unequally are tested without the seeds that chose.

    The best of several settings owes part of its score to luck. Two methods that were searched alike owe the
    same and are tested with all their seeds.

    Args:
        paired: The comparison.
        setups: Its setups by label, with how many settings each is the best of.
        of: What is estimated, as `AllPairs`; likewise
        language_effect: and
        draws: of the bootstrap; and
        small: with few answers.
    """

    def __init__(
        self,
        paired: PairedPredictions,
        setups: Mapping[str, Setup],
        of: Estimand | Sequence[str] | None = None,
        *,
        language_effect: LanguageEffect = "random",
        draws: int = 0,
        small: bool = False,
    ) -> None:
        super().__init__(paired, of, language_effect=language_effect, draws=draws, small=small)
        self._setups = setups
        self._of = of

    def pair(self, a: str, b: str) -> Difference:
        """One pair; see `AllPairs.pair`."""
        return super().pair(a, b) if self._equal(a, b) else self._held_out.pair(a, b)

    def predictions(self, a: str, b: str) -> PairedPredictions:
        """What a pair is tested on."""
        return self.paired if self._equal(a, b) else self._held_out.paired

    def _equal(self, a: str, b: str) -> bool:
        one, other = (self._setups[self.paired.known(name)] for name in (a, b))
        return one.tried == other.tried

    @cached_property
    def _held_out(self) -> AllPairs:
        chose = {label: setup.selected_on for label, setup in self._setups.items()}
        return AllPairs(
            self.paired.without(chose),
            self._of,
            language_effect=self.language_effect,
            draws=self._draws,
            small=self.small,
        )


def refuse_unequal(claim: Claim, pick: Pick, a: Setup, b: Setup) -> None:
    """Refuse to compare setups of other models, data or amounts of training, unless the claim names these.

    Raises:
        NoRunsError: The first difference, and what to write.
    """
    assert claim.against is not None
    accepted = {*claim.despite, *pick.train, *claim.against.train} | RECIPE
    for name, one, other in beside_the_method(a, b):
        if name not in accepted:
            shown = name.replace("_", " ")
            raise NoRunsError(
                f"{a.label} and {b.label} differ in more than the method: {shown} {one} against {other}; if "
                f"the claim is about that, add despite: [{name}]"
            )


def effort(a: Setup, b: Setup) -> str:
    """What each of two setups was given besides the method, where several rates were tried or it differs."""
    parts = []
    if a.tried == b.tried > 1:
        parts.append(f"best of {a.tried} rates each")
    elif a.tried != b.tried:
        left = all(any(run.seed not in side.selected_on for run in side.runs) for side in (a, b))
        seed = "without the seed that chose" if left else "tested with the seed that chose"
        parts.append(f"{_rates(a)} against {_rates(b)}, {seed}")
    parts += [
        f"{name.replace('_', ' ')} {one} against {other}" for name, one, other in beside_the_method(a, b)
    ]
    return "; ".join(parts)


def _rates(setup: Setup) -> str:
    if setup.first.train is None:
        return "no training"
    return "one rate" if setup.tried == 1 else f"best of {setup.tried} rates"


def beside_the_method(a: Setup, b: Setup) -> Iterator[tuple[str, object, object]]:
    """What differs besides the method and the learning rate: name, of a, of b."""
    one, other = a.first, b.first
    for name in ("revision", "dtype", "quantize"):
        yield from _unequal(name, getattr(one, name), getattr(other, name))
    if one.train is None or other.train is None:
        return
    for name in READING:
        yield from _unequal(name, one.evaluate.get(name), other.evaluate.get(name))
    yield from _unequal("training_data", _short(one.fingerprints.train), _short(other.fingerprints.train))
    for name in sorted({*one.train, *other.train} - SPEED - {"learning_rate"}):
        yield from _unequal(name, one.train.get(name), other.train.get(name))


def _unequal(name: str, one: object, other: object) -> Iterator[tuple[str, object, object]]:
    if one != other:
        yield name, "none" if one is None else one, "none" if other is None else other


def _short(fingerprint: object) -> str:
    values = fingerprint.values() if isinstance(fingerprint, dict) else [json.dumps(fingerprint)]
    return " ".join(str(value)[:6] for value in values)
