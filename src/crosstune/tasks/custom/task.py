"""The task that a user describes in one YAML file.

The file's keys are explained in docs/custom-tasks.md.
"""

import math
import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from crosstune.config.environment import data_root
from crosstune.data.example import MOST_CHOICES, Example, Split, passage_key
from crosstune.data.tables import Row
from crosstune.errors import UserError
from crosstune.metrics import mlqa, squad
from crosstune.metrics.numbers import find_number, number_match
from crosstune.metrics.rouge import ROUGE, rouge
from crosstune.tasks.custom.definition import PLACEHOLDER, Definition
from crosstune.tasks.published import PublishedOptions, PublishedTask


def _rouge(name: str, answer: str, golds: Sequence[str], language: str) -> float:
    return rouge(answer, golds)[name]


METRICS: dict[str, Callable[[str, Sequence[str], str], float]] = {
    "accuracy": lambda answer, golds, _: float(answer in golds),
    "exact": lambda answer, golds, _: squad.exact_match(answer, golds),
    "squad_f1": lambda answer, golds, _: squad.f1(answer, golds),
    "mlqa_f1": mlqa.f1,
    "number_match": lambda answer, golds, language: max(
        number_match(answer, gold, language) for gold in golds
    ),
    **{name: partial(_rouge, name) for name in ROUGE},
}
"""How one answer is scored, from the answer, its golds and their language; beside those of `CORPUS`."""


class DefinedOptions(PublishedOptions):
    """Settings of a task from a YAML file: those of published files, which lie on this machine only.

    Attributes:
        source: Always "local".
        data: Folder that the file patterns start from; by default the definition's own.
        revision: Not used.
    """

    source: Literal["local"] = "local"
    revision: None = None


