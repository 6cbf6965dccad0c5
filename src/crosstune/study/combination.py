"""One task with one method of a study, and the stages of the method: which language gets which text."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from crosstune.config.mistakes import Loc, invalid, known_keys, read_settings
from crosstune.errors import UserError
from crosstune.languages.similarity import most_similar
from crosstune.languages.table import find, relatives
from crosstune.methods import METHODS
from crosstune.methods.staged.stage import Missing, Stage, Staged, StagedConfig, as_sum, ranked, terms
from crosstune.outputs.settings import EvaluateSettings
from crosstune.study.entries import MethodEntry, SearchSettings, TaskEntry
from crosstune.tasks.text.task import TextOptions, UnlabelledText
from crosstune.training.settings import TrainSettings


@dataclass(frozen=True)
class StagePlan:
    """The stage of one method of a study."""

    stage: Stage  # what is trained
    text: TaskEntry  # on which text, as an entry of tasks
    train: TrainSettings  # how; ``languages`` is filled in for each language
    uses: Mapping[str, str | None]  # by language of examples, the language whose stage it gets; None for none

    def settings(self, language: str) -> TrainSettings:
        """For the stage of one language."""
        return self.train.model_copy(update={"languages": (language,)})


@dataclass(frozen=True)
class Stages:
    """What a run needs of stages."""

    uses: Mapping[str, str | None]  # as of `StagePlan`, for the run's own languages
    runs: Mapping[str, str]  # by language of the text, the id of the run that trains on it

    def of(self, languages: Iterable[str]) -> "Stages":
        """What some of the languages need."""
        uses = {code: self.uses[code] for code in languages}
        needed = (code for text in uses.values() if text is not None for code in terms(text))
        return Stages(uses, {code: self.runs[code] for code in needed})

    def remark(self) -> str | None:
        """One line on languages that get another's stage or none."""
        texts = [
            f"{code} {'none' if text is None else text}" for code, text in self.uses.items() if text != code
        ]
        return f"used in place of unlabelled text of their own: {', '.join(texts)}" if texts else None


@dataclass(frozen=True)
class Combination:
    """One task with one method of a study, and what holds for their runs."""

    task: TaskEntry
    method: MethodEntry
    label: str  # short name of the method, unique in the study
    # Trained parameters that the method's size is solved for; None where its size is given.
    budget: int | None
    # Canonical codes of the languages the task is evaluated in, its source language first.
    languages: tuple[str, ...]
    evaluate: EvaluateSettings  # evaluation settings
    # Training settings, with a learning rate where none is searched; None where nothing is trained.
    train: TrainSettings | None
    search: SearchSettings | None  # learning rates that are searched; None for no search
    stages: StagePlan | None = None  # what is trained before the method


def stage_plan(
    entry: MethodEntry, at: int, task: TaskEntry, languages: Iterable[str], training: TrainSettings
) -> StagePlan | None:
    """The stage of a study's method number ``at`` for a task, None for a method without.

    Raises:
        ValidationError: There is no such text, or a language has none and may not go without.
    """
    method = entry.make()
    if not isinstance(method, Staged):
        return None
    where: Loc = ("methods", at)
    source, trained_on = task.task_class.source_language, training.languages
    if trained_on is not None and {find(code).code for code in trained_on} != {source}:
        raise invalid(
            (*where, "train", "languages"),
            f"method {entry.name} is trained on {source} alone, over what its stage made of {source} text; "
            "take train.languages out",
        )
    config, stage = method.config, method.stage
    text = _text_entry(entry.name, config.text, (*where, "text"))
    try:
        offered = set(text.make().languages())
    except UserError as error:
        raise invalid((*where, "text"), f"method {entry.name}: {error}") from error
    mixes = _mixes(config, source, offered, (*where, "mix"))
    uses: dict[str, str | None] = {}
    for code in dict.fromkeys((source, *languages)):
        if code in offered and code not in mixes:
            uses[code] = code
            continue
        uses[code] = as_sum(mixes.get(code) or _in_its_place(code, config.missing, offered)) or None
    lacking = [code for code in uses if code not in offered and code not in mixes]
    if source in lacking or (lacking and config.missing == "error"):
        raise invalid(
            (*where, "text"),
            f"method {entry.name}: text {text.options.source} has nothing in {', '.join(lacking)}; "  # type: ignore[attr-defined]
            + (
                "bring some in the source language"
                if source in lacking
                else "set missing: nearest, neighbours, similar or none"
            ),
        )
    what = f"text_train of method {entry.name}"
    try:
        known_keys(config.text_train, set(TrainSettings.model_fields) - {"languages"}, what)
        train = read_settings(TrainSettings, config.text_train, what)
    except ValidationError as error:
        raise _within(error, (*where, "text_train")) from None
    if train.evaluate_every is not None or train.loss != "answer":
        raise invalid(
            (*where, "text_train"), f"{what}: text has no answers to score; leave evaluate_every out"
        )
    if train.learning_rate is None:
        rate = stage.learning_rate or METHODS[stage.method](stage.config).default_rate
        train = train.model_copy(update={"learning_rate": rate})
    return StagePlan(stage, text, train, uses)


def _in_its_place(code: str, missing: Missing, offered: set[str]) -> dict[str, Fraction]:
    """What a language without text gets: the languages whose it is, with their weights."""
    if missing == "similar":
        return most_similar(code, offered, 3)
    count = {"nearest": 1, "neighbours": 3}.get(missing, 0)
    return ranked(relatives(code, offered)[:count]) if count else {}


def _mixes(
    config: StagedConfig, source: str, offered: set[str], where: Loc
) -> dict[str, dict[str, Fraction]]:
    """The sums of a method's ``mix``, by canonical codes.

    Raises:
        ValidationError: A language that is unknown or has no text, or the source language.
    """
    mixes: dict[str, dict[str, Fraction]] = {}
    for code, weights in config.mix.items():
        try:
            mixes[find(code).code] = {find(of).code: Fraction(str(x)) for of, x in weights.items() if x}
        except UserError as error:
            raise invalid((*where, code), f"mix: {error}") from error
    for code, sum_of in mixes.items():
        if code == source:
            raise invalid((*where, code), f"mix: {code} is the source language, which has its own")
        if lacking := [of for of in sum_of if of not in offered]:
            raise invalid((*where, code), f"mix: {code} is made of {lacking[0]}, which has no text")
        if not sum_of:
            raise invalid((*where, code), f"mix: {code} has no weights; give some, such as {{sw: 0.7}}")
    return mixes


def _text_entry(method: str, text: str | Mapping[str, Any], where: Loc) -> TaskEntry:
    if not text:
        raise invalid(
            where, f"method {method} needs text:, such as udhr, tatoeba or a folder of {{code}}.txt"
        )
    settings = {"source": text} if isinstance(text, str) else dict(text)
    try:
        known_keys(settings, TextOptions.model_fields, f"text of method {method}")
        options = read_settings(TextOptions, settings, f"text of method {method}")
    except ValidationError as error:
        raise _within(error, where) from None
    return TaskEntry.model_construct(name=UnlabelledText.name, options=options)


def _within(error: ValidationError, where: Loc) -> ValidationError:
    first = error.errors()[0]
    return invalid((*where, *first["loc"]), first["msg"])
