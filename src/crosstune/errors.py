"""The one kind of error a person can mend, and the nearest right name for a wrong one."""

import difflib
import re
from collections.abc import Iterable

# C0 and C1 controls, what Python takes for the end of a line, and halves of characters.
_ACTS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(Exception):
    """A mistake in what the user gave: a name, a file, a setting.

    Its text is one line that names the file and line where there is one, what was found,
    and what to do. The command line prints it without a traceback and exits with code 2.
    Characters in it that would end the line, act on a terminal or have no UTF-8 are shown as escapes.
    """

    def __init__(self, text: str) -> None:
        super().__init__(inert(text))


def inert(text: str) -> str:
    """The text with escapes for the characters that would end its line or act on a terminal."""
    return _ACTS.sub(lambda found: ascii(found[0])[1:-1], text)


class Diverged(UserError):  # noqa: N818 - what a training did, an error only where its weights are wanted
    """A training whose loss is no number any more. The same settings would do it again."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``'; did you mean "lora"?'`` for the nearest known name, or the known names when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong.lower(), names, n=1, cutoff=0.5)
    if near:
        return f'; did you mean "{near[0]}"?'
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}"
