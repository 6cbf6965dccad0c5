"""The training examples of one run: all, so many, a share of them, or so many of each label."""

import random
from collections.abc import Sequence

from crosstune.data.example import Example
from crosstune.training.settings import TrainSettings


def draw(examples: Sequence[Example], settings: TrainSettings, seed: int) -> list[Example]:
    """What a run trains on (``limit``, ``per_label`` or all), the same for every method with the same seed.

    Returns:
        At least one example (where there is one), in the order drawn; in their own order if all are taken.
        All examples of a label with fewer than ``per_label``.
    """
    if settings.per_label is not None:
        return _of_each_label(examples, settings.per_label, seed)
    wanted = len(examples)
    if isinstance(settings.limit, float):
        wanted = max(1, round(settings.limit * len(examples)))
    elif settings.limit is not None:
        wanted = settings.limit
    if wanted >= len(examples):
        return list(examples)
    return random.Random(seed).sample(examples, wanted)


def _of_each_label(examples: Sequence[Example], k: int, seed: int) -> list[Example]:
    """K of each label; labels are choices that all questions share."""
    labelled = len({example.choices for example in examples}) == 1 and examples[0].choices
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.answers[0] if labelled else "", []).append(example)
    drawn: list[Example] = []
    generator = random.Random(seed)
    for label in sorted(groups):
        drawn += generator.sample(groups[label], min(k, len(groups[label])))
    generator.shuffle(drawn)
    return drawn
