"""Solved examples in front of a prompt, for few-shot prompting without tuning."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest

from crosstune.data.example import Example
from crosstune.errors import UserError


def pick_exemplars(train: list[Example], k: int, seed: int) -> list[Example]:
    """Draw ``k`` training examples with ``seed``; for a choice task as evenly over the answers as possible.

    Raises:
        UserError: ``k`` is negative or larger than the split.
    """
    if not 0 <= k <= len(train):
        raise UserError(
            f"few-shot asks for {k} exemplars; the training split has {len(train)}: give 0 to {len(train)}"
        )
    draw = random.Random(seed)
    shuffled = draw.sample(train, len(train))
    by_answer: dict[str, list[Example]] = {}
    for example in shuffled:
        by_answer.setdefault(example.answers[0] if example.choices else "", []).append(example)
    rounds = chain.from_iterable(zip_longest(*map(reversed, by_answer.values())))
    picked = list(islice(filter(None, rounds), k))
    # The rounds above run through the answers in one order; a model would learn the order.
    draw.shuffle(picked)
    return picked


def with_exemplars(
    examples: Sequence[Example], exemplars: Sequence[Example], separator: str = "\n\n"
) -> Sequence[Example]:
    """The same examples, their prompts preceded by the exemplars, each as ``prompt + " " + answer``."""
    if not exemplars:
        return examples
    shown = "".join(f"{shot.prompt} {shot.answers[0]}{separator}" for shot in exemplars)
    return [replace(example, prompt=shown + example.prompt) for example in examples]
