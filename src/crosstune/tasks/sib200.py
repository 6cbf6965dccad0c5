"""SIB-200: what is this sentence about? Seven topics, parallel in over 200 language varieties.

Adelani et al. 2024 (arXiv 2309.07445), in the layout of its repository:
``sib200/annotated/<FLORES code>/{train,dev,test}.tsv`` with the columns index_id, category, text.
"""

from pathlib import Path
from typing import ClassVar

from crosstune.errors import UserError
from crosstune.languages.table import LANGUAGES
from crosstune.tasks.base import Example, Kind, Split, Task, TaskOptions
from crosstune.tasks.prompts import load_prompts, render
from crosstune.tasks.sources import data_root, fair_order, missing_language, read_tsv

COLUMNS = ("index_id", "category", "text")


class Sib200Options(TaskOptions):
    """Settings of `sib200`.

    Attributes:
        data: Folder that holds ``sib200/``; by default $CROSSTUNE_DATA.
    """

    data: str | None = None


class Sib200(Task):
    """Topic of a sentence; trained and selected on English, tested in every language whose file is there.

    Texts are taken as published: about 80 test rows in 16 languages were quoted twice at the source, and keep
    the inner quotation marks, as every reader of these files sees them.

    Examples come in an order shuffled by their id, the same in every language: the files are sorted by topic.
    """

    name = "sib200"
    version = 1
    kind: ClassVar[Kind] = "choice"
    metrics = ("accuracy",)
    summary = "topic of a sentence, 7 choices (SIB-200)"
    split_names: ClassVar[dict[Split, str]] = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
    Options = Sib200Options

    def languages(self) -> list[str]:
        """Canonical codes of the varieties with a test file, English first, then by code."""
        folders = self._folders()
        return sorted(folders, key=lambda code: (code != self.source_language, code))

    def examples(self, split: Split, language: str) -> list[Example]:
        """All sentences of one file.

        Raises:
            UserError: The language or file is missing, or a line is damaged (file and line are named).
        """
        folders = self._folders()
        if language not in folders:
            raise missing_language(self.name, language, self.languages())
        spec = load_prompts("sib200")
        labels: tuple[str, ...] = tuple(spec["labels"])
        first_line: dict[str, int] = {}
        examples = []
        for row in read_tsv(folders[language] / self.split_names[split], COLUMNS):
            index, label, text = row["index_id"], row["category"], row["text"].strip()
            if label not in labels:
                raise row.error(f"unknown category {label[:60]!r}; known: {', '.join(labels)}")
            if not text:
                raise row.error("empty text")
            if not index.strip():
                raise row.error("empty index_id")
            if index in first_line:
                raise row.error(f"index_id {index[:60]!r} again, first on line {first_line[index]}")
            first_line[index] = row.line
            examples.append(Example(index, language, render(spec["prompt"], text=text), (label,), labels))
        return sorted(examples, key=lambda example: fair_order(example.id))

    def _folders(self) -> dict[str, Path]:
        """Folder by canonical code, of the varieties that have a test file."""
        assert isinstance(self.options, Sib200Options)
        root = data_root(self.options.data) / "sib200" / "annotated"
        test = self.split_names["test"]
        folders = {
            code: root / variety.flores
            for code, variety in LANGUAGES.items()
            if variety.flores and (root / variety.flores / test).is_file()
        }
        if self.source_language not in folders:
            raise UserError(
                f"no English test file of SIB-200 under {root}: set the task's option data to the folder "
                "that holds sib200/"
            )
        return folders
