"""Score a model on a task in many languages, with one load; keep every prediction."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import polars as pl

from crosstune.data.example import Example
from crosstune.data.forms import form_of
from crosstune.errors import UserError
from crosstune.metrics.corpus import CORPUS, SUM
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.base import Answers
from crosstune.outputs.fits import kind_on
from crosstune.outputs.journal import Stream
from crosstune.outputs.lengths import fitted
from crosstune.outputs.registry import output_of
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks.base import Task


def evaluate(
    lm: LanguageModel,
    task: Task,
    examples: Mapping[str, Sequence[Example]],
    settings: EvaluateSettings,
    **stream: Unpack[Stream],
) -> pl.DataFrame:
    """Answer every example: one stream of batches for all languages for which the same parts are active.

    The model is inside its method's ``evaluating()``. ``settings.limit`` is the caller's to apply to the
    test examples of each language.

    Returns:
        One row an example, in their order, with the columns of `AnswerForm.schema`, and ``cluster`` of tasks
        whose examples name one.
    """
    passes = stream.get("passes") or TokenLimit(settings.tokens_per_pass, lm.device)
    tell, journal = stream.get("tell"), stream.get("journal")
    # Where texts of all languages are searched, the form itself sees to which parts are active for which.
    groups, done = lm.adaptation.groups(examples), 0
    if form_of(task.kind).searched:
        groups = [list(examples)]
    tables = []
    for languages in groups:
        flat = [example for language in languages for example in examples[language]]
        with lm.adaptation.for_language(languages[0]):
            output = output_of(kind_on(task, lm.geometry), lm, settings)
            if not output.cuts:
                flat = fitted(lm, task, flat, settings, passes)
            if not flat:
                continue
            section = None if journal is None else journal.section(done, len(flat))
            answers = output.answers(task, flat, tell=tell, passes=passes, journal=section)
        tables.append(_rows(lm, task, flat, answers, settings))
        done += len(flat)
    if not tables:
        if any(examples.values()):
            raise UserError(f"task {task.name}: every text is longer than the positions of {lm.name}")
        return pl.DataFrame(schema=form_of(task.kind).schema(task.metrics))
    table = pl.concat(tables, how="diagonal")
    if len(groups) > 1:
        table = table.sort(pl.col("language").cast(pl.Enum(list(examples))), maintain_order=True)
    return table


def _rows(
    lm: LanguageModel, task: Task, examples: Sequence[Example], answers: Answers, settings: EvaluateSettings
) -> pl.DataFrame:
    main, *others = task.metrics
    answered = list(zip(examples, answers.texts, strict=True))
    scores = [task.score(example, text) for example, text in answered]
    sums = [task.sums(example, text) for example, text in answered]
    if len({len(numbers) for numbers in sums}) > 1:
        raise UserError(f"task {task.name}: {main} needs as many choices in every example")
    if main not in CORPUS:
        others = [main, *others]
    columns: dict[str, Sequence[Any]] = {
        "language": [example.language for example in examples],
        "example": [example.id for example in examples],
        "prompt_hash": [hashlib.sha256(example.prompt.encode()).hexdigest()[:16] for example in examples],
        "prompt": [settings.kept(lm.tokens.as_read(example.prompt)) for example in examples],
        "prediction": answers.texts,
        "gold": [example.answers[0] for example in examples],
        "score": [score[main] for score in scores],
        **answers.columns,
        **{f"metric.{name}": [score[name] for score in scores] for name in others},
        **{f"{SUM}{i}": numbers for i, numbers in enumerate(zip(*sums, strict=True))},
    }
    table = pl.DataFrame(columns, schema=form_of(task.kind).schema(others, len(sums[0]) if sums else 0))
    if not any(example.cluster for example in examples):
        return table
    clusters = pl.Series("cluster", [example.cluster or None for example in examples], pl.String)
    return table.insert_column(2, clusters)
