"""What the methods of a user's Python task return, checked at once: no mistake becomes a score."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unicodedata import normalize

from crosstune.data.example import MOST_CHOICES, Example, fair_order
from crosstune.data.forms import form_of
from crosstune.errors import UserError
from crosstune.languages.table import find
from crosstune.metrics.corpus import CORPUS
from crosstune.tasks.base import Task, TaskOptions

SCORED = 20
"""Examples of a test split whose right answer is scored as soon as they are read."""


class Wrong(Exception):  # noqa: N818 - told by the caller, who knows the file and the line
    """What a method returned cannot be used; the text says why."""


def initialised(task: Task, value: Any, *arguments: Any) -> None:
    """What `Task` itself sets up is there."""
    if not hasattr(task, "sources"):
        raise Wrong("should call super().__init__(options)")
    if not isinstance(task.options, TaskOptions):
        raise Wrong(f"should hand on the options it was given; found {_shown(task.options)}")


def languages(task: Task, value: Any) -> list[str]:
    """Codes that the language table knows, each once."""
    if not isinstance(value, list | tuple):
        raise Wrong(f'should return a list of codes such as ["en", "de"]; returned {_shown(value)}')
    for code in value:
        try:
            if not isinstance(code, str) or find(code).code != code:
                raise Wrong(
                    f"returned {_shown(code)}, which is not a canonical code (crosstune list languages)"
                )
        except UserError as error:
            raise Wrong(f"returned {error}") from None
    if not value or len(set(value)) < len(value):
        raise Wrong(f"should return each language once, the source language first; returned {_shown(value)}")
    return list(value)


def offers(task: Task, value: Any, language: str) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise Wrong(f"should return True or False; returned {_shown(value)}")
    return value


def examples(task: Task, value: Any, split: str, language: str) -> list[Example]:
    """Examples with ids that differ, texts, answers and choices as `Example` says; shuffled by their ids.

    As for any other task, so that ``limit`` takes a fair share and the same ids in every language.
    """
    if not isinstance(value, list | tuple):
        raise Wrong(f"should return a list of examples; returned {_shown(value)}")
    if not value:
        raise Wrong(f"returned no example ({split}, {language})")
    checked: dict[str, Example] = {}
    for place, example in enumerate(value):
        if not isinstance(example, Example):
            raise Wrong(f"should return examples; number {place + 1} is {_shown(example)}")
        name = f"example {_shown(example.id)} ({split}, {language})"
        for problem in itertools.chain(_malformed(example, language), _unanswerable(task, example)):
            raise Wrong(f"{name}: {problem}")
        if example.id in checked:
            raise Wrong(f"{name}: its id is there twice")
        checked[example.id] = replace(example, answers=tuple(example.answers), choices=tuple(example.choices))
    classes = {example.choices for example in checked.values()}
    if len(classes) > 1 and task.metrics[0] in CORPUS:
        raise Wrong(f"{task.metrics[0]} needs the same choices in every example ({split}, {language})")
    if split == "test":
        searched = form_of(task.kind).searched
        right = [(e, e.id if searched else e.answers[0]) for e in list(checked.values())[:SCORED]]
        scored = [task.score(e, answer)[task.metrics[0]] for e, answer in right]
        if not any(scored):
            raise Wrong(
                f"score gives {task.metrics[0]} 0 to the right answers of the first {len(scored)} examples "
                f"({split}, {language}); it should give 1, or more than 0"
            )
    return sorted(checked.values(), key=lambda example: fair_order(example.id))


def _malformed(example: Example, language: str) -> Iterator[str]:
    for name in ("id", "language", "prompt"):
        if wrong := _no_text(getattr(example, name)):
            yield f"{name} {wrong}"
    if example.cluster != "" and (wrong := _no_text(example.cluster)):
        yield f"cluster {wrong}"
    if example.language != language:
        yield f"language should be {language!r}; found {_shown(example.language)}"
    for name in ("answers", "choices"):
        texts = getattr(example, name)
        if not isinstance(texts, tuple | list):
            yield f'{name} should be a tuple of texts, ("yes",) with a comma for one; found {_shown(texts)}'
            return
        for text in texts:
            if wrong := _no_text(text):
                yield f"a text of {name} {wrong}"
    fields = example.fields
    if not isinstance(fields, tuple | list) or not all(map(_pair, fields)):
        yield f'fields should be pairs of texts such as (("premise", "..."),); found {_shown(fields)}'


def _pair(value: Any) -> bool:
    """Whether a field is a name and a text, which may be empty."""
    pair = isinstance(value, tuple | list) and len(value) == 2
    return pair and not any(_no_text(text) for text in value if not isinstance(text, str) or text.strip())


def _unanswerable(task: Task, example: Example) -> Iterator[str]:
    form = form_of(task.kind)
    if not example.answers:
        yield "it has no answer"
    elif form.searched:
        return
    elif form.tags:
        words, tags = example.prompt.split(" "), example.answers[0].split(" ")
        if len(words) != len(tags) or not all(words):
            yield f"{len(words)} words and {len(tags)} tags, each parted by one space"
        elif odd := [tag for tag in tags if tag not in task.tags]:
            yield f"unknown tag {_shown(odd[0])}"
        elif tuple(example.choices) != tuple(task.tags):
            yield "its choices should be the task's tags"
        return
    elif form.has_choices:
        if len(example.choices) > MOST_CHOICES:
            yield f"{len(example.choices):,} choices; an example has {MOST_CHOICES:,} at most"
        different = {normalize("NFC", choice).strip() for choice in example.choices}
        if len(different) < max(2, len(example.choices)):
            yield f"it should have two or more different choices; found {_shown(example.choices)}"
        elif example.answers[0] not in example.choices:
            yield f"its answer {_shown(example.answers[0])} is none of its choices {_shown(example.choices)}"
        return
    for answer, stop in itertools.product(example.answers, task.stop):
        if stop in answer.strip():
            yield f"its answer {_shown(answer)} could never be matched: it holds the stop string {stop!r}"


def score(task: Task, value: Any, example: Example, answer: str) -> dict[str, float]:
    """A number from 0 to 1 for each of the task's metrics."""
    name = f"example {_shown(example.id)} ({example.language})"
    if not isinstance(value, dict):
        raise Wrong(
            f'{name}: should return a dict such as {{"{task.metrics[0]}": 1.0}}; returned {_shown(value)}'
        )
    scores = {}
    for metric in task.metrics:
        number: Any = value.get(metric)
        try:
            scores[metric] = math.nan if isinstance(number, str) else float(number)
        except (TypeError, ValueError, OverflowError):
            scores[metric] = math.nan
        if not 0 <= scores[metric] <= 1:
            raise Wrong(f"{name}: {metric} should be a number from 0 to 1; returned {_shown(number)}")
    return scores


def template(task: Task, value: Any, language: str) -> str | None:
    """A text with its places open, or None."""
    if value is not None and (wrong := _no_text(value)):
        raise Wrong(f"the template for {language} {wrong}")
    frame: str | None = value
    return frame


CHECKS: dict[str, Callable[..., Any]] = {
    "__init__": initialised,
    "languages": languages,
    "offers": offers,
    "examples": examples,
    "score": score,
    "template": template,
}
"""By method: takes the task, what was returned, and what the method was called with."""


def _no_text(value: Any) -> str | None:
    """Why a value is no text to use."""
    if not isinstance(value, str):
        return f"should be a text; found {_shown(value)}"
    if not value.strip():
        return "is empty"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"holds half a character (U+{ord(value[error.start]):04X})"
    return None


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # the user's own class
        text = f"something whose repr fails ({type(error).__name__})"
    return text if len(text) <= 60 else text[:57] + "..."