class DefinedTask(PublishedTask):
    """The task of one `Definition`, whose file lies in ``folder``; `make_class` makes a subclass for each."""

    Options = DefinedOptions
    definition: ClassVar[Definition]
    folder: ClassVar[Path]
    without_prompt = "add one to its file"

    @property
    def licences(self) -> Mapping[str, str]:
        """What its file says."""
        return {self.name: self.definition.licence} if self.definition.licence else {}

    _commit: str | None = None  # of a dataset on the hub, once its files are here

    @cached_property
    def data_folder(self) -> Path:
        """Folder that the file patterns start from: by default the one that the definition lies in.

        Of a dataset on the hub, that of its commit in the hub's cache: the files of all splits are fetched.
        """
        if self.definition.hub is None or self.options.data:
            return data_root(self.options.data or str(self.folder))
        from crosstune.data.hub import fetch_files

        repo, revision = self.definition.hub, str(self.definition.revision)
        for layout in (layout for layouts in self.layouts.values() for layout in layouts):
            files = fetch_files(repo, layout.files.replace("{code}", "*"), revision)
            self._commit = files.commit
            root = files.paths[0].parents[len(PurePosixPath(layout.files).parts) - 1]
        return root

    def note_source(self, split: Split, language: str, **facts: Any) -> None:
        """With the commit of a dataset on the hub."""
        if self._commit is not None:
            facts = {"repo": self.definition.hub, "commit": self._commit, **facts}
        super().note_source(split, language, **facts)

    def languages(self) -> list[str]:
        """Canonical codes of the languages whose evaluation split is there, the source language first.

        Raises:
            UserError: There is none, or a file's name does not say which language it holds.
        """
        split, root = self.options.evaluate_on, self.data_folder
        read = {path for of in self.places.values() for place in of.values() for path in place.paths}
        for layout in self.layouts[split]:
            for path in sorted(root.glob(layout.files.replace("{code}", "*"))):
                if path not in read and path.is_file() and not path.name.startswith("."):
                    raise UserError(
                        f"{path}: no known language in its name, where {layout.files} has {{code}}; give it "
                        "the language's code, or move it away"
                    )
        return super().languages()

    def template(self, language: str) -> str | None:
        """The file's prompt."""
        return str(self.wording(language)["prompt"])

    def wordings(self) -> Mapping[str, Mapping[str, Any]]:
        """The file's prompts by language."""
        return {code: {"prompt": text} for code, text in self.definition.prompt.items()}

    def example(self, row: Row, split: Split, language: str) -> Example:
        """One row: its prompt, and its answer among the choices or in its own words."""
        template = self.wording(language)["prompt"]
        prompt, fields = filled(template, row).rstrip(), dict.fromkeys(PLACEHOLDER.findall(template))
        choices = self._choices(row)
        answers = (self._chosen(row, choices),) if choices else self._written(row, language)
        return Example(
            id=self.name_of(row, split, language),
            language=language,
            prompt=prompt,
            answers=answers,
            choices=choices,
            fields=tuple((column, text_of(row, column)) for column in fields),
            cluster=self.cluster_of(row),
        )

    def name_of(self, row: Row, split: Split, language: str) -> str:
        """An example's id: of its column, or the number of its row or sentence.

        Behind the number of its file in all but the first of several.
        """
        if self.definition.id:
            return text_of(row, self.definition.id)
        sentence = self.definition.kind == "tags" and self.definition.words is None
        name = str(row["id"] if sentence else row.line)
        place = self.places[split][language].paths.index(row.path)
        return f"{place}:{name}" if place else name

    def cluster_of(self, row: Row) -> str:
        """What its column says."""
        return passage_key(text_of(row, self.definition.cluster)) if self.definition.cluster else ""

    def score(self, example: Example, answer: str) -> dict[str, float]:
        """The definition's metric, and beside one of the whole test set a choice's accuracy."""
        example, answer = self._normalised(example, answer)
        others = [metric for metric in self.metrics if metric in METRICS]
        scores = {metric: METRICS[metric](answer, example.answers, example.language) for metric in others}
        return scores if self.metrics[0] in METRICS else super().score(example, answer) | scores

    def sums(self, example: Example, answer: str) -> list[float]:
        """As of `Task`, of texts normalised as the definition says."""
        return super().sums(*self._normalised(example, answer))

    def _normalised(self, example: Example, answer: str) -> tuple[Example, str]:
        if self.definition.normalise != "NFC":
            return example, answer
        return replace(example, answers=tuple(map(_composed, example.answers))), _composed(answer)

    def missing_split(self, split: Split) -> UserError:
        """The error for a split without rows, in the words of the definition."""
        files = getattr(self.definition, split)
        if files is None:
            return UserError(f'task {self.name} has no {split} split; add "{split}:" to its file')
        return UserError(
            f"task {self.name} has no {split} split: no rows in {files} below {self.data_folder}; "
            f'correct "{split}:" in its file, or set the task\'s option data to the folder of the files'
        )

    def _choices(self, row: Row) -> tuple[str, ...]:
        templates = self.definition.choices
        if not isinstance(templates, str):
            choices = tuple(_composed(filled(choice, row).strip()) for choice in templates)
        else:
            choices = tuple(map(_composed, texts_of(row, templates)))
            if len(choices) < 2:
                raise row.error(f"{templates} should be a list of two or more texts")
        if len(choices) > MOST_CHOICES:
            raise row.error(f"{len(choices):,} choices; an example has {MOST_CHOICES:,} at most")
        if len(set(choices)) < len(choices):
            raise row.error(f"two choices are the same: {', '.join(choices)[:120]}")
        return choices

    def _chosen(self, row: Row, choices: tuple[str, ...]) -> str:
        column, how = self.definition.answer, self.definition.answer_is
        value = _composed(text_of(row, column))
        if how == "text":
            if value not in choices:
                raise row.error(
                    f"{column} {value[:60]!r} is none of the choices: {', '.join(choices)[:120]}"
                    + number_hint(value, len(choices))
                )
            return value
        if how == "letter":
            place = string.ascii_uppercase.find(value.upper()) if len(value) == 1 else -1
        else:
            place = int(value) - (how == "index1") if re.fullmatch("[0-9]{1,9}", value) else -1
        if not 0 <= place < len(choices):
            first = {"letter": "A", "index0": "0", "index1": "1"}[how]
            raise row.error(
                f"{column} {value[:60]!r} names none of the {len(choices)} choices (the first is {first})"
            )
        return choices[place]

    def _written(self, row: Row, language: str) -> tuple[str, ...]:
        answers = texts_of(row, self.definition.answer)
        if self.definition.scored_by == "number_match":
            for answer in answers:
                if find_number(answer, language) is None:
                    raise row.error(f"{self.definition.answer} {answer[:60]!r} has no number in digits")
        for answer in answers:
            if held := next((stop for stop in self.definition.stop if stop in answer), None):
                raise row.error(
                    f"{self.definition.answer} {answer[:60]!r} holds the stop string {held!r}, which ends an "
                    'answer: it could never be matched; change "stop:" or the answer'
                )
        return answers


def number_hint(value: str, count: int) -> str:
    """What to write where an answer looks like the number, or the letter, of a choice."""
    if value.isdecimal() and int(value) <= count:
        return "; if it is the number of a choice, add answer_is: index0, or index1 where the first is 1"
    if len(value) == 1 and value.upper() in string.ascii_uppercase[:count]:
        return "; if it is the letter of a choice, add answer_is: letter"
    return ""


def filled(template: str, row: Row) -> str:
    """The template with each column's text in its place, in one pass: a text is never a template."""
    return PLACEHOLDER.sub(lambda match: text_of(row, match[1]), template)


def _composed(text: str) -> str:
    """In NFC: a letter with a mark is one word however it is stored."""
    return unicodedata.normalize("NFC", text)


def text_of(row: Row, column: str) -> str:
    """A column's text, or its number as text."""
    value = row.fields.get(column)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise row.error(f"{column} is {value}, which is no number")
        return str(value)
    return row.text(column)


def texts_of(row: Row, column: str) -> tuple[str, ...]:
    """A column's one text, or all of its list of them."""
    value = row.fields.get(column)
    if not isinstance(value, list):
        return (text_of(row, column),)
    if not value:
        raise row.error(f"{column} is an empty list")
    entries = Row(row.path, row.line, {f"{column}[{i}]": text for i, text in enumerate(value)})
    return tuple(text_of(entries, name) for name in entries.fields)
