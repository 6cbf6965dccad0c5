"""Ask a finished run: its model, with what it trained put back on."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crosstune.data.example import Example
from crosstune.data.forms import form_of
from crosstune.errors import UserError
from crosstune.files import user_path
from crosstune.languages import find
from crosstune.outputs.registry import output_of
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.prepared import shown_first, solved_examples
from crosstune.running.restored import method_of, restored
from crosstune.store import store
from crosstune.store.record import RunRecord
from crosstune.tasks import make_task
from crosstune.tasks.base import Task
from crosstune.tasks.custom.load import load_task
from crosstune.tasks.exemplars import with_exemplars
from crosstune.tasks.prompts import render


@dataclass(frozen=True)
class Prediction:
    """A run's answer to one text."""

    prompt: str  # what the model read (without a method's exemplars)
    answer: str  # the best choice, or the text written
    # Each choice and its probability, best first; empty for a written answer.
    choices: list[tuple[str, float]]


def predict(
    folder: str | Path,
    text: str,
    *,
    language: str | None = None,
    raw: bool = False,
    choices: Sequence[str] = (),
    device: str = "auto",
    task_file: str | Path | None = None,
) -> Prediction:
    """Answer one text with a finished run.

    Args:
        folder: Of the run, ``<store>/<id>``.
        text: What stands in the task's prompt, such as a name for `cldr-names`; or the whole prompt.
        language: Of the text, for prompts and trained parts that are one language's; the source language by
            default.
        raw: ``text`` is the whole prompt.
        choices: To choose from; the task's by default, where it has the same for every question.
        device: Where to load the model.
        task_file: The Python file of a task of the user's own, which is run. It must be the one that the run
            was made with; what a store alone names is never run.

    Raises:
        UserError: No such run, damaged weights, a model that has changed since, a text that does not fit.
    """
    for words in (text, *choices):
        if not words.strip():
            raise UserError("the text or a choice is empty; give words to ask")
        try:
            words.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(words[error.start]):04X}"
            raise UserError(f"half a character ({half}) in the text or a choice; write it in UTF-8") from None
    folder = user_path(folder)
    run = store.read_run(folder)
    task = task_of(run, task_file)
    if task.version != run.task.version and not raw:
        raise UserError(
            f"{folder}: made with version {run.task.version} of task {task.name}, this is version "
            f"{task.version}; run the study again, or write the whole prompt and add --raw"
        )
    if form_of(task.kind).searched:
        raise UserError(f"task {task.name} searches texts, and one text has no others to be told from")
    code = find(language).code if language else run.source_language
    prompt = text if raw else _prompt(task, text, code)
    if form_of(task.kind).has_choices and not choices:
        choices = choices_of(task)
    method = method_of(run)
    solved = solved_examples(method, lambda: task.examples("train", task.source_language), run.seed)
    example = Example("", code, prompt, ("",), tuple(choices))
    with restored(folder, run, method, code, device=device) as lm:
        # A task whose answers are written may be asked to choose all the same.
        form = task.kind if form_of(task.kind).has_choices or not choices else "choice"
        if task.extractive and lm.geometry.encoder:
            raise UserError(
                "a run of an encoder that points at answers cannot be asked: it reads a context apart"
            )
        settings = EvaluateSettings.model_validate(run.evaluate)
        output = output_of(form, lm, settings)
        with shown_first(method, lm, settings, solved) as in_prompt, method.evaluating():
            answers = output.answers(task, with_exemplars([example], in_prompt))
    (logprobs,) = answers.columns.get("choice_logprobs", [()])
    probabilities = [math.exp(logprob) for logprob in logprobs]
    ranked = sorted(zip(example.choices, probabilities, strict=True), key=lambda pair: -pair[1])
    return Prediction(prompt, answers.texts[0], ranked)


def task_of(run: RunRecord, task_file: str | Path | None) -> Task:
    """The task a run was made with, a user's own one only if its file is still the same."""
    file = run.task.file
    if file is None:
        return make_task(run.task.name, run.task.options)
    path = Path(file["path"] if task_file is None else task_file)
    if task_file is None and path.suffix == ".py":
        raise UserError(
            f"run {run.id} was made with a Python task, which predict would run; if you trust it, add "
            f"--task {path}"
        )
    return load_task(path, sha256=file["sha256"], of=f"run {run.id}").make(run.task.options)


def _prompt(task: Task, text: str, language: str) -> str:
    """The task's prompt with the text in its one place."""
    template = task.template(language)
    places = re.findall(r"\{(\w+)\}", template or "")
    if template is None or len(set(places)) != 1:
        raise UserError(
            f"the prompt of task {task.name} is not one text in a frame; write all of it and add --raw"
        )
    return render(template, **{places[0]: text})


def choices_of(task: Task) -> tuple[str, ...]:
    """The choices that all questions of a task share."""
    sets = {example.choices for example in task.examples("test", task.source_language)}
    if len(sets) != 1:
        raise UserError(
            f"every question of task {task.name} has its own choices; give them with --choice A --choice B"
        )
    return sets.pop()
