"""The examples of a task that a study's runs share, and the guards that keep a result zero-shot."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from crosstune.data.example import Example, fingerprint
from crosstune.data.forms import UNLABELLED, form_of
from crosstune.data.leaks import overlap, repeats
from crosstune.errors import UserError
from crosstune.languages import find
from crosstune.metrics.language_id import measurable
from crosstune.metrics.tagging import unopened_names
from crosstune.outputs.settings import EvaluateSettings
from crosstune.study.runs import Run
from crosstune.tasks.base import Task
from crosstune.training.settings import TrainSettings

SKIPPED_SHOWN = 5
"""How many of the rows left out a result names."""


@dataclass
class TaskData:
    """Examples of one task, read once for all runs."""

    task: Task
    # Training examples by language: the source language's, and those that ``train.languages`` names.
    train: dict[str, list[Example]]
    dev: list[Example]  # source-language development examples; empty when no run asks for any
    test: dict[str, list[Example]]  # test examples by language, those that are chosen
    fingerprints: dict[str, Any]  # of train (by language), dev, and test (by language)
    # Why there is no training data, which only runs that need none may go without; empty where there is.
    untrained: str = ""
    _overlaps: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    def train_for(self, settings: TrainSettings | None) -> list[Example]:
        """Training examples of a run, the languages one after the other."""
        return [example for code in self._languages(settings) for example in self.train[code]]

    def of(self, settings: TrainSettings | None) -> dict[str, Any]:
        """Fingerprints of what a run with these training settings sees."""
        uses_dev = settings is not None and settings.evaluate_every is not None
        seen = () if settings is None and _untrained(self.task) else self._languages(settings)
        return {
            "train": {code: self.fingerprints["train"][code] for code in seen},
            "dev": self.fingerprints["dev"] if uses_dev else None,
            "test": self.fingerprints["test"],
        }

    def zero_shot(self, settings: TrainSettings | None) -> bool:
        """Whether a run's training data is in the source language alone."""
        return set(self._languages(settings)) == {self.task.source_language}

    def overlap(self, settings: TrainSettings | None) -> dict[str, Any]:
        """What a run's training data and the test examples of all languages share."""
        key = self._languages(settings)
        if key not in self._overlaps:
            tested = [example for examples in self.test.values() for example in examples]
            self._overlaps[key] = overlap(self.train_for(settings), tested)
        return self._overlaps[key]

    def facts(self, settings: TrainSettings | None) -> dict[str, Any]:
        """Where a run's examples came from, which rows were left out, and what repeats."""
        seen = {"train": repeats(self.train_for(settings)), "dev": repeats(self.dev)}
        seen |= {f"test {code}": repeats(examples) for code, examples in self.test.items()}
        return {
            "sources": self._sources(settings),
            "skipped_rows": len(self.task.skipped),
            "skipped": self.task.skipped[:SKIPPED_SHOWN],
            "repeats": {name: counts for name, counts in seen.items() if any(counts.values())},
        }

    def _sources(self, settings: TrainSettings | None) -> list[dict[str, Any]]:
        """Where the examples came from; of unlabelled text, that of the run's own language."""
        if self.task.kind != UNLABELLED.name:
            return self.task.sources
        return [source for source in self.task.sources if source["language"] in self._languages(settings)]

    def remarks(self) -> list[str]:
        """What a person should know of the data before any result: a line each, most often none."""
        lines = []
        if self.untrained:
            lines.append(f"tests are not compared with training data: {self.untrained}")
        if self.task.skipped:
            lines.append(f"{len(self.task.skipped)} rows left out, the first: {self.task.skipped[0]}")
        if self.task.kind == UNLABELLED.name:
            return lines
        source = self.task.source_language
        if "answer_language" in form_of(self.task.kind).columns and (
            alike := [code for code in self.test if not measurable(code, source)]
        ):
            lines.append(f"no rates of answer languages for {', '.join(alike)}: not told apart from {source}")
        shared = self.overlap(None)
        leaks = {"prompt": shared["prompts"], **shared["normalised"]}
        lines += [
            f"the {name} of {n} test examples is in the training data" for name, n in leaks.items() if n
        ]
        if self.task.metrics[0] == "strict_f1":
            lines += unopened_names(example.answers[0] for some in self.test.values() for example in some)
        if (
            form_of(self.task.kind).tags
            and self.task.metrics[0].endswith("_f1")
            and (empty := [code for code, examples in self.test.items() if _all_outside(examples)])
        ):
            lines.append(
                f"{self.task.metrics[0]} tells nothing in {', '.join(empty)}, where all tags are O: it is "
                "100 if no name is predicted, else 0"
            )
        counts = [repeats(examples) for examples in self.test.values()]
        if again := sum(count["repeated"] for count in counts):
            against = sum(count["conflicting"] for count in counts)
            lines.append(f"{again} test questions are asked twice, {against} of them with different answers")
        return lines

    def _languages(self, settings: TrainSettings | None) -> tuple[str, ...]:
        return training_languages(self.task, settings)


