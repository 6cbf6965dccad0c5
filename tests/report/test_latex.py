"""LaTeX of hostile text: only known commands, balanced braces, as many cells as columns."""

import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstune.languages import LANGUAGES
from crosstune.report.tables.latex import LONG, document, escape, table
from crosstune.report.tables.tables import Column, Table

HOSTILE = [
    r"\input{/etc/passwd} \write18{rm -rf /} \end{tabular}",
    "a & b # c $ d % e _ f ^ g ~ h { i } j \\ k",
    "[1cm] * [",
    "100%\nnext",
    "Kʼicheʼ Guaraní Bokmål 日本語 \u202e -- --- `` '' \" < > | ^^5c",
    "",
]
COMMANDS = {
    *(
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
        "textendash",
    ),
    *(
        "textemdash",
        "char",
        "pm",
        "ldots",
        "cdot",
        "dag",
        "ss",
        "o",
        "O",
        "ae",
        "AE",
        "oe",
        "OE",
        "l",
        "L",
        "i",
    ),
    *("texttt", "u", "r", "H", "v", "d", "c", "k"),
}


def problems(text: str) -> list[str]:
    """What a reader of LaTeX would stumble over in a cell."""
    collected = []
    if not text.isascii():
        collected.append("not ASCII")
    depth = place = 0
    dollars = 0
    while place < len(text):
        char = text[place]
        if char == "\\":
            command = re.match(r"\\([A-Za-z]+|[{}$&#_%`'^~=.\"])", text[place:])
            if command is None:
                collected.append(f"stray backslash at {text[place : place + 5]!r}")
                place += 1
                continue
            if command[1].isalpha() and command[1] not in COMMANDS:
                collected.append(f"command {command[0]}")
            place += len(command[0])
            continue
        depth += (char == "{") - (char == "}")
        dollars += char == "$"
        if depth < 0 or char in "&#%_^" or (char in "[*" and text[place - 1 : place] != "{"):
            collected.append(f"bare {char!r}")
        place += 1
    if depth:
        collected.append("braces do not match")
    if dollars % 2:
        collected.append("odd dollars")
    return collected


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_does_nothing(text: str) -> None:
    assert problems(escape(text)) == []


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet="\\{}$&#_%~^<>|\"`[]*-'a1 ", max_size=30))
def test_any_text(text: str) -> None:
    assert problems(escape(text)) == []


def test_what_is_shown() -> None:
    assert escape("Guaraní") == r"Guaran{\'{i}}"
    assert escape("Bokmål") == r"Bokm{\r{a}}l"
    assert escape("a--b") == "a-{}-b"
    assert escape("−1.6 ±0.2 – †") == r"$-$1.6 $\pm$0.2 \textendash{} \dag{}"
    assert escape("日") == r"\texttt{U+65E5}"
    assert escape(r"\end{x}") == r"\textbackslash{}end\{x\}"
    for language in LANGUAGES.values():
        assert "U+" not in escape(language.name), language.name


def hostile_columns(title: str, rows: int, *, wide: bool = False) -> list[Column]:
    texts = [HOSTILE[i % len(HOSTILE)] for i in range(rows)]
    page = Column("page", ["x"] * rows, media=("page",))
    return [Column(title, texts, right=False, wide=wide), page, Column("n", [str(i) for i in range(rows)])]


@pytest.mark.parametrize("rows", [3, LONG + 5])
def test_tables_have_as_many_cells_as_columns(rows: int) -> None:
    tex = table(
        Table("c_1 & d", hostile_columns("A & b", rows), pl.DataFrame()),
        "x",
    )
    body = tex.split(r"\midrule")[1].split(r"\bottomrule" if rows <= LONG else r"\end{longtable}")[0]
    lines = [line for line in body.splitlines() if line.endswith(r" \\")]
    assert len(lines) == rows
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == 1
        assert not line.lstrip().startswith(("[", "*"))
    assert r"\toprule" in tex
    assert (r"\begin{longtable}{@{}lr@{}}" if rows > LONG else r"\begin{tabular}{@{}lr@{}}") in tex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_it_compiles(tmp_path: Path) -> None:
    for name, rows in (("short", 6), ("long", LONG + 9)):
        tex = table(Table(HOSTILE[1], hostile_columns("[Head] %", rows, wide=True), pl.DataFrame()), name)
        (tmp_path / f"{name}.tex").write_text(tex)
    (tmp_path / "all.tex").write_text(document(["short", "long"]))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
