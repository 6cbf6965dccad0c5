"""Score a model on a task in many languages, with one load; keep every prediction."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from crosstune.data.example import Example
from crosstune.data.forms import form_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.base import Answers
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
    passes: TokenLimit | None = None,
    journal: Journal[Any] | None = None,
) -> pl.DataFrame:
    """Answer every example: one stream of batches for all languages for which the same parts are active.

    Args:
        lm: The model, with whatever a method left on it (inside the method's ``evaluating()``).
        task: For the form of its answers, its stop strings and metrics.
        examples: Test examples by language; ``settings.limit`` is the caller's to apply.
        settings: Batch size, how choices are compared, ...
        tell: Called with the number of examples done since the last call.
        passes: Says how many tokens go at once, and is lowered when memory runs out; made from the settings.
        journal: Saves answers as they are computed, and has those computed before for the same examples.

    Returns:
        One row an example, in their order, with the columns of `Form.schema`.
    """
    passes = passes or TokenLimit(settings.tokens_per_pass, lm.device)
    groups = lm.adaptation.groups(examples)
    table = pl.DataFrame(schema=form_of(task.kind).schema(task.metrics))
    for languages in groups:
        flat = [example for language in languages for example in examples[language]]
        with lm.adaptation.for_language(languages[0]):
            flat = fitted(lm, task, flat, settings, passes)
            section = None if journal is None else journal.section(len(table), len(flat))
            answers = OUTPUTS[task.kind].answers(lm, task, flat, settings, tell, passes, section)
        table = pl.concat([table, _rows(task, flat, answers)])
    if len(groups) > 1:
        table = table.sort(pl.col("language").cast(pl.Enum(list(examples))), maintain_order=True)
    return table


def _rows(task: Task, examples: Sequence[Example], answers: Answers) -> pl.DataFrame:
    scores = [task.score(example, text) for example, text in zip(examples, answers.texts, strict=True)]
    columns: dict[str, Sequence[Any]] = {
        "language": [example.language for example in examples],
        "example": [example.id for example in examples],
        "prompt_hash": [hashlib.sha256(example.prompt.encode()).hexdigest()[:16] for example in examples],
        "prediction": answers.texts,
        "gold": [example.answers[0] for example in examples],
        "score": [score[task.metrics[0]] for score in scores],
        **answers.columns,
        **{f"metric.{name}": [score[name] for score in scores] for name in task.metrics},
    }
    return pl.DataFrame(columns, schema=form_of(task.kind).schema(task.metrics))
