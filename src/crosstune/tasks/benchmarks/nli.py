"""XNLI and its further languages: does one sentence follow from another, contradict it, or neither?

XNLI: Conneau et al. 2018 (arXiv 1809.05053), 15 languages. AmericasNLI: Ebrahimi et al. 2022 (arXiv
2104.08726), ten indigenous languages of the Americas. myXNLI: Burmese. All translate the same English pairs,
so labels, prompts and training data are shared. Training data: MultiNLI (Williams et al. 2018), SNLI (Bowman
et al. 2015) or SICK (Marelli et al. 2014).
"""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from statistics import mode
from typing import Any, ClassVar, Literal

from crosstune.data.example import Example, Split
from crosstune.data.source import local_layouts
from crosstune.data.tables import BadRow, Row, Rows, changed, read_lines, read_rows
from crosstune.errors import UserError
from crosstune.tasks.base import TaskOptions
from crosstune.tasks.prompts import load_prompts, render
from crosstune.tasks.published import PublishedOptions, PublishedTask

LABELS = ("entailment", "neutral", "contradiction")
COLUMNS = ("premise", "hypothesis", "label")

# Of rows that annotators did not agree on: in the original files, and as a number on the hub.
NO_GOLD = ("-", -1)

# SICK writes labels in capitals; the training files that came with XNLI have a word of their own.
_SPELLINGS = {**{label: label for label in LABELS}, "contradictory": "contradiction"}

XNLI_ROWS: Mapping[Split, int] = {"dev": 2490, "test": 5010}
"""Pairs in each split of XNLI, in every language."""

TEST_LABELS = "myxnli/my.genre.test.tsv"
"""Where the labels of XNLI's test files come from when these have none: the same items, in the same order."""

SAME_ITEMS = 0.99
"""Share of English premises that must agree before labels are taken by row. It is 5,002 of 5,010 in fact."""


def _label(row: Row) -> str:
    """A row's label, however its file writes it."""
    value = row.fields.get("label")
    if isinstance(value, int) and 0 <= value < len(LABELS):
        return LABELS[value]
    label = _SPELLINGS.get(row.text("label").lower())
    if label is None:
        raise row.error(f"unknown label {row.text('label')[:60]!r}; known: {', '.join(LABELS)}")
    return label


def _number_in_xnli(row: Row, split: Split) -> str | None:
    """The pair's number, from the line that AmericasNLI gives: that of its Spanish row in XNLI's own file."""
    line, rows = str(row["id"]).strip(), XNLI_ROWS[split]
    number = int(line) - 5 * rows if line.isdecimal() and len(line) < 9 else 0
    return str(number) if 0 < number <= rows else None


def _with_or_without_label(path: Path) -> Rows:
    """Rows of a test file in the form of XTREME, whose third column may be missing."""
    widths = [line.count("\t") + 1 for line in read_lines(path) if isinstance(line, str)]
    unlabelled = bool(widths) and mode(widths) == 2
    return read_rows(path, COLUMNS[:2] if unlabelled else COLUMNS, header=False)


class NliOptions(PublishedOptions):
    """Settings of the natural language inference tasks.

    Attributes:
        train_set: English training data. For the 100,000 pairs of published studies, set the study's
            ``train.limit: 100000``: a sample by seed.
        form: "label-last" (premise, hypothesis, question, label), or "lm-eval": no prompt, and as choices the
            three whole texts that lm-evaluation-harness scores ("premise, right? Yes, hypothesis").
    """

    train_set: Literal["mnli", "snli", "sick"] = "mnli"
    form: Literal["label-last", "lm-eval"] = "label-last"


