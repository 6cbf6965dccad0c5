"""English multiple-choice reading sets that Belebele is trained on, in their published layouts.

Belebele (Bandarkar et al. 2024, arXiv 2308.16884) is a test set only; its authors assemble 67.5k training
questions from RACE, SciQ, MultiRC, MCTest, MCScript2.0 and ReClor. `SETS` reads the file that their script
writes, each of the six, and DREAM. Like their script it leaves out fill-in-the-blank questions, questions
without a passage and those without exactly one right answer, but it drops no passage for its length; all
options are kept, in the published order where there is one.
"""

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from string import ascii_uppercase
from typing import Any
from xml.parsers import expat

from crosstune.data.example import Split, fair_order
from crosstune.data.source import local_layouts
from crosstune.data.tables import BadRow, Row, Rows, read_json, read_lines, read_rows
from crosstune.errors import UserError
from crosstune.files import read_bytes, read_text


@dataclass(frozen=True, slots=True)
class Reading:
    """One question on a passage."""

    passage: str  # line breaks as published
    question: str  # without a number or mark before it
    options: tuple[str, ...]  # at least two
    answer: int  # index of the right one


@dataclass(frozen=True)
class ReadingSet:
    """Where a set's files are and how they are read."""

    name: str  # of the set, and its entry in ``local_datasets.toml``
    read: Callable[[Path], Rows]  # rows of one file, one a question
    # The question of a row, or None where it is left out. Raises `BadRow`.
    make: Callable[[Row], Reading | None]
    # Entry of ``hub_datasets.toml``, with rows that `make` takes once `gather` has seen them.
    hub: str | None = None
    gather: Callable[[Rows], Rows] | None = None  # where the hub spreads a question over several rows

    @property
    def files(self) -> Mapping[Split, tuple[str, ...]]:
        """Patterns below the data folder by split; the first that matches anything is taken."""
        layouts = local_layouts(self.name)
        return {split: tuple(layout.files for layout in some) for split, some in layouts.items()}

    def find(self, root: Path, split: Split) -> tuple[str, list[Path]] | None:
        """The pattern that matches and its files in order of their names; None where there are none."""
        for pattern in self.files[split]:
            if paths := sorted(root.glob(pattern)):
                return pattern, paths
        return None

    def questions(self, rows: Rows, split: Split) -> Rows:
        """Rows with ``id`` (set and running number) and ``reading``, without the questions left out."""
        for number, row in enumerate(rows, start=1):
            if isinstance(row, BadRow):
                yield row
                continue
            if row.fields.get("split", split) != split:  # a file of several splits names it in each row
                continue
            try:
                reading = self.make(row)
            except BadRow as bad:
                yield bad
                continue
            if reading is not None:
                yield Row(row.path, row.line, {"id": f"{self.name}/{number}", "reading": reading})


def checked(row: Row, passage: str, question: str, options: object, answer: int) -> Reading:
    """A question from the columns ``passage`` and ``question`` of a row, its options checked.

    Raises:
        BadRow: A text is missing or empty, there is no letter for each of the options, or none is right.
    """
    if not isinstance(options, list | tuple) or not 2 <= len(options) <= len(ascii_uppercase):
        raise row.error(f"options {str(options)[:60]!r}; they must be a list of 2 to 26 texts")
    if bad := [option for option in options if not isinstance(option, str) or not option.strip()]:
        raise row.error(f"option {str(bad[0])[:60]!r} is no text or empty")
    if not 0 <= answer < len(options):
        raise row.error(f"answer number {answer + 1} of {len(options)} options")
    texts = tuple(option.strip() for option in options)
    return Reading(row.text(passage), row.text(question), texts, answer)


def _letter(row: Row) -> int:
    """The index an answer letter stands for."""
    letter = row.fields.get("answer")
    if not isinstance(letter, str) or len(letter) != 1 or letter not in ascii_uppercase:
        raise row.error(f"answer {str(letter)[:60]!r}; it must be a letter: A, B, ...")
    return ascii_uppercase.index(letter)


# --- the file that Belebele's script assembles ----------------------------------------------


def _read_assembled(path: Path) -> Rows:
    """Tab-separated and quoted as CSV is; passages run over several lines."""
    text = re.sub(r"\r(?!\n)", " ", read_text(path))  # as the csv module writes it
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(f"{path}:{line}: not a quoted table: {error}")
            continue
        if names is None:
            names = fields
            if missing := {"split", "passage", "question", "answer1", "correct_answer_num"} - set(names):
                raise UserError(f"{path}:1: no column {', '.join(sorted(missing))}; it has {names}"[:300])
        elif len(fields) != len(names):
            yield BadRow(f"{path}:{line}: {len(fields)} fields where {len(names)} were expected")
        else:
            yield Row(path, line, dict(zip(names, fields, strict=True)))


