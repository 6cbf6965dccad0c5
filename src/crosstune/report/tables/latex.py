"""Tables in LaTeX (booktabs), in plain ASCII: they compile in every engine, whatever their cells hold."""

import re
import unicodedata
from collections.abc import Sequence

from crosstune.files import table_beside
from crosstune.report.tables.tables import Column, Table

LONG = 40
"""Rows from which a table may break over pages (``longtable``)."""

_TABLE = table_beside(__file__, "latex.toml")
_CHARACTERS, _ACCENTS = _TABLE["characters"], _TABLE["accents"]


def escape(text: str) -> str:
    """Text as LaTeX that shows it: accents by command, and characters without one by their number."""
    shown = "".join(_shown(char) for char in unicodedata.normalize("NFC", text))
    return re.sub("-(?=-)", "-{}", shown)  # two hyphens of the text are no dash


def _shown(char: str) -> str:
    if char in _CHARACTERS:
        return str(_CHARACTERS[char])
    if " " <= char <= "~":
        return char
    if char in "\t\r\n":
        return " "
    base, *marks = list(unicodedata.normalize("NFD", char))
    if base.isascii() and base.isalpha() and marks and all(mark in _ACCENTS for mark in marks):
        letter = base
        for mark in marks:
            letter = rf"\{_ACCENTS[mark]}{{{letter}}}"
        return f"{{{letter}}}"
    return rf"\texttt{{U+{ord(char):04X}}}"


def table(shown: Table, label: str) -> str:
    """A table with booktabs rules, labelled by letters, digits and hyphens; of the columns that files have.

    Returns:
        LaTeX that needs the packages booktabs and, from `LONG` rows on, longtable.
    """
    columns = shown.shown("file")
    form = "".join("r" if column.right else "p{6cm}" if column.wide else "l" for column in columns)
    head = " & ".join(escape(column.title) for column in columns) + r" \\"
    body = [" & ".join(row) + r" \\" for row in zip(*map(_cells, columns), strict=True)]
    caption = rf"\caption{{{escape(shown.caption)}}}\label{{tab:{label}}}"
    if shown.height > LONG:
        start = [rf"\begin{{longtable}}{{@{{}}{form}@{{}}}}", caption + r" \\", r"\toprule", head]
        lines = [*start, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
    else:
        start = [r"\begin{table}", r"\centering", caption, rf"\begin{{tabular}}{{@{{}}{form}@{{}}}}"]
        end = [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        lines = [*start, r"\toprule", head, r"\midrule", *body, *end]
    return "\n".join([*lines, ""])


def _cells(column: Column) -> list[str]:
    """A column's cells, the best in bold."""
    best = column.best or [False] * len(column.cells)
    return [
        rf"\textbf{{{escape(cell)}}}" if bold else escape(cell)
        for cell, bold in zip(column.cells, best, strict=True)
    ]


def document(files: Sequence[str]) -> str:
    """A document that shows some tables, each in a file beside it."""
    return "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage[margin=1.5cm,paperwidth=60cm,paperheight=40cm]{geometry}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage{booktabs,longtable}",
            r"\begin{document}",
            *[line for file in files for line in (rf"\input{{{file}}}", r"\clearpage")],
            r"\end{document}",
            "",
        ]
    )