class _Nli(PublishedTask):
    """What the tasks of this family share: labels, prompts, options."""

    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    prompts = "nli"
    Options: ClassVar[type[TaskOptions]] = NliOptions
    options: NliOptions

    def template(self, language: str) -> str | None:
        """The prompt with its places still open; the form "lm-eval" has none."""
        return super().template(language) if self.options.form == "label-last" else None

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The pair, and its label among the three."""
        premise, hypothesis = row.text("premise"), row.text("hypothesis")
        gold = LABELS.index(_label(row))
        words = self.wording(language)
        prompt, choices = "", tuple(words["labels"])
        if self.options.form == "label-last":
            prompt = render(words["prompt"], premise=premise, hypothesis=hypothesis)
        else:
            question, *labels = words["lm_eval"]
            form = load_prompts(self.prompts)["lm_eval"]
            choices = tuple(
                render(form, premise=premise, question=question, label=label, hypothesis=hypothesis)
                for label in labels
            )
        return Example(
            id=self.row_id(row, split, language),
            language=language,
            prompt=prompt,
            answers=(choices[gold],),
            choices=choices,
            fields=(("premise", premise), ("hypothesis", hypothesis)),
        )

    @abstractmethod
    def row_id(self, row: Row, split: Split, language: str) -> str:
        """A row's id: of an evaluation set, the number of the pair in XNLI's split, from 1."""


class Xnli(_Nli):
    """English training data, and XNLI's development and test sets.

    MultiNLI is read in any published form. Where none is there, its development sets (19,647 pairs, none of
    them in XNLI) in ``english_nli/mnli/dev.csv`` serve instead, and `sources` names that file. Rows without a
    gold label ("-") are left out, as everybody does, and counted in `sources`.

    XNLI's test files in the form XTREME made of them have no labels; theirs are taken by row from myXNLI
    (`TEST_LABELS`), after a look at whether both hold the same items.
    """

    name = "xnli"
    summary = "does a sentence follow, contradict or neither, 3 choices (XNLI)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "MultiNLI train (or its dev sets, SNLI, SICK: see sources)",
        "dev": "XNLI dev",
        "test": "XNLI test",
    }
    hub: Mapping[Split, str] = {"train": "multi_nli", "dev": "xnli", "test": "xnli"}
    layouts = local_layouts("mnli") | local_layouts("xnli", with_or_without_label=_with_or_without_label)

    def __init__(self, options: TaskOptions | None = None) -> None:
        super().__init__(options)
        if self.options.train_set != "mnli":
            self.layouts = {**self.layouts, **local_layouts(self.options.train_set)}
            self.hub = {"dev": "xnli", "test": "xnli"}

    def row_id(self, row: Row, split: Split, language: str) -> str:
        """The pair's number; a training row is named by its file and line."""
        if split == "train":
            return f"{row.path.stem}:{row.line}"
        return str(row.fields.get("pairID") or row.line)

    def rows(self, split: Split, language: str) -> Rows:
        """Training rows that have a gold label; test rows with theirs, from another file if need be."""
        rows = list(super().rows(split, language))
        if split == "train":
            labelled = [
                row for row in rows if isinstance(row, BadRow) or row.fields.get("label") not in NO_GOLD
            ]
            if len(labelled) < len(rows):
                self.note_source("train", language, left_out_without_gold_label=len(rows) - len(labelled))
            return labelled
        if not self.on_hub and any(isinstance(row, Row) and "label" not in row.fields for row in rows):
            return self._with_test_labels(rows, language)
        return rows

    def _with_test_labels(self, rows: list[Row | BadRow], language: str) -> Rows:
        """Rows of an XNLI test file with the labels of the same lines of myXNLI's."""
        count, labels = self._test_labels
        path = next(row.path for row in rows if isinstance(row, Row))
        if len(rows) != count:
            raise UserError(
                f"{path}: {len(rows)} rows without labels; theirs are taken by row from {TEST_LABELS}, which "
                f"has {count}: use files of the same release, or test files with a third column, label"
            )
        self.note_source("test", language, labels=TEST_LABELS)
        return changed(rows, lambda row: row.with_fields(label=labels.get(row.line)))

    @cached_property
    def _test_labels(self) -> tuple[int, dict[int, Any]]:
        """How many rows myXNLI has, and its labels by line of XNLI's test files."""
        root = self.data_folder
        path = root / TEST_LABELS
        if not path.is_file():
            raise UserError(
                f"{root / 'xnli'}: the test files have no labels; theirs are taken by row from {path}, which "
                "is not there: bring it, or test files with a third column, label"
            )
        rows = read_rows(path, ("label", "sentence1_en"))
        # The file's first line is a header; test files have none.
        by_line = {row.line - 1: row for row in rows if isinstance(row, Row)}
        english = root / "xnli" / "test-en.tsv"
        if english.is_file():
            pairs = [row for row in _with_or_without_label(english) if isinstance(row, Row)]
            same = sum(p.line in by_line and p["premise"] == by_line[p.line]["sentence1_en"] for p in pairs)
            if same < SAME_ITEMS * len(pairs):
                raise UserError(
                    f"{english}: only {same} of {len(pairs)} premises are those of the same rows of {path}, "
                    "so labels cannot be taken from it by row; use files of the same release"
                )
        return len(rows), {line: row["label"] for line, row in by_line.items()}


