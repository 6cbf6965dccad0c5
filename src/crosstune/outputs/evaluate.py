"""Score a model on a task in many languages, with one load; keep every prediction."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from crosstune.data.example import Example
from crosstune.metrics.language_id import identify
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import Passes
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.generation import generate
from crosstune.outputs.journal import Journal
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task

SCHEMA: dict[str, Any] = {
    "language": pl.String,
    "example": pl.String,
    "prompt_hash": pl.String,
    "prediction": pl.String,
    "gold": pl.String,
    "score": pl.Float64,
    "choice_logprobs": pl.List(pl.Float64),
    "answer_language": pl.String,
}


def evaluate(
    lm: LanguageModel,
    task: Task,
    examples: Mapping[str, Sequence[Example]],
    settings: EvaluateSettings,
    tell: Callable[[int], None] | None = None,
    passes: Passes | None = None,
    journal: Journal[Any] | None = None,
) -> pl.DataFrame:
    """Answer every example, all languages in one stream of batches.

    Args:
        lm: The model, with whatever a method left on it (inside the method's ``evaluating()``).
        task: For its kind, stop strings and metrics.
        examples: Test examples by language; ``settings.limit`` is the caller's to apply.
        settings: Batch size, how choices are compared, ...
        tell: Called with the number of examples done since the last call.
        passes: Says how many tokens go at once, and is lowered when memory runs out; made from the settings.
        journal: Keeps answers as they are given, and knows those given before to the same examples.

    Returns:
        One row an example: the columns of `SCHEMA` and one ``metric.<name>`` for each of the task's metrics.
        ``answer_language`` is what a written answer was identified as (`identify`); null for choices.
    """
    flat = [e for language in examples for e in examples[language]]
    prompts = lm.encode_prompts([e.prompt for e in flat])
    logprobs: list[list[float]] | list[None]
    if task.kind == "choice":
        items = [
            ChoiceItem(ids, tuple(tuple(lm.encode_answer(c)) for c in e.choices))
            for ids, e in zip(prompts, flat, strict=True)
        ]
        scored = score_choices(lm, items, settings, tell, passes, journal)
        answers = [
            e.choices[max(range(len(s)), key=s.__getitem__)] for e, s in zip(flat, scored, strict=True)
        ]
        logprobs = scored
    else:
        longest = settings.max_answer_tokens or task.max_answer_tokens
        answers = generate(lm, prompts, longest, task.stop, settings.tokens_per_pass, tell, passes, journal)
        logprobs = [None] * len(flat)
    metrics = [task.score(e, a) for e, a in zip(flat, answers, strict=True)]
    columns: dict[str, list[Any]] = {
        "language": [e.language for e in flat],
        "example": [e.id for e in flat],
        "prompt_hash": [hashlib.sha256(e.prompt.encode()).hexdigest()[:16] for e in flat],
        "prediction": answers,
        "gold": [e.answers[0] for e in flat],
        "score": [m[task.metrics[0]] for m in metrics],
        "choice_logprobs": list(logprobs),
        "answer_language": _languages(task, flat, answers),
    }
    schema = dict(SCHEMA)
    for name in task.metrics:
        columns[f"metric.{name}"] = [m[name] for m in metrics]
        schema[f"metric.{name}"] = pl.Float64
    return pl.DataFrame(columns, schema=schema)


def _languages(task: Task, examples: Sequence[Example], answers: Sequence[str]) -> list[str | None]:
    """The language of each written answer; nothing in it depends on what else is evaluated."""
    if task.kind == "choice":
        return [None] * len(examples)
    return [
        identify(answer, example.language, task.source_language)
        for example, answer in zip(examples, answers, strict=True)
    ]
