"""The examples of a task that a study's runs share, and the check that nothing leaks between splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosstune.errors import UserError
from crosstune.tasks.base import Example, Task, fingerprint
from crosstune.training.settings import TrainSettings


@dataclass(frozen=True)
class TaskData:
    """Examples of one task, read once for all runs.

    Attributes:
        task: The task.
        train: Source-language training examples.
        dev: Source-language development examples; empty when no run asks for any.
        test: Test examples by language, the limit applied.
        overlap: Test examples, over all languages, that share a prompt with training, and an id.
        fingerprints: As run.json has them: train, dev, and test by language.
    """

    task: Task
    train: list[Example]
    dev: list[Example]
    test: dict[str, list[Example]]
    overlap: dict[str, int]
    fingerprints: dict[str, Any]

    def of(self, train: TrainSettings | None) -> dict[str, Any]:
        """Fingerprints of what a run with these training settings sees."""
        uses_dev = train is not None and train.evaluate_every is not None
        return self.fingerprints if uses_dev else {**self.fingerprints, "dev": None}


def read_data(task: Task, languages: Sequence[str], limit: int | None, with_dev: bool) -> TaskData:
    """Read a task's splits in some languages.

    Args:
        task: The task.
        languages: Of the test split.
        limit: Test examples a language, the first so many; None for all.
        with_dev: Whether the development split is wanted.

    Raises:
        UserError: A split is missing, damaged or empty, or training data holds a target language.
    """
    source = task.source_language
    train = task.examples("train", source)
    dev = task.examples("dev", source) if with_dev else []
    for example in (*train, *dev):
        if example.language != source:
            raise UserError(
                f"task {task.name}: training example {example.id} is in {example.language}, not in {source}: "
                "nothing would be zero-shot; mend the task's source"
            )
    test = {language: task.examples("test", language)[:limit] for language in languages}
    for language, examples in test.items():
        if not examples:
            raise UserError(f"task {task.name}: its test split in {language} is empty")
    prompts, ids = {e.prompt for e in train}, {e.id for e in train}
    tested = [example for examples in test.values() for example in examples]
    return TaskData(
        task=task,
        train=train,
        dev=dev,
        test=test,
        overlap={
            "prompts": sum(e.prompt in prompts for e in tested),
            "ids": sum(e.id in ids for e in tested),
        },
        fingerprints={
            "train": fingerprint(train),
            "dev": fingerprint(dev) if with_dev else None,
            "test": {language: fingerprint(examples) for language, examples in test.items()},
        },
    )
