"""Text from datasets and models is hostile: it is made visible, short and inert before anyone sees it."""

import json
import re
from collections.abc import Mapping
from typing import Any

import polars as pl
import polars.selectors
from babel import Locale
from markupsafe import Markup

from crosstune.analysis.groups import Grouping
from crosstune.errors import ACTS
from crosstune.languages.table import lookup

_NAMES = {"\n": "⏎", "\r": "⏎", "\t": "⇥"}
# What could end a script element, or a line of it, or is no character at all.
_ACTIVE = re.compile("[<>&\u007f-\u009f\u2028\u2029\ud800-\udfff]")


def visible(text: object, limit: int = 200) -> str:
    """The text on one line, cut after ``limit`` characters, with nothing in it that acts instead of shows.

    Line ends and tabs become arrows; other control, reordering and invisible characters become their
    code point in angle brackets; text that is cut says how long it was.
    """
    whole = str(text)
    shown = ACTS.sub(lambda match: _NAMES.get(match[0], f"⟨U+{ord(match[0]):04X}⟩"), whole[:limit])
    if len(whole) > limit:
        shown += f"… ({len(whole):,} characters)"
    return shown


def embedded_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: no character of it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_ACTIVE.sub(lambda char: f"\\u{ord(char[0]):04x}", text))


def percent(value: float | None, digits: int = 1) -> str:
    """A score in [0, 1] as text out of 100; a dash for none. Never "-0.0"."""
    if value is None:
        return "–"
    return f"{round(100 * value, digits) + 0.0:.{digits}f}"


def span(low: float, high: float) -> str:
    """An interval of scores as text out of 100."""
    return f"{percent(low)} to {percent(high)}"


def points(difference: float | None, digits: int = 1) -> str:
    """A difference of scores as signed points out of 100."""
    if difference is None:
        return "–"
    shown = round(100 * difference, digits) + 0.0
    return "0.0" if shown == 0 else f"{shown:+.{digits}f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """A p value as text: three digits, or that it is less than the least of these; a dash for none."""
    if p is None:
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


GROUPINGS: dict[Grouping, str] = {
    "family": "Family",
    "branch": "Branch",
    "script": "Script",
    "resource": "Resource class",
    "seen_script": "Seen or unseen script",
    "macroarea": "Macro-area",
}


def slug(*parts: object) -> str:
    """A file name of some parts: ASCII letters, digits and hyphens."""
    words = [
        re.sub(r"[^a-z0-9]+", "-", str(part).lower().rsplit("/", 1)[-1])[:40].strip("-") for part in parts
    ]
    return "-".join(word for word in words if word) or "table"


def language_name(code: str) -> str:
    """The language's English name, or its code where the language table lacks it, as `visible` shows it."""
    language = lookup(code)
    return visible(code if language is None else language.name, 60)


def group_name(by: Grouping, group: str) -> str:
    """How a group of `crosstune.analysis.groups.group_means` is written: scripts by name instead of code."""
    names: Mapping[str, str] = Locale("en").scripts
    known = {**names, "Hans": "Simplified Han", "Hant": "Traditional Han"}
    return known.get(group, group) if by == "script" else group


_FORMULA = re.compile(r"[=+\-@＝＋－＠](?![0-9.,]*$)")


def csv_text(table: pl.DataFrame) -> str:
    """A table as CSV whose texts neither act on a terminal nor are a formula to a spreadsheet.

    Characters that act are shown as `visible` shows them; a text that a spreadsheet would compute has an
    apostrophe in front.
    """

    def inert(text: str) -> str:
        shown = visible(text, len(text))
        return f"'{shown}" if _FORMULA.match(shown) else shown

    texts = polars.selectors.string().map_elements(inert, return_dtype=pl.String)
    return table.with_columns(texts).rename(inert).write_csv()
