"""What running, timing and asking a method share: putting it on a model, its training rows, its answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Unpack

import polars as pl

from crosstune.data.example import Example
from crosstune.methods.base import Method
from crosstune.methods.head import WithHead
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.fits import check_fits, head_shape, kind_on
from crosstune.outputs.journal import Stream
from crosstune.outputs.lengths import fitted, fitted_rows, refuses
from crosstune.outputs.registry import output_of
from crosstune.outputs.rows import Rows, TrainingRow
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.sampling import draw
from crosstune.running.task_data import TaskData
from crosstune.study.runs import Run
from crosstune.tasks.exemplars import pick_exemplars, with_exemplars


def method_of(run: Run, lm: LanguageModel, data: TaskData) -> Method:
    """The run's method, not attached yet, with the head that the task's answers need.

    Raises:
        UserError: The model cannot answer the task with it.
    """
    method, task = run.new_method(), data.task
    check_fits(task.name, kind_on(task, lm.geometry), method, lm.geometry, run.evaluate)
    shape = head_shape(task, lm.geometry, run.evaluate, data.train_for(run.train) if method.trains else ())
    return method if shape is None else WithHead(method, shape)


@contextmanager
def attached(method: Method, lm: LanguageModel, seed: int, language: str) -> Iterator[None]:
    """The method on the model, active for a language; the model is left as it was found."""
    method.attach(lm, seed)
    try:
        with lm.adaptation.for_language(language):
            yield
    finally:
        method.detach()


def training_rows(run: Run, lm: LanguageModel, data: TaskData, passes: TokenLimit) -> Rows:
    """What a run trains on, as its task's form of answer makes it.

    ``passes`` counts what is longer than the model has positions for, which ``on_too_long`` is done to.
    """
    assert run.train is not None
    examples = draw(data.train_for(run.train), run.train, run.seed)
    output = output_of(kind_on(data.task, lm.geometry), lm, run.evaluate)
    if not output.cuts:
        examples = fitted_rows(lm, examples, run.evaluate, passes)
    return output.rows(examples, run.train.loss)


def held_out_rows(run: Run, lm: LanguageModel, data: TaskData) -> Sequence[TrainingRow]:
    """Of a stage, the rows of the text that is held out of its training; of other runs none."""
    if run.kind != "stage" or run.train is None:
        return ()
    held_out = [e for code in run.train.languages or () for e in data.task.examples("dev", code)]
    rows = output_of(kind_on(data.task, lm.geometry), lm, run.evaluate).rows(held_out)
    return rows[: run.train.dev_limit]


def check_lengths(run: Run, lm: LanguageModel, data: TaskData) -> None:
    """Refuse test texts that evaluation would refuse, before anything is trained.

    Raises:
        UserError: One is too long and may be neither shortened nor left out.
    """
    output = output_of(kind_on(data.task, lm.geometry), lm, run.evaluate)
    output.check(data.test)
    if output.cuts:
        return
    for examples in data.test.values() if refuses(lm, run.evaluate) else ():
        fitted(lm, data.task, examples, run.evaluate, TokenLimit(run.evaluate.tokens_per_pass))


def solved_examples(method: Method, train: Callable[[], list[Example]], seed: int) -> list[Example]:
    """The exemplars that a method shows in front of every prompt; most methods show none.

    ``train`` reads the source language's training split, and is called only if there are any to show.

    Raises:
        UserError: The split has too few, or cannot be read.
    """
    return pick_exemplars(train(), method.shots, seed) if method.shots else []


def predictions(
    run: Run,
    method: Method,
    data: TaskData,
    examples: Mapping[str, Sequence[Example]],
    **stream: Unpack[Stream],
) -> pl.DataFrame:
    """The table of predictions of an attached method; arguments and result as of `evaluate`."""
    solved = solved_examples(method, lambda: data.train_for(None), run.seed)
    lm = method.attached()
    with shown_first(method, lm, run.evaluate, solved) as in_prompt, method.evaluating():
        prompted = {language: with_exemplars(some, in_prompt) for language, some in examples.items()}
        return evaluate(lm, data.task, prompted, run.evaluate, **stream)


@contextmanager
def shown_first(
    method: Method, lm: LanguageModel, settings: EvaluateSettings, solved: list[Example]
) -> Iterator[list[Example]]:
    """Inside, exemplars are turns of the chat where the method has them so; the others stand in the prompts.

    Gives those for the prompts.
    """
    lm.tokens.as_chat(settings.chat_template, settings.system_prompt)
    if not (solved and method.turns and lm.tokens.in_chat):
        yield solved
        return
    with lm.tokens.behind((example.prompt, example.answers[0]) for example in solved):
        yield []