def training_languages(task: Task, settings: TrainSettings | None) -> tuple[str, ...]:
    """Canonical codes of the languages a run trains on, in the order given."""
    if settings is None or settings.languages is None:
        return (task.source_language,)
    return tuple(dict.fromkeys(find(code).code for code in settings.languages))


def read_for(task: Task, runs: Sequence[Run]) -> TaskData:
    """Read what all of a task's runs need; those that are evaluated are evaluated alike.

    Raises:
        UserError: As `read_data`.
    """
    tested = next((run for run in runs if run.kind == "result"), runs[0])
    with_dev = any(run.train is not None and run.train.evaluate_every for run in runs)
    trains = any(run.train is not None or run.new_method().shots for run in runs)
    settings = [run.train for run in runs]
    return read_data(task, tested.languages, tested.evaluate, with_dev, settings, trains)


def read_data(
    task: Task,
    languages: Sequence[str],
    evaluate: EvaluateSettings,
    with_dev: bool,
    settings: Sequence[TrainSettings | None] = (),
    trains: bool = True,
) -> TaskData:
    """Read a task's splits: tests in some languages, of each the examples that ``evaluate`` chooses.

    The development split is the source language's, always. ``settings`` may name further training languages.
    Where nothing ``trains``, training data serves to find test examples in it, and may be missing.

    Raises:
        UserError: A split is missing, damaged or empty, or holds another language than it should.
    """
    source = task.source_language
    in_source = {} if task.kind == UNLABELLED.name else {source: None}
    wanted: dict[str, None] = in_source | {
        code: None for of_run in settings for code in training_languages(task, of_run)
    }
    read = (lambda *_: []) if _untrained(task) and not any(settings) else task.examples
    untrained = ""
    try:
        train = {code: _in_language(task, "training", code, read("train", code)) for code in wanted}
    except UserError as error:
        if trains:
            raise
        train, untrained = {code: [] for code in wanted}, str(error)
    dev = _in_language(task, "development", source, task.examples("dev", source)) if with_dev else []
    test: dict[str, list[Example]] = {}
    for language in languages:
        test[language] = evaluate.chosen(task.examples("test", language))
        if not test[language]:
            raise UserError(f"task {task.name}: its test split in {language} is empty")
    return TaskData(
        task=task,
        train=train,
        dev=dev,
        test=test,
        fingerprints={
            "train": {code: fingerprint(examples) for code, examples in train.items()},
            "dev": fingerprint(dev) if with_dev else None,
            "test": {language: fingerprint(examples) for language, examples in test.items()},
        },
        untrained=untrained,
    )


def _all_outside(examples: Sequence[Example]) -> bool:
    """Whether sentences have no name among their tags."""
    return all(set(example.answers[0].split(" ")) == {"O"} for example in examples)


def _untrained(task: Task) -> bool:
    """Whether a task's untuned runs need no training data, not even to look for leaks."""
    return form_of(task.kind).searched or not task.has_training


def _in_language(task: Task, what: str, language: str, examples: list[Example]) -> list[Example]:
    """The examples, if all are in the language they should be in."""
    for example in examples:
        if example.language != language:
            raise UserError(
                f"task {task.name}: {what} example {example.id} is in {example.language}, not in {language}: "
                "the result would not be zero-shot; mend the task's data, or name the language in "
                "train.languages"
            )
    return examples
