"""Belebele: a passage, a question and four answers, parallel in 122 language varieties.

Bandarkar et al. 2024 (arXiv 2308.16884): 900 questions on 488 passages of FLORES-200, for testing only. It is
trained and selected on English reading sets (`crosstune.data.reading_sets`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any, ClassVar, Literal

from crosstune.config.environment import DATA
from crosstune.data.example import Example, Split, passage_key
from crosstune.data.reading_sets import SETS, Reading, checked
from crosstune.data.source import local_layouts
from crosstune.data.tables import BadRow, Row, Rows, read_rows
from crosstune.errors import UserError
from crosstune.tasks.prompts import render
from crosstune.tasks.published import PublishedOptions, PublishedTask

SetName = Literal["assembled", "race", "sciq", "multirc", "mctest", "mcscript", "reclor", "dream"]
ON_HUB: tuple[SetName, ...] = ("race", "sciq", "multirc", "mctest")
"""Of the published mixture, what the hub has: "auto" there."""


class BelebeleOptions(PublishedOptions):
    """Options of `belebele`.

    Attributes:
        evaluate_on: Belebele has a test split only.
        train_sets: Names of reading sets to train and select on, or "auto": the file that Belebele's script
            assembles where it is there, else every set in the data folder; on the hub RACE, SciQ, MultiRC and
            MCTest.
        answers: "letters": the letters of the listed options are scored; "texts": the options themselves are,
            and the prompt does not list them.
    """

    evaluate_on: Literal["test"] = "test"
    train_sets: Literal["auto"] | tuple[SetName, ...] = "auto"
    answers: Literal["letters", "texts"] = "letters"


def read_belebele(path: Path) -> Rows:
    """Rows of one language, under the released columns.

    A file grouped by passage is taken apart: ``metadata.extra.url`` is the released link, and a question's
    number its place under the passage.
    """
    for row in read_rows(path, ()):
        if isinstance(row, Row) and "items" in row.fields:
            yield from _grouped(row)
        else:
            yield row


def _grouped(row: Row) -> Iterator[Row | BadRow]:
    try:
        link = row["metadata"]["extra"]["url"]
        for number, item in enumerate(row["items"], start=1):
            right = [n for n, answer in enumerate(item["answers"], start=1) if answer["correct"]]
            options = {f"mc_answer{n}": answer["text"] for n, answer in enumerate(item["answers"], start=1)}
            fields = {"link": link, "question_number": number, "flores_passage": row["text"]}
            fields |= {
                "question": item["question"],
                "correct_answer_num": right[0] if len(right) == 1 else right,
            }
            yield Row(row.path, row.line, fields | options)
    except (KeyError, TypeError) as error:
        yield row.error(f"no passage with its questions (text, items, metadata.extra.url): {error!r}")


class Belebele(PublishedTask):
    """Reading comprehension with four answers; trained on English sets, tested in every language there is.

    Two questions of the 900 have an answer twice: with ``answers: texts`` either of the two counts.
    """

    name = "belebele"
    version = 1
    kind = "choice"
    metrics = ("accuracy",)
    summary = "reading comprehension, 4 choices (Belebele); trained on English reading sets"
    split_names: ClassVar[dict[Split, str]] = {
        "train": "train splits of the reading sets",
        "dev": "dev splits of the reading sets",
        "test": "test",
    }
    prompts = "belebele"
    layouts = local_layouts("belebele", belebele=read_belebele)
    hub: Mapping[Split, str] = {"test": "belebele"}
    Options = BelebeleOptions
    options: BelebeleOptions

    def rows(self, split: Split, language: str) -> Rows:
        """Rows of Belebele, or of all training sets together."""
        if split == "test":
            return super().rows(split, language)
        if language != self.source_language:
            raise UserError(f"task {self.name} has training data in {self.source_language} only")
        return self._training_rows(split)

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The passage, the question and the options, as letters or as texts."""
        reading = _released(row) if split == "test" else row["reading"]
        key = f"{row.text('link')}#{row['question_number']}" if split == "test" else row["id"]
        option = self.wording(language)["option"]
        letters = tuple(ascii_uppercase[: len(reading.options)])
        choices = letters if self.options.answers == "letters" else reading.options
        listed = zip(letters, reading.options, strict=True)
        options = "\n".join(render(option, letter=letter, text=text) for letter, text in listed)
        fields = {"passage": reading.passage, "question": reading.question}
        prompt = render(self.template(language), **fields, options=options)
        right, cluster = (choices[reading.answer],), passage_key(reading.passage)
        return Example(key, language, prompt, right, choices, tuple(fields.items()), cluster)

    def template(self, language: str) -> str:
        """The prompt with its places still open."""
        name = "prompt" if self.options.answers == "letters" else "prompt_texts"
        return str(self.wording(language)[name])

    def _training_rows(self, split: Split) -> Iterator[Row | BadRow]:
        for name in self._training_sets():
            rows, origin = self._on_hub(name, split) if self.on_hub else self._local(name, split)
            questions = list(SETS[name].questions(rows, split))
            if questions:
                count = sum(isinstance(question, Row) for question in questions)
                self.note_source(split, self.source_language, set=name, questions=count, **origin)
            yield from questions

    def _training_sets(self) -> tuple[str, ...]:
        """Names of the sets to train and select on; a `UserError` where a named one, or any, is missing."""
        wanted = self.options.train_sets
        if self.on_hub:
            sets = ON_HUB if wanted == "auto" else wanted
            if absent := [name for name in sets if SETS[name].hub is None]:
                raise UserError(
                    f"task {self.name}: {', '.join(absent)} cannot be fetched from the hub; put the files in "
                    f"the data folder ({SETS[absent[0]].files['train'][0]}) and set source: local"
                )
            return tuple(dict.fromkeys(sets))
        root = self.data_folder
        present = tuple(name for name, kind in SETS.items() if kind.find(root, "train") is not None)
        if wanted == "auto":
            if not present:
                patterns = " or ".join(kind.files["train"][0] for kind in SETS.values())
                raise UserError(
                    f"task {self.name} has no training set under {root}: looked for {patterns}; set "
                    f"{DATA} or the task's option data, or source: hub"
                )
            return ("assembled",) if "assembled" in present else present
        if absent := [name for name in wanted if name not in present]:
            raise UserError(
                f"task {self.name} has no {', '.join(absent)} under {root}: looked for "
                f"{' or '.join(SETS[absent[0]].files['train'])}"
            )
        return tuple(dict.fromkeys(wanted))

    def _local(self, name: str, split: Split) -> tuple[Rows, dict[str, Any]]:
        """Rows of a local set and where they come from; none of a set without a dev split."""
        pattern, paths = SETS[name].find(self.data_folder, split) or ("", [])
        return (row for path in paths for row in SETS[name].read(path)), {"files": [pattern]}

    def _on_hub(self, name: str, split: Split) -> tuple[Rows, dict[str, Any]]:
        """Rows of a set on the hub and where they come from."""
        from crosstune.data.hub import fetch_files, hub_entry

        entry = hub_entry(SETS[name].hub or name)
        files = fetch_files(entry.repo, entry.pattern(split, self.source_language), entry.revision)
        rows: Rows = (row for path in files.paths for row in read_rows(path, entry.columns))
        gather = SETS[name].gather
        return (rows if gather is None else gather(rows)), {"repo": files.repo, "commit": files.commit}


def _released(row: Row) -> Reading:
    """The question of a row with the released columns."""
    number = row.fields.get("correct_answer_num")
    if str(number) not in ("1", "2", "3", "4"):
        raise row.error(f"correct_answer_num {str(number)[:60]!r}; it must be 1, 2, 3 or 4")
    if str(row.fields.get("question_number", "")) == "":
        raise row.error("question_number is missing")
    options = [row.text(f"mc_answer{n}") for n in range(1, 5)]
    return checked(row, "flores_passage", "question", options, int(str(number)) - 1)
