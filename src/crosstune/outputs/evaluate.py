"""Score a model on a task in many languages, with one load; keep every prediction."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from crosstune.data.example import Example
from crosstune.data.forms import form_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import Passes
from crosstune.outputs.journal import Journal
from crosstune.outputs.lengths import fitted
from crosstune.outputs.registry import OUTPUTS
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task


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
        task: For the form of its answers, its stop strings and metrics.
        examples: Test examples by language; ``settings.limit`` is the caller's to apply.
        settings: Batch size, how choices are compared, ...
        tell: Called with the number of examples done since the last call.
        passes: Says how many tokens go at once, and is lowered when memory runs out; made from the settings.
        journal: Keeps answers as they are given, and knows those given before to the same examples.

    Returns:
        One row an example, with the columns of `Form.schema`.
    """
    flat = [example for language in examples for example in examples[language]]
    passes = passes or Passes(settings.tokens_per_pass, lm.device)
    flat = fitted(lm, task, flat, settings, passes)
    answers = OUTPUTS[task.kind].answers(lm, task, flat, settings, tell, passes, journal)
    scores = [task.score(example, text) for example, text in zip(flat, answers.texts, strict=True)]
    columns: dict[str, Sequence[Any]] = {
        "language": [example.language for example in flat],
        "example": [example.id for example in flat],
        "prompt_hash": [hashlib.sha256(example.prompt.encode()).hexdigest()[:16] for example in flat],
        "prediction": answers.texts,
        "gold": [example.answers[0] for example in flat],
        "score": [score[task.metrics[0]] for score in scores],
        **answers.columns,
        **{f"metric.{name}": [score[name] for score in scores] for name in task.metrics},
    }
    return pl.DataFrame(columns, schema=form_of(task.kind).schema(task.metrics))
