"""Files in the JSON of SQuAD v1.1 (Rajpurkar et al. 2016), question by question.

A file is ``{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers":
[{"text", "answer_start"}]}]}]}]}``. XQuAD, MLQA and TyDi QA's gold passages are published in the same form.
"""

import json
import re
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

from crosstune.data.tables import BadRow, Row, changed, read_json
from crosstune.errors import UserError
from crosstune.files import read_text

# Inside a text every quotation mark is escaped, so this finds keys alone.
_ID = re.compile(r'"id"\s*:\s*("(?:[^"\\]|\\.)*")')


def read_squad(path: Path) -> list[Row | BadRow]:
    """The questions of a file, in order.

    Returns:
        Rows with ``id``, ``title``, ``context``, ``question`` and ``answers`` as published (None where
        missing). A row's line is that of its id. What is broken above a question is a `BadRow` on the line
        of the question before it.

    Raises:
        UserError: It cannot be read, is not SQuAD JSON, holds no question, or holds no answer to any.
    """
    document = read_json(path)
    articles = _list(document, "data")
    if articles is None:
        raise UserError(f'{path}: not SQuAD JSON: no list "data" at its top')
    lines = _lines_of_ids(path)
    rows: list[Row | BadRow] = []
    line = 1
    for a, article in enumerate(articles, start=1):
        paragraphs = _list(article, "paragraphs")
        if paragraphs is None:
            rows.append(BadRow(f'{path}:{line}: article {a} has no list "paragraphs"'))
            continue
        for p, paragraph in enumerate(paragraphs, start=1):
            questions = _list(paragraph, "qas")
            if questions is None:
                rows.append(BadRow(f'{path}:{line}: paragraph {p} of article {a} has no list "qas"'))
                continue
            for question in questions:
                if not isinstance(question, dict):
                    rows.append(BadRow(f"{path}:{line}: article {a}, paragraph {p}: a question is no object"))
                    continue
                key = question.get("id")
                if isinstance(key, str) and lines[key]:
                    line = lines[key].popleft()
                fields = {"id": key, "title": article.get("title"), "context": paragraph.get("context")}
                fields |= {name: question.get(name) for name in ("question", "answers")}
                rows.append(Row(path, line, fields))
    if not rows:
        raise UserError(f"{path}: it holds no question")
    if all(isinstance(row, Row) and _unanswered(row) for row in rows):
        raise UserError(
            f"{path}: no question in it has an answer: this copy was published without them (XTREME blanks "
            "the answers of its test sets); put the dataset's original file in its place"
        )
    return rows


def read_renumbered(path: Path) -> list[Row | BadRow]:
    """The questions of a file whose ids repeat, each under its number in the file.

    XTREME's TyDi QA training files keep only the last piece of each id: 89 ids for 3,696 English questions.
    """
    rows = enumerate(read_squad(path), start=1)
    return [row if isinstance(row, BadRow) else row.with_fields(id=str(number)) for number, row in rows]


def read_by_language(path: Path) -> list[Row | BadRow]:
    """The questions of a file of many languages, with the ``language`` that each id starts with.

    TyDi QA's ids have the form "english-12345-0".
    """
    rows = read_squad(path)
    return list(changed(rows, lambda row: row.with_fields(language=str(row["id"]).partition("-")[0])))


READERS = {"squad": read_squad, "squad_renumbered": read_renumbered, "squad_by_language": read_by_language}
"""By the names of ``local_datasets.toml``."""


def _list(holder: object, key: str) -> list[Any] | None:
    value = holder.get(key) if isinstance(holder, dict) else None
    return value if isinstance(value, list) else None


def _unanswered(row: Row) -> bool:
    answers = row["answers"]
    return isinstance(answers, list) and all(isinstance(a, dict) and a.get("text") == "" for a in answers)


def _lines_of_ids(path: Path) -> defaultdict[str, deque[int]]:
    """The lines on which each id stands, in order. A JSON reader does not tell."""
    # Line ends as they are: those of old Macs and Unicode's own are no new line to an editor.
    text = read_text(path)
    lines: defaultdict[str, deque[int]] = defaultdict(deque)
    line, at = 1, 0
    for match in _ID.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        lines[json.loads(match[1])].append(line)
    return lines