def _assembled(row: Row) -> Reading:
    number = row.text("correct_answer_num").removesuffix(".0")
    if not number.isdecimal():
        raise row.error(f"correct_answer_num {number[:60]!r}; it must be 1 to 4")
    options = [row.fields.get(f"answer{n}") for n in range(1, 5)]
    return checked(row, "passage", "question", options, int(number) - 1)


# --- RACE: one JSON document a passage ------------------------------------------------------


def _read_race(path: Path) -> Rows:
    document = read_json(path)
    try:
        columns = ("questions", "options", "answers")
        for question, options, answer in zip(*(document[column] for column in columns), strict=True):
            fields = {"article": document["article"], "question": question}
            yield Row(path, 1, fields | {"options": options, "answer": answer})
    except (KeyError, TypeError, ValueError) as error:
        yield BadRow(f"{path}:1: no passage of RACE (article, questions, options, answers): {error}")


def _race(row: Row) -> Reading | None:
    if "_" in row.text("question"):
        return None
    return checked(row, "article", "question", row.fields.get("options"), _letter(row))


# --- SciQ: a JSON list; the right answer and the wrong ones in columns of their own ---------


def _sciq(row: Row) -> Reading | None:
    question, support = row.text("question"), row.fields.get("support")
    if "_" in question or not str(support or "").strip():
        return None
    columns = ("correct_answer", "distractor1", "distractor2", "distractor3")
    # Published with the right answer apart: any order that knows nothing of it will do.
    options = sorted((row.text(column) for column in columns), key=lambda o: fair_order(f"{question}\n{o}"))
    return checked(row, "support", "question", options, options.index(row.text("correct_answer")))


# --- MultiRC: any number of right answers; v2 files, SuperGLUE's lines, the hub's -----------


def _read_multirc(path: Path) -> Rows:
    rows = _objects(path, "data") if path.suffix == ".json" else read_rows(path, ("passage",))
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            part = row.fields.get("passage") or row["paragraph"]
            passage = html.unescape(re.sub(r"<b>Sent \d+: </b>|<br>", " ", part["text"]))
            for question in part["questions"]:
                answers = question["answers"]
                fields = {"paragraph": " ".join(passage.split()), "question": question["question"]}
                fields["answers"] = [answer["text"] for answer in answers]
                fields["right"] = [bool(a["isAnswer"] if "isAnswer" in a else a["label"]) for a in answers]
                yield Row(path, row.line, fields)
        except (KeyError, TypeError) as error:
            yield row.error(f"no passage of MultiRC: {error!r}")


def _gather_multirc(rows: Rows) -> Rows:
    """The hub's rows, one an answer, put together by question; those of a question follow each other."""
    rows = list(rows)
    yield from (row for row in rows if isinstance(row, BadRow))
    whole = (row for row in rows if isinstance(row, Row))
    for _, group in groupby(whole, key=lambda row: (row["idx"]["paragraph"], row["idx"]["question"])):
        answers = list(group)
        fields = dict(answers[0].fields)
        fields["answers"] = [answer["answer"] for answer in answers]
        fields["right"] = [answer["label"] == 1 for answer in answers]
        yield Row(answers[0].path, answers[0].line, fields)


def _multirc(row: Row) -> Reading | None:
    if sum(row["right"]) != 1 or len(row["answers"]) < 2:
        return None
    return checked(row, "paragraph", "question", row["answers"], row["right"].index(True))


# --- MCTest: a table of stories without quoting, and a table of answer letters --------------


def _read_mctest(path: Path) -> Rows:
    stories, letters = read_lines(path), read_lines(path.with_suffix(".ans"))
    if len(stories) != len(letters):
        raise UserError(f"{path}: {len(stories)} stories, but {len(letters)} lines in {path.stem}.ans")
    for line, (story, answers) in enumerate(zip(stories, letters, strict=True), start=1):
        if isinstance(story, BadRow):
            yield story
        elif isinstance(answers, BadRow):
            yield answers
        else:
            yield from _story(path, line, story.split("\t"), answers.split("\t"))


def _story(path: Path, line: int, fields: list[str], answers: list[str]) -> Rows:
    if len(fields) != 23 or len(answers) != 4:
        yield BadRow(f"{path}:{line}: {len(fields)} fields and {len(answers)} answers, not 23 and 4")
        return
    text = fields[2].replace("\\newline", "\n").replace("\\tab", "\t")
    for answer, at in zip(answers, range(3, 23, 5), strict=True):
        options = dict(zip("ABCD", fields[at + 1 : at + 5], strict=True))
        values = {"story": text, "question": fields[at], "answer_options": options, "answer": answer}
        yield Row(path, line, values)


