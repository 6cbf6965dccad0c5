"""The error that a user can correct, and the nearest known name for a wrong one."""

import difflib
import re
from collections.abc import Iterable

ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that act on a terminal, end a line, reorder or hide what follows, or are only half of one.

Zero-width joiners are none of them: Persian and Indic scripts need them.
"""


class UserError(Exception):
    """A user's mistake: a name, a file, a setting.

    Its text is one line with the file and line where there is one, what was found, and what to do. The
    command line prints it without a traceback and exits with code 2. Characters that would end the line,
    control a terminal or have no UTF-8 encoding are escaped.
    """

    def __init__(self, text: str) -> None:
        super().__init__(inert(text))


def inert(text: str) -> str:
    """The text with control and formatting characters escaped."""
    return ACTS.sub(lambda match: ascii(match[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Diverged(UserError):  # noqa: N818 - what a training did, an error only where its weights are wanted
    """A training whose loss is not finite. The same settings would diverge again."""


class NotHere(UserError):  # noqa: N818 - of how a command was started, no error of a run
    """What cannot be done by the processes that were started, and could be by others."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``'; did you mean "lora"?'`` for the nearest known name, or the known names when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong.lower(), names, n=1, cutoff=0.5)
    if near:
        return f'; did you mean "{near[0]}"?'
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}"
