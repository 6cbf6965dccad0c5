"""Whether two setups differ in more than the method, and what each was given."""

import json
from collections.abc import Iterator

from crosstune.claims.choose_runs import NoRunsError, Setup
from crosstune.claims.file import Claim, Pick

SPEED = frozenset(
    ("seed", "tokens_per_pass", "by_length", "gradient_checkpointing", "reuse_frozen_layers", "dev_limit")
)
"""Training settings that change how fast a run is, or rounding."""

RECIPE = frozenset(("weight_decay", "warmup_steps", "decay", "clip", "loss", "evaluate_every", "patience"))
"""Training settings that may be a method's own: a difference is shown, and does not keep from comparing."""


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


def effort(a: Setup, b: Setup, *, held_out: bool = True) -> str:
    """What each of two setups was given besides the method, where several rates were tried or it differs.

    ``held_out`` says that seeds which chose among unequally many rates are not among those compared.
    """
    parts = []
    if a.tried == b.tried > 1:
        parts.append(f"best of {a.tried} rates each")
    elif a.tried != b.tried:
        without = ", without the seed that chose" if held_out else ""
        parts.append(f"{_rates(a)} against {_rates(b)}{without}")
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
    yield from _unequal("training_data", _short(one.fingerprints.train), _short(other.fingerprints.train))
    for name in sorted({*one.train, *other.train} - SPEED - {"learning_rate"}):
        yield from _unequal(name, one.train.get(name), other.train.get(name))


def _unequal(name: str, one: object, other: object) -> Iterator[tuple[str, object, object]]:
    if one != other:
        yield name, "none" if one is None else one, "none" if other is None else other


def _short(fingerprint: object) -> str:
    values = fingerprint.values() if isinstance(fingerprint, dict) else [json.dumps(fingerprint)]
    return " ".join(str(value)[:6] for value in values)