def _mctest(row: Row) -> Reading:
    options = row.fields.get("answer_options")
    # "one:" and "multiple:" say how many sentences of the story are needed.
    question = re.sub(r"^(one|multiple): *", "", row.text("question"))
    row = row.with_fields(question=question)
    texts = list(options.values()) if isinstance(options, dict) else None
    return checked(row, "story", "question", texts, _letter(row))


# --- MCScript2.0: XML -----------------------------------------------------------------------


def _read_mcscript(path: Path) -> Rows:
    """Read with expat, which knows the line of each question; entities of one's own are refused."""
    rows: list[Row] = []
    texts: list[str] = []
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "text":
            texts.clear()
        elif tag == "question":  # between a passage and its questions there is only white space
            fields: dict[str, Any] = {"passage": "".join(texts), "question": attributes.get("text")}
            rows.append(Row(path, parser.CurrentLineNumber, fields | {"options": [], "right": []}))
        elif tag == "answer" and rows:
            rows[-1]["options"].append(attributes.get("text"))
            rows[-1]["right"].append(attributes.get("correct") == "True")

    def refuse(*_: object) -> None:
        raise UserError(f"{path}:{parser.CurrentLineNumber}: an entity declaration; MCScript has none")

    parser.StartElementHandler = start
    parser.CharacterDataHandler = texts.append
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(read_bytes(path), True)
    except expat.ExpatError as error:
        raise UserError(f"{path}:{error.lineno}: not XML: {expat.ErrorString(error.code)}") from error
    return rows


def _mcscript(row: Row) -> Reading:
    if sum(row["right"]) != 1:
        raise row.error(f"{sum(row['right'])} answers marked correct; there must be one")
    return checked(row, "passage", "question", row["options"], row["right"].index(True))


# --- ReClor and DREAM: JSON lists -----------------------------------------------------------


def _reclor(row: Row) -> Reading:
    label = row.fields.get("label")
    if not isinstance(label, int):
        raise row.error(f"label {str(label)[:60]!r}; it must be the number of the right answer, from 0")
    return checked(row, "context", "question", row.fields.get("answers"), label)


def _read_dream(path: Path) -> Rows:
    for line, item in _items(path):
        try:
            dialogue, questions, _ = item
            for question in questions:
                yield Row(path, line, {"dialogue": dialogue, **question})
        except (TypeError, ValueError) as error:
            yield BadRow(f"{path}:{line}: no dialogue of DREAM (turns, questions, id): {error}")


def _dream(row: Row) -> Reading:
    turns, options = row.fields.get("dialogue"), row.fields.get("choice")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise row.error("dialogue is no list of texts")
    answer = row.fields.get("answer")
    if not isinstance(options, list) or answer not in options:
        raise row.error(f"answer {str(answer)[:60]!r} is none of the options {str(options)[:80]}")
    row = row.with_fields(dialogue="\n".join(turns))
    return checked(row, "dialogue", "question", options, options.index(answer))


# --- JSON with lines ------------------------------------------------------------------------


def _items(path: Path, key: str | None = None) -> Iterator[tuple[int, Any]]:
    """Items of a list, each with the line it starts on: the whole document, or its member ``key``."""
    document = read_json(path)
    if key is not None:
        document = document.get(key) if isinstance(document, dict) else None
    if not isinstance(document, list):
        raise UserError(f"{path}:1: no list{f' {key}' if key else ''}; is it the published file?")
    text = read_text(path)
    at = text.index("[", text.index(f'"{key}"') if key else 0)
    line, done = 1, 0
    for item in document:
        start = at + 1
        while text[start] in " \t\r\n,":
            start += 1
        line += text.count("\n", done, start)
        done = start
        yield line, item
        at = json.JSONDecoder().raw_decode(text, start)[1] - 1


def _objects(path: Path, key: str | None = None) -> Rows:
    for line, item in _items(path, key):
        yield Row(path, line, item) if isinstance(item, dict) else BadRow(f"{path}:{line}: not an object")


SETS: dict[str, ReadingSet] = {
    "assembled": ReadingSet("assembled", _read_assembled, _assembled),
    "race": ReadingSet("race", _read_race, _race, "race"),
    "sciq": ReadingSet("sciq", _objects, _sciq, "sciq"),
    "multirc": ReadingSet("multirc", _read_multirc, _multirc, "multirc", _gather_multirc),
    "mctest": ReadingSet("mctest", _read_mctest, _mctest, "mctest"),
    "mcscript": ReadingSet("mcscript", _read_mcscript, _mcscript),
    "reclor": ReadingSet("reclor", _objects, _reclor),
    "dream": ReadingSet("dream", _read_dream, _dream, "dream"),
}
"""In the order in which "auto" takes them."""