class _FurtherLanguages(_Nli):
    """Languages that XNLI was translated into later: the English side and training data are XNLI's."""

    def __init__(self, options: TaskOptions | None = None) -> None:
        super().__init__(options)
        # A revision is one of this task's own dataset.
        self._xnli = Xnli(self.options.model_copy(update={"revision": None}))
        self._xnli.sources, self._xnli.skipped = self.sources, self.skipped

    def languages(self) -> list[str]:
        """Canonical codes, English first if XNLI's files for it are there."""
        languages = super().languages()
        with suppress(UserError):
            if self.source_language not in languages and self.source_language in self._xnli.languages():
                return [self.source_language, *languages]
        return languages

    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split, shuffled by id."""
        is_here = not self.on_hub and language in self.places.get(self.split_read(split), {})
        if language == self.source_language and not is_here:
            return self._xnli.examples(split, language)
        return super().examples(split, language)


class AmericasNli(_FurtherLanguages):
    """Part of XNLI in ten indigenous languages of the Americas.

    Ids are those of the Spanish rows in XNLI's own files, five languages in, so the number of the pair
    follows; English is asked for the same pairs only. The hub's files have no ids: there pairs cannot be
    matched across languages, and English is all of XNLI's. Three premises of the test in Nahuatl are blank.
    """

    may_be_blank = ("premise",)

    name = "americasnli"
    summary = "does a sentence follow, contradict or neither, 3 choices (AmericasNLI)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": Xnli.split_names["train"],
        "dev": "XNLI dev (English); AmericasNLI dev",
        "test": "AmericasNLI test; the same pairs of XNLI test (English)",
    }
    hub: Mapping[Split, str] = {"dev": "americas_nli", "test": "americas_nli"}
    layouts = local_layouts("americasnli")

    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split, shuffled by id; of the English test side, pairs that were translated."""
        examples = super().examples(split, language)
        if split != "test" or language != self.source_language or self.on_hub:
            return examples
        actual = self.options.evaluate_on
        rows = (row for place in self.places[actual].values() for row in place.rows())
        translated = {_number_in_xnli(row, actual) for row in rows if isinstance(row, Row)}
        return [example for example in examples if example.id in translated]

    def row_id(self, row: Row, split: Split, language: str) -> str:
        """The number of the pair in XNLI; on the hub, which does not tell, one of this language alone."""
        if "id" not in row.fields:
            return f"{language}:{row.line}"
        number = _number_in_xnli(row, split)
        if number is None:
            raise row.error(f"id {str(row['id'])[:60]!r} is none of a Spanish row of XNLI {split}")
        return number


class AfriXnli(_FurtherLanguages):
    """600 pairs of XNLI's test in 17 African languages, with English and French; trained as XNLI is."""

    name = "afrixnli"
    summary = "does a sentence follow, contradict or neither, 3 choices (AfriXNLI)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": Xnli.split_names["train"],
        "dev": "AfriXNLI dev",
        "test": "AfriXNLI test",
    }
    hub: Mapping[Split, str] = {"dev": "afrixnli", "test": "afrixnli"}
    layouts = local_layouts("afrixnli")

    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split, shuffled by id; its English is its own."""
        if split == "train":
            return self._xnli.examples(split, language)
        return _Nli.examples(self, split, language)

    def row_id(self, row: Row, split: Split, language: str) -> str:
        """The row's number: files have the same pairs in the same order."""
        return str(row.line)


class MyXnli(_FurtherLanguages):
    """XNLI in Burmese, with the English it was translated from in the same file."""

    name = "myxnli"
    summary = "does a sentence follow, contradict or neither, 3 choices (myXNLI, Burmese)"
    split_names: ClassVar[dict[Split, str]] = {
        "train": Xnli.split_names["train"],
        "dev": "XNLI dev (English); myXNLI dev",
        "test": "myXNLI test",
    }
    hub: Mapping[Split, str] = {"dev": "myxnli", "test": "myxnli"}
    layouts = local_layouts("myxnli")

    def row_id(self, row: Row, split: Split, language: str) -> str:
        """The number of the pair in XNLI."""
        return str(row.line - (row.path.suffix == ".tsv"))  # a table's first line is a header
